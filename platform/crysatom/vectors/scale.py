"""Scale tables alike, so that a comparison of tables compares their information and not their magnitude.

A predictor starts with Linear(D -> 64) with a bias. PyTorch draws its weights from U(-1/sqrt(D), 1/sqrt(D)), so the
output for a vector v has variance |v|^2 / (3 D) over the draws. Unit vectors of 200 dimensions thus start 14 times
smaller than standard normal ones, and learn at another speed with the same learning rate. Shift and factor carry no
information, since the layer can undo both; they are therefore made equal for all tables.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysatom.names import VECTOR_SCALES, VectorScale
from crysatom.vectors.table import AtomVectors

NEGLIGIBLE = 1e-6
"""A standard deviation below this fraction of the largest component is float32 rounding (6e-8), not spread."""


def scaled(table: AtomVectors, how: VectorScale, elements: ArrayLike | None = None) -> AtomVectors:
    """Return a table with mean 0 and mean |v|^2 / D = 1 over the elements of the data, each counted once.

    Args:
        table: M elements, D dimensions.
        how: ``none``: the unchanged table. ``rms``: subtract the mean vector and divide by one number, which keeps all
            angles and ratios of distances between elements. ``standardize``: first divide each column by its standard
            deviation, for tables whose columns have different units (Magpie); a constant column becomes 0.
        elements: Atomic numbers of the training data, over which means are taken; any shape, repeats allowed. None:
            those of the table.

    Returns:
        The scaled table with all M elements and scaled standard errors; its provenance has ``scale``.

    Raises:
        ValueError: If ``how`` is unknown, an element of the data has no vector, or all vectors are equal.

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
    """Return the standard deviation of each column, ``(D,)``, infinite for a constant column."""
    spread = rows.std(axis=0, dtype=np.float64)
    return np.where(spread > NEGLIGIBLE * np.abs(rows).max(axis=0), spread, np.inf)
