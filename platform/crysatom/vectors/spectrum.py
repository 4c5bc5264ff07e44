"""Change the spectrum of a table: how much its vectors differ along each of their principal directions.

A predictor starts with a linear layer, so a frozen table x acts through the products x x^T of its vectors: directions
with large singular values are learned first, those with small ones late or never. A power of the singular values makes
the spectrum steeper or flatter, and keeps the directions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysatom.names import VectorScale
from crysatom.vectors.scale import NEGLIGIBLE, scaled
from crysatom.vectors.table import AtomVectors

SPECTRUM = "spectrum"
"""Key of a table's provenance: the power, and the number of elements that define the spectrum."""


def with_spectrum(table: AtomVectors, power: float, elements: ArrayLike | None = None) -> AtomVectors:
    """Return x V diag((s / s_1)^-power) V^T for centered vectors x = U diag(s) V^T.

    Component k is multiplied by s_k^-power: power 1 whitens (ZCA: Kessy, Lewin, Strimmer, Am. Stat. 72, 309 (2018)),
    0 changes nothing but the mean, -1 multiplies by s_k. The word vectors U diag(s)^p of Levy, Goldberg, Dagan (TACL 3,
    211 (2015)) have p = 1 - power. The map is the power -power / 2 of the covariance matrix: it does not depend on the
    signs, the order or the choice of singular vectors, and it commutes with rotations of the columns.

    Args:
        table: M elements, D dimensions.
        power: Finite number.
        elements: Atomic numbers of the elements that define mean and singular values; any shape, repeats allowed.
            None: those of the table. So the vectors of a table do not depend on the crystals that happen to be drawn
            for training; elements that were added to it by prediction are to be left out here.

    Returns:
        The table with all M elements and provenance ``spectrum``. Negligible components become 0 unless ``power`` is 0.
        Standard errors are those of components with independent errors.

    Raises:
        ValueError: If the power is not finite, an element has no vector, all vectors are equal, or components become
            infinite.

    """
    if not np.isfinite(power):
        raise ValueError(f"the power of a spectrum must be finite, got {power}")
    numbers = table.atomic_numbers if elements is None else np.unique(np.asarray(elements, dtype=np.int64))
    rows = table.lookup(numbers).astype(np.float64)
    center = rows.mean(axis=0)
    change = _change(rows - center, power, least=float(NEGLIGIBLE * np.linalg.norm(rows)))
    errors = table.standard_errors
    if errors is not None:
        errors = np.sqrt(errors.astype(np.float64) ** 2 @ change**2).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # AtomVectors refuses what is infinite
        vectors = ((table.vectors - center) @ change).astype(np.float32)
    return dataclasses.replace(
        table,
        vectors=vectors,
        standard_errors=errors,
        provenance={**table.provenance, SPECTRUM: {"power": float(power), "elements": len(numbers)}},
    )


def as_read(
    table: AtomVectors, how: VectorScale, power: float, trained: ArrayLike, known: ArrayLike | None = None
) -> AtomVectors:
    """Return the vectors that a predictor reads: scaled, with another spectrum unless ``power`` is 0.

    Units come first: ``standardize`` divides the columns before the spectrum is taken, and one factor follows.

    Args:
        table: M elements, D dimensions.
        how: Scale, as in :func:`crysatom.vectors.scale.scaled`.
        power: As in :func:`with_spectrum`.
        trained: Atomic numbers of the training crystals, over which vectors are scaled.
        known: Atomic numbers of the elements that define the spectrum; None: those of the table.

    Raises:
        ValueError: As both functions.

    """
    if power == 0:
        return scaled(table, how, trained)
    if how == "standardize":
        return scaled(with_spectrum(scaled(table, how, trained), power, known), "rms", trained)
    return scaled(with_spectrum(table, power, known), how, trained)


def power_of(provenance: Mapping[str, Any]) -> float:
    """Return the power of the spectrum that the provenance of a table records; 0: as it was made."""
    return float(provenance.get(SPECTRUM, {}).get("power", 0))


def _change(centered: NDArray[np.float64], power: float, least: float) -> NDArray[np.float64]:
    """Return the map of :func:`with_spectrum`, ``(D, D)``, for centered rows ``(M, D)``.

    Args:
        centered: Rows with mean 0.
        power: Power of the spectrum.
        least: Singular values up to this one are rounding of float32.

    """
    _, s, vt = np.linalg.svd(centered, full_matrices=False)
    if s[0] <= least:
        raise ValueError(f"vectors that are equal for all of {len(centered)} elements have no spectrum")
    if power == 0:
        return np.eye(centered.shape[1])
    known = s > least
    return np.asarray((vt[known].T * (s[known] / s[0]) ** -power) @ vt[known])
