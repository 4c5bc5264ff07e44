"""Skewness of a cell, and a compact cell of the same lattice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SKEWED = 20.0
"""Skewness above which searching a compact cell is faster than searching the given cell."""

Array = NDArray[Any]


def skewness(lattices: Array) -> Array:
    """Return ``(B,)`` ratios |a||b||c| / V of ``(B, 3, 3)`` lattices; 1 for orthogonal cells."""
    lengths: Array = np.linalg.norm(lattices, axis=-1).prod(axis=-1)
    volumes = np.abs(np.linalg.det(lattices))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: Array = lengths / volumes
    return ratios


def reduce_lattice(lattice: Array) -> Array:
    """Return an integer matrix T of determinant 1 such that the rows of ``T @ lattice`` are short.

    Each row is shortened by multiples of the others until none gets shorter (pairwise reduction, the
    generalization of Gauss's algorithm to three vectors; Semaev, CaLC 2001, doi:10.1007/3-540-44670-2_13).

    Args:
        lattice: ``(3, 3)``, rows a, b, c.

    """
    transform = np.eye(3)
    rows = lattice.copy()
    shortened = True
    while shortened:
        shortened = False
        for i, j in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)):
            multiple = np.rint(rows[i] @ rows[j] / (rows[j] @ rows[j]))
            candidate = rows[i] - multiple * rows[j]
            if candidate @ candidate < (1 - 1e-9) * (rows[i] @ rows[i]):
                rows[i], shortened = candidate, True
                transform[i] -= multiple * transform[j]
    return transform.astype(np.int64)
