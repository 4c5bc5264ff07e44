"""The first losses of a small run equal the golden ones; see tests/golden/pretrain_losses.py to update them.

Relative tolerance 1e-8: float64 with sums in another order, amplified by 20 steps of AdamW; a changed formula,
mask, batch order or initial weight gives 1e-3 and more.
"""

from __future__ import annotations

import pytest

from tests.golden import pretrain_losses
from tests.small_runs import one_thread  # noqa: F401


def test_losses_are_the_golden_ones() -> None:
    kept, now = pretrain_losses.read(), pretrain_losses.losses()
    assert len(kept) == len(now) == pretrain_losses.STEPS
    for step, (old, new) in enumerate(zip(kept, now, strict=True)):
        assert new == pytest.approx(old, rel=1e-8), f"step {step}"
    assert kept[-1][0] < 0.9 * kept[0][0]
