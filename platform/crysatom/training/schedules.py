"""Learning rate as a function of the step, so that resuming needs no more than the step."""

from __future__ import annotations

import math
from typing import Literal

WARMUP = 0.05
"""Share of all steps over which the rate rises, with a schedule that decays."""


def learning_rate(peak: float, step: int, total: int, schedule: Literal["cosine", "constant"]) -> float:
    """Return the rate of a step.

    Args:
        peak: Largest rate.
        step: 0 .. total - 1.
        total: Steps of the whole run.
        schedule: 'constant'; 'cosine' rises linearly, then follows half a cosine to zero
            (Loshchilov & Hutter, ICLR 2017).

    """
    if schedule == "constant":
        return peak
    warmup = max(1, round(WARMUP * total))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
