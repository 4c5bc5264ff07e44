"""Bring tables to one scale, so that a comparison of tables compares what they know and not how large they are.

A predictor starts with Linear(D -> 64) with a bias, whose weights PyTorch draws from U(-1/sqrt(D), 1/sqrt(D)): the
output for a vector v has variance |v|^2 / (3 D) over the draws. Unit vectors of 200 dimensions thus start 14
times smaller than standard normal ones, and at one learning rate learn at another speed. Shift and factor are
no information, since the layer can undo both; they are therefore made equal for all tables.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysatom.names import VECTOR_SCALES, VectorScale
from crysatom.vectors.table import AtomVectors

NEGLIGIBLE = 1e-6
"""A standard deviation below this part of the largest component is rounding of float32 (6e-8), not spread."""


def scaled(table: AtomVectors, how: VectorScale, elements: ArrayLike | None = None) -> AtomVectors:
    """Return a table with mean 0 and mean |v|^2 / D = 1 over the elements of the data, each counted once.

    Args:
        table: M elements, D dimensions.
        how: ``none``: the table as it is. ``rms``: subtract the mean vector and divide by one number, which
            keeps all angles and ratios of distances between elements. ``standardize``: first divide each
            column by its standard deviation, for tables whose columns have units of their own (Magpie);
            a column that does not vary becomes 0.
        elements: Atomic numbers, any shape, repeats allowed, over which means are taken: those of the
            training data. None: those of the table.

    Returns:
        The scaled table with all M elements, standard errors divided likewise, ``scale`` in its provenance.

    Raises:
        ValueError: If ``how`` is unknown, an element of the data has no vector, or all have the same one.

    """
    if how not in VECTOR_SCALES:
        raise ValueError(f"unknown scale {how!r} of vectors; choose among {', '.join(VECTOR_SCALES)}")
    if how == "none":
        return table
    numbers = table.atomic_numbers if elements is None else np.unique(np.asarray(elements, dtype=np.int64))
    rows = table.lookup(numbers).astype(np.float64)
    center = rows.mean(axis=0)
    divisor = column_spread(rows) if how == "standardize" else np.ones(table.dim)
    rms = np.sqrt(np.mean(((rows - center) / divisor) ** 2))
    if rms <= NEGLIGIBLE * np.abs(rows).max():
        raise ValueError(f"cannot scale vectors that are equal for all of the {len(numbers)} elements in the data")
    divisor = divisor * rms
    return dataclasses.replace(
        table,
        vectors=((table.vectors - center) / divisor).astype(np.float32),
        standard_errors=None if table.standard_errors is None else (table.standard_errors / divisor).astype(np.float32),
        provenance={**table.provenance, "scale": {"how": how, "elements": len(numbers)}},
    )


def column_spread(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the standard deviation ``(D,)`` of each column, infinite where the column does not vary."""
    spread = rows.std(axis=0, dtype=np.float64)
    return np.where(spread > NEGLIGIBLE * np.abs(rows).max(axis=0), spread, np.inf)
