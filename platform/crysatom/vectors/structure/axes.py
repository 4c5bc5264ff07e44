"""Columns of equal weight, and principal axes of rows; numpy only, since training uses them too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-6
"""Dimensions of a smaller singular value, relative to the largest, are dropped."""

Array = NDArray[Any]


def balanced(columns: Array) -> Array:
    """Return centered columns, scaled so that the mean of the squared lengths of the rows is 1."""
    centered = columns - columns.mean(axis=0)
    mean_square = np.square(centered).sum(axis=1).mean()
    return np.asarray(centered / np.sqrt(mean_square) if mean_square > 0 else centered)


def principal_axes(columns: Array) -> Array:
    """Return U s of the singular value decomposition, the same rows on other axes, largest singular value first.

    The sign of a component makes its value of largest magnitude positive.
    """
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    kept = size > SMALLEST * size.max(initial=0)
    vectors = left[:, kept] * size[kept]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return np.asarray(vectors * np.where(largest < 0, -1, 1))
