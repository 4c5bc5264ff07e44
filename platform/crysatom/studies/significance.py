"""p-values by relabeling, and their correction for multiple tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ALPHA = 0.05
"""Significance level: of a single test, or of all tests together after Holm's correction."""

TIE = 1e-9
"""Relative tolerance for equal numbers, which may differ by rounding."""


def relabelings(count: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Return ``(draws, count)`` random orders of ``count`` elements, each equally likely."""
    orders = np.tile(np.arange(count), (draws, 1))
    return np.random.default_rng(seed).permuted(orders, axis=1)


def p_above(observed: float, null: Array) -> float:
    """Return the share of ``(draws,)`` values that reach the observed one, which counts as a draw itself.

    The result is never 0, and valid for any number of draws: Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 39
    (2010).
    """
    return float((1 + np.count_nonzero(null >= observed - TIE * abs(observed))) / (1 + len(null)))


def holm(p_values: Array) -> Array:
    """Return ``(n,)`` p-values adjusted for n tests: Holm, Scand. J. Stat. 6, 65 (1979).

    The k-th smallest is multiplied by n - k + 1, and is at least as large as the one before it. If those at or below a
    level are called significant, the probability of any false positive is at most that level, for dependent tests too.
    """
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values), dtype=np.float64)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
