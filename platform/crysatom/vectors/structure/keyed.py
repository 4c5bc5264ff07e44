"""Sums by key that are the same in any order: integers, in tables that merge exactly.

Real numbers are added as multiples of ``2**-32``. Sums of integers do not depend on the order of the terms, so counts
over shards are identical for any number of workers and any order of the crystals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

UNIT = 2.0**32
"""Number of steps in 1. A crystal adds at most a few hundred to a sum, so the sums of 10 million crystals fit."""


def fixed(values: Array) -> Array:
    """Return real numbers as int64 multiples of 1 / UNIT."""
    return np.rint(values * UNIT).astype(np.int64)


def real(sums: Array) -> Array:
    """Return the float64 numbers that :func:`fixed` integers stand for."""
    return sums / UNIT


def splitmix(values: Array) -> Array:
    """Scramble uint64 numbers, one to one: the output function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def hashed(*columns: Array | int) -> Array:
    """Return one uint64 hash per row of integer columns; a number stands for a column of it."""
    arrays = np.broadcast_arrays(*(np.asarray(column).astype(np.uint64) for column in columns))
    result = np.zeros(arrays[0].shape, np.uint64)
    for array in arrays:
        result = splitmix(result ^ array)
    return result


def sum_at(values: Array, index: Array, size: int) -> Array:
    """Return ``(size,)`` sums of the values at each index; uint64 hashes add modulo 2**64."""
    sums = np.zeros(size, values.dtype)
    np.add.at(sums, index, values)
    return sums


@dataclass(frozen=True, eq=False)
class Keyed:
    """R rows in ascending order of their keys, each key once.

    Attributes:
        hashes: ``(R,)`` uint64, first half of the key.
        labels: ``(R,)`` int64, second half of the key.
        sums: ``(R, C)`` int64.

    """

    hashes: Array
    labels: Array
    sums: Array

    @classmethod
    def of(cls, hashes: Array | int, labels: Array, sums: Array) -> Keyed:
        """Return rows in order, with the sums of rows that share a key.

        Args:
            hashes: ``(n,)`` uint64, or one number for all rows.
            labels: ``(n,)`` int64.
            sums: ``(n, C)`` int64.

        """
        hashes = np.broadcast_to(np.asarray(hashes, np.uint64), labels.shape)
        order = np.lexsort((labels, hashes))
        hashes, labels = hashes[order], labels[order]
        first = starts(hashes, labels)
        added = np.add.reduceat(sums[order], first, axis=0) if len(first) else sums[:0]
        return cls(hashes[first], labels[first], added)

    @classmethod
    def total(cls, parts: Iterable[Keyed]) -> Keyed:
        """Return the sum of one or more tables with equal numbers of columns."""
        tables = list(parts)
        return cls.of(
            np.concatenate([t.hashes for t in tables]),
            np.concatenate([t.labels for t in tables]),
            np.concatenate([t.sums for t in tables]),
        )

    def at(self, rows: Array) -> Keyed:
        """Return some rows: a mask, or ascending indices."""
        return Keyed(self.hashes[rows], self.labels[rows], self.sums[rows])

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return int(self.hashes.nbytes + self.labels.nbytes + self.sums.nbytes)


def starts(*sorted_columns: Array) -> Array:
    """Return the index of the first row of each run of equal rows in sorted columns."""
    if not len(sorted_columns[0]):
        return np.zeros(0, np.int64)
    new = np.zeros(len(sorted_columns[0]), bool)
    new[0] = True
    for column in sorted_columns:
        new[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(new)
