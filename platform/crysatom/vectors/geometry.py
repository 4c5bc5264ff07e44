"""Geometry of a table of vectors: distances between elements, principal components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysatom.names import Distance
from crysatom.vectors.table import centered_cosine


def distances(vectors: NDArray[np.floating], kind: Distance) -> NDArray[np.float64]:
    """Return ``(M, M)`` distances between the rows of ``(M, D)`` vectors; the diagonal is exactly 0.

    Args:
        vectors: A table's rows.
        kind: ``cosine``: one minus the cosine similarity of rows minus their mean; or ``euclidean``.

    """
    if kind == "cosine":
        found = 1 - centered_cosine(vectors)
    else:
        rows = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
        squares = np.square(rows).sum(axis=1)
        found = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0.0))
    found = (found + found.T) / 2
    np.fill_diagonal(found, 0.0)
    return np.asarray(found)


def principal_components(vectors: NDArray[np.floating], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(M, count)`` scores on the leading principal components and the fractions of variance explained.

    Computed by singular value decomposition of the centered rows. The decomposition does not determine the sign of a
    component; it is chosen so that the largest loading is positive.
    """
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    u, s, vt = np.linalg.svd(centered, full_matrices=False)
    largest = np.argmax(np.abs(vt), axis=1)
    sign = np.where(vt[np.arange(len(vt)), largest] < 0, -1.0, 1.0)
    variance = s**2 / max(float((s**2).sum()), np.finfo(float).tiny)
    return (u * s * sign)[:, :count], variance[:count]
