"""Learning rate as a function of the step, so that resuming needs no more than the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crysatom.names import Schedule

WARMUP = 0.05
"""Share of all steps over which the rate rises, with the cosine schedule."""

STEP_FACTOR = 0.1
"""Of the rate, at each milestone."""

RISE = 0.3
"""Share of all steps over which the rate rises, with the one-cycle schedule."""

LINEAR_END = 1 / 50
"""Of the largest rate: what the linear schedule ends at; that of coGN's recipe, 5e-4 to 1e-5."""

FIRST, LAST = 1 / 25, 1 / 250_000
"""Of the largest rate: where the one-cycle schedule starts, and what it ends at."""


def learning_rate(  # noqa: PLR0911 - one for each schedule
    peak: float, step: int, total: int, schedule: Schedule, milestones: Sequence[int] = ()
) -> float:
    """Return the rate of a step.

    Args:
        peak: Largest rate.
        step: 0 .. total - 1.
        total: Steps of the whole run.
        schedule: 'constant'; 'cosine' rises linearly, then follows half a cosine to zero
            (Loshchilov & Hutter, ICLR 2017); 'step' falls to a tenth at each milestone; 'linear' falls along a
            straight line; 'one_cycle' follows half a
            cosine up and another down to next to nothing (Smith & Topin, arXiv 1708.07120, with the proportions of
            torch's scheduler; the momentum stays).
        milestones: Steps from which 'step' has a lower rate.

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
    """Return the point of half a cosine from ``start`` to ``end``."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
