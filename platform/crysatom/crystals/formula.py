"""Reduced chemical formulas."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
from pymatgen.core import Composition

from crysatom.names import SYMBOLS


def reduced_formula(atomic_numbers: np.ndarray) -> str:
    """Return the reduced formula of ``(N,)`` atomic numbers, elements in order of electronegativity, as in SiO2."""
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    return _of_counts(tuple(numbers.tolist()), tuple(counts.tolist()))


@lru_cache(maxsize=100_000)
def _of_counts(numbers: tuple[int, ...], counts: tuple[int, ...]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases have no electronegativity to sort by
        return str(
            Composition({SYMBOLS[z - 1]: count for z, count in zip(numbers, counts, strict=True)}).reduced_formula
        )
