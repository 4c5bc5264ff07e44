"""Structure vectors from counts: blocks of columns, joined and rotated to principal axes, with standard errors.

Shapes: M elements, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysatom.vectors.structure.axes import balanced, principal_axes
from crysatom.vectors.structure.geometry import geometry_columns
from crysatom.vectors.structure.substitution import shared_contexts, substitution_columns
from crysatom.vectors.structure.tally import GROUPS, Tally

BLOCKS: dict[str, Callable[[Any, Any], Any]] = {"substitution": substitution_columns, "geometry": geometry_columns}

Array = NDArray[Any]


class Learned(NamedTuple):
    """Vectors of M elements.

    Attributes:
        atomic_numbers: ``(M,)`` ascending.
        vectors: ``(M, D)`` float64, the largest component first.
        standard_errors: ``(M, D)`` float64, NaN for an element whose compounds are all in one group.

    """

    atomic_numbers: Array
    vectors: Array
    standard_errors: Array


def learn(counts: Tally, blocks: Sequence[str]) -> Learned:
    """Return the vectors of the counted elements; without the geometry block, only of those that share a context.

    Raises:
        ValueError: If fewer than two elements can be told apart.

    """
    numbers = elements_of(counts)
    if "geometry" not in blocks:
        numbers = numbers[np.sum(shared_contexts(counts), axis=0)[numbers].any(axis=1)]
    vectors = principal_axes(joined(counts, numbers, blocks)) if len(numbers) else np.zeros((0, 0))
    if not vectors.shape[1]:
        raise ValueError(
            f"nothing distinguishes the {len(numbers)} elements for which the crystals hold data; structure vectors "
            "need several elements, some of which replace each other or differ in their bonds"
        )
    return Learned(numbers, vectors, jackknife(counts, numbers, blocks, vectors))


def elements_of(counts: Tally) -> Array:
    """Return ``(M,)`` atomic numbers of the elements of the counted compounds, ascending."""
    return np.unique(counts.compounds.labels // (GROUPS * 2**16))


def joined(counts: Tally, numbers: Array, blocks: Sequence[str]) -> Array:
    """Return the blocks side by side, ``(M, K)``, each centered and with a mean squared row of 1."""
    return np.concatenate([balanced(BLOCKS[name](counts, numbers)) for name in BLOCKS if name in blocks], axis=1)


def jackknife(counts: Tally, numbers: Array, blocks: Sequence[str], vectors: Array) -> Array:
    """Return ``(M, D)`` standard errors by leaving out one group of compounds at a time.

        se^2 = (G - 1) / G sum_g (v_g - mean v)^2

    Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 11.5, with G groups. The axes of the vectors
    v_g without group g are arbitrary, so v_g is first rotated onto the vectors (orthogonal Procrustes; Schoenemann,
    Psychometrika 31, 1 (1966)).
    """
    found = np.full((GROUPS, *vectors.shape), np.nan)
    for group in range(GROUPS):
        part = counts.without(group)
        held = np.isin(numbers, elements_of(part))
        if held.any():
            found[group, held] = rotated_onto(joined(part, numbers[held], blocks), vectors[held])
    deviations = found - found.mean(axis=0)
    return np.asarray(np.sqrt((GROUPS - 1) / GROUPS * np.square(deviations).sum(axis=0)))


def rotated_onto(rows: Array, target: Array) -> Array:
    """Return rows ``(m, K)`` in the D axes that bring them nearest to the target ``(m, D)``."""
    left, _, right = np.linalg.svd(rows.T @ target, full_matrices=False)
    return np.asarray(rows @ left @ right)
