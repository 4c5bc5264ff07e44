"""Learning rate as a function of the step, so that resuming needs only the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crysatom.names import Schedule

WARMUP = 0.05
"""Share of all steps over which the rate rises in the cosine schedule."""

STEP_FACTOR = 0.1
"""Factor of the rate at each milestone."""

RISE = 0.3
"""Share of all steps over which the rate rises in the one-cycle schedule."""

LINEAR_END = 1 / 50
"""Final rate of the linear schedule relative to the peak, as in coGN's recipe (5e-4 to 1e-5)."""

FIRST, LAST = 1 / 25, 1 / 250_000
"""First and last rate of the one-cycle schedule, relative to the peak."""


def learning_rate(  # noqa: PLR0911 - one for each schedule
    peak: float, step: int, total: int, schedule: Schedule, milestones: Sequence[int] = ()
) -> float:
    """Return the learning rate of a step.

    Args:
        peak: Largest rate.
        step: 0 to total - 1.
        total: Steps of the whole run.
        schedule: 'constant'; 'cosine' rises linearly, then follows half a cosine to zero (Loshchilov & Hutter, ICLR
            2017); 'step' falls to a tenth at each milestone; 'linear' falls along a straight line; 'one_cycle' follows
            half a cosine up and another down to almost zero (Smith & Topin, arXiv 1708.07120, with the proportions of
            torch's scheduler; the momentum is constant).
        milestones: Steps from which 'step' lowers the rate.
    """
    if schedule == "constant":
        return peak
    if schedule == "step":
        return float(peak * STEP_FACTOR ** sum(step >= milestone for milestone in milestones))
    if schedule == "linear":
        return peak + peak * (LINEAR_END - 1) * step / total
    if schedule == "one_cycle":
        rise = RISE * total
        if step < rise:
            return _between(peak * FIRST, peak, step / rise)
        return _between(peak, peak * LAST, (step - rise) / (total - rise))
    warmup = max(1, round(WARMUP * total))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _between(start: float, end: float, share: float) -> float:
    """Return the point at ``share`` of half a cosine from ``start`` to ``end``."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
