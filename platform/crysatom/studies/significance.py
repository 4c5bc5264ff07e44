"""How surprising a number is if nothing but chance were behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ALPHA = 0.05
"""Probability of a verdict where there is no effect: of each, or of any of many (corrected)."""

TIE = 1e-9
"""Numbers closer than this, in units of the larger, count as equal: they differ by rounding."""


def relabelings(count: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Return ``(draws, count)`` random orders of ``count`` elements, each equally likely."""
    orders = np.tile(np.arange(count), (draws, 1))
    return np.random.default_rng(seed).permuted(orders, axis=1)


def p_above(observed: float, null: Array) -> float:
    """Return the share of ``(draws,)`` that reach the observed value, which counts as one more draw.

    Never 0, and valid whatever the number of draws: Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 39 (2010).
    """
    return float((1 + np.count_nonzero(null >= observed - TIE * abs(observed))) / (1 + len(null)))


def holm(p_values: Array) -> Array:
    """Return ``(n,)`` p-values adjusted for being n: Holm, Scand. J. Stat. 6, 65 (1979).

    The k-th least is multiplied by n - k + 1, and none is less than one before it. Those at or below a level may be
    called significant: the chance of any false one among them is at most that level, however they depend on each other.
    """
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values), dtype=np.float64)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
