"""Atom vectors: one learned vector per element, with site counts and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysatom.names import MAX_ATOMIC_NUMBER, SYMBOLS


@dataclass(frozen=True, kw_only=True, eq=False)
class AtomVectors:
    """Vectors of M elements in D dimensions.

    Attributes:
        atomic_numbers: ``(M,)`` int64, ascending.
        vectors: ``(M, D)`` float32, finite.
        site_counts: ``(M,)`` int64, number of sites that a vector averages; None if unknown.
        standard_errors: ``(M, D)`` float32, standard error of each component, NaN for an element with one site; None
            if unknown.
        provenance: Source of the vectors (data, digest, configuration, version); JSON values only.

    Raises:
        ValueError: If shapes disagree, elements are unknown, repeated or out of order, or a component is not finite.

    """

    atomic_numbers: NDArray[np.int64]
    vectors: NDArray[np.float32]
    site_counts: NDArray[np.int64] | None = None
    standard_errors: NDArray[np.float32] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)

    @property
    def dim(self) -> int:
        """Number of dimensions, D."""
        return int(self.vectors.shape[1])

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols of the M elements."""
        return tuple(SYMBOLS[z - 1] for z in self.atomic_numbers)

    def lookup(self, atomic_numbers: ArrayLike) -> NDArray[np.float32]:
        """Return ``(N, D)`` vectors of N atoms.

        Raises:
            ValueError: With the names of elements that have no vector.

        """
        return self.vectors[rows_of(self.atomic_numbers, atomic_numbers, "vector")]

    def nearest(self, symbol: str, k: int = 5) -> list[tuple[str, float]]:
        """Return the k elements most similar to the given one, by centered cosine similarity, most similar first.

        The mean over elements is subtracted first: encoder outputs are non-negative (softplus), so all vectors share a
        large common component, and every plain cosine would be close to 1.

        Raises:
            ValueError: If the element is unknown or has no vector.

        """
        if symbol not in SYMBOLS:
            raise ValueError(f"unknown element symbol {symbol!r}")
        row = int(rows_of(self.atomic_numbers, [SYMBOLS.index(symbol) + 1], "vector")[0])
        similarity = centered_cosine(self.vectors)[row]
        order = [int(i) for i in np.argsort(-similarity, kind="stable") if i != row][:k]
        return [(self.symbols[i], float(similarity[i])) for i in order]


def centered_cosine(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the ``(M, M)`` cosine similarities of rows minus their mean; zero rows give 0."""
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    norm = np.linalg.norm(centered, axis=1, keepdims=True)
    unit = np.divide(centered, norm, out=np.zeros_like(centered), where=norm > 0)
    return np.asarray(unit @ unit.T)


def rows_of(known: NDArray[np.int64], atomic_numbers: ArrayLike, what: str) -> NDArray[np.int64]:
    """Return the row of each atom's element in a table whose rows are the ``known`` elements, ascending.

    Raises:
        ValueError: With the names of elements that the table does not contain.

    """
    wanted = np.asarray(atomic_numbers, dtype=np.int64)
    rows = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    missing = np.unique(wanted[known[rows] != wanted])
    if len(missing):
        names = ", ".join(element_name(z) for z in missing)
        raise ValueError(
            f"no {what} for {names}; leave crystals with these elements out, or use a table that covers them"
        )
    return rows


def element_name(atomic_number: int) -> str:
    """Return the symbol, or e.g. "atomic number 119" if there is none."""
    known = 1 <= atomic_number <= MAX_ATOMIC_NUMBER
    return SYMBOLS[atomic_number - 1] if known else f"atomic number {atomic_number}"


def _check_shapes(table: AtomVectors) -> None:
    shape = table.vectors.shape
    if len(shape) != 2 or min(shape) == 0:
        raise ValueError(f"vectors must have shape (elements, dimensions), both at least 1, got {shape}")
    expected = {"atomic_numbers": shape[:1], "site_counts": shape[:1], "standard_errors": shape}
    for name, wanted in expected.items():
        array = getattr(table, name)
        if array is not None and array.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted} beside vectors of shape {shape}, got {array.shape}")


def _check_values(table: AtomVectors) -> None:
    numbers = table.atomic_numbers
    if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER or (np.diff(numbers) <= 0).any():
        raise ValueError(
            f"atomic numbers must ascend without repetition within 1..{MAX_ATOMIC_NUMBER}, got {numbers.tolist()}"
        )
    broken = [table.symbols[i] for i in np.flatnonzero(~np.isfinite(table.vectors).all(axis=1))]
    if broken:
        raise ValueError(f"components that are NaN or infinite in the vectors of {', '.join(broken)}")
