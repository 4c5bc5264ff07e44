"""Control tables without chemical information, for comparison with learned ones: one-hot, random, permuted."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.vectors.table import AtomVectors

MAX_SEED = 2**64 - 1


def one_hot() -> AtomVectors:
    """Return one bit per element: ``(118, 118)``, the identity.

    Every element of the vocabulary has a bit, so the dimension does not depend on the data and no element is missing.
    The bit of an element that no crystal contains has no effect.
    """
    return AtomVectors(atomic_numbers=_all_elements(), vectors=np.eye(MAX_ATOMIC_NUMBER, dtype=np.float32))


def random_vectors(seed: int, dim: int) -> AtomVectors:
    """Return independent standard normal components for all 118 elements: ``(118, dim)``.

    Each element has its own generator (Philox, keyed by seed and atomic number), so its vector does not depend on the
    other elements, nor its first components on the dimension.

    Raises:
        ValueError: If the seed is not in 0..2^64 - 1 or the dimension is below 1.

    """
    _check_seed(seed)
    if dim < 1:
        raise ValueError(f"random vectors need at least 1 dimension, got {dim}")
    rows = [
        np.random.Generator(np.random.Philox(key=seed << 64 | int(z))).standard_normal(dim) for z in _all_elements()
    ]
    return AtomVectors(atomic_numbers=_all_elements(), vectors=np.stack(rows).astype(np.float32))


def permuted(table: AtomVectors, seed: int) -> AtomVectors:
    """Return a table in which every element has the row of another element, with its count and errors.

    The set of rows stays the same, and with it scale, rank and geometry; only the assignment of rows to elements
    changes. A gain of such a table over one-hot is not due to chemistry. Rows are shifted along one cycle of the
    elements, in a random order that depends on the seed alone, so that no element keeps its row.

    Raises:
        ValueError: If the table has a single element or the seed is not in 0..2^64 - 1.

    """
    _check_seed(seed)
    if len(table.atomic_numbers) == 1:
        raise ValueError(f"a table with one element ({table.symbols[0]}) cannot be permuted; take one with two or more")
    # raw bits: numpy guarantees them in all versions, unlike Generator.permutation
    draws = np.random.Philox(key=seed).random_raw(MAX_ATOMIC_NUMBER)
    order = np.argsort(draws[table.atomic_numbers - 1], kind="stable")
    row = np.empty_like(order)
    row[order] = np.roll(order, 1)
    return dataclasses.replace(
        table,
        vectors=table.vectors[row],
        site_counts=None if table.site_counts is None else table.site_counts[row],
        standard_errors=None if table.standard_errors is None else table.standard_errors[row],
    )


def _all_elements() -> NDArray[np.int64]:
    return np.arange(1, MAX_ATOMIC_NUMBER + 1, dtype=np.int64)


def _check_seed(seed: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"a seed must be in 0..{MAX_SEED}, got {seed}")
