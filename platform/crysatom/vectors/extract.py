"""Aggregate atom embeddings to element vectors: streaming moments, and the published Algorithm 1.

Shapes: N atoms, Z = 1..118 elements (row Z - 1), D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crysatom.distributed import all_reduce_sum
from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.vectors.table import AtomVectors


@dataclass(frozen=True, kw_only=True, eq=False)
class ElementMoments:
    """Number, mean and sum of squared deviations of the embeddings of each element's atoms.

    Moments are immutable: each operation returns new ones.

    Attributes:
        count: ``(118,)`` float64, number of atoms.
        mean: ``(118, D)`` float64; 0 for elements without atoms.
        m2: ``(118, D)`` float64, sum over atoms of (h - mean)^2.

    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def empty(cls, dim: int, device: torch.device | str = "cpu") -> ElementMoments:
        """Return the moments of an empty set of atoms, with D = ``dim``."""
        zeros = torch.zeros(MAX_ATOMIC_NUMBER, dim, dtype=torch.float64, device=device)
        return cls(count=zeros[:, 0].clone(), mean=zeros, m2=zeros.clone())

    @torch.no_grad()
    def update(self, h: Tensor, atomic_numbers: Tensor) -> ElementMoments:
        """Return the moments after adding N atoms: embeddings ``(N, D)`` and atomic numbers ``(N,)``."""
        count, total = _sums(h.double(), atomic_numbers)
        mean = total / count.clamp(min=1)[:, None]
        _, m2 = _sums((h.double() - mean[atomic_numbers.long() - 1]) ** 2, atomic_numbers)
        return self.merge(ElementMoments(count=count, mean=mean, m2=m2))

    @torch.no_grad()
    def merge(self, other: ElementMoments) -> ElementMoments:
        """Return the moments of the union of both sets of atoms.

        With d the difference of the means: mean = mean_a + d n_b / n, M2 = M2_a + M2_b + d^2 n_a n_b / n
        (Chan, Golub, LeVeque, The American Statistician 37, 242 (1983), eq. 2.1).
        """
        count = self.count + other.count
        share = (other.count / count.clamp(min=1))[:, None]
        delta = other.mean - self.mean
        mean = self.mean + delta * share
        return ElementMoments(count=count, mean=mean, m2=self.m2 + other.m2 + delta**2 * self.count[:, None] * share)

    @torch.no_grad()
    def merge_across_workers(self) -> ElementMoments:
        """Return the moments of the atoms of all workers, equal on each; every worker must call this.

        The formula of :meth:`merge` for any number of parts: mean = sum n_r mean_r / n,
        M2 = sum (M2_r + n_r (mean_r - mean)^2).
        """
        count = all_reduce_sum(self.count)
        mean = all_reduce_sum(self.count[:, None] * self.mean) / count.clamp(min=1)[:, None]
        m2 = all_reduce_sum(self.m2 + self.count[:, None] * (self.mean - mean) ** 2)
        return ElementMoments(count=count, mean=mean, m2=m2)

    def to_vectors(self, provenance: Mapping[str, Any]) -> AtomVectors:
        """Return the means of all elements with atoms as vectors, with standard errors s / sqrt(n).

        A standard error assumes independent sites. Sites of one crystal are not independent, so it is a lower bound. It
        is NaN for an element with a single site.
        """
        variance = self.m2 / (self.count - 1)[:, None]
        errors = torch.where(self.count[:, None] > 1, (variance / self.count[:, None]).sqrt(), torch.nan)
        return table_of(self.count, self.mean, errors, provenance)


@dataclass(frozen=True, kw_only=True, eq=False)
class LastBatchTable:
    """Algorithm 1 as in the released code: the last batch that contains an element sets its vector.

    For each element of a global batch, the mean embedding of its atoms (in training mode, before the weight update),
    scaled to unit length, overwrites the previous one. Each epoch has a new table. The text of arXiv 2409.04737
    averages over batches instead. Vectors of rare elements come from older weights.

    Attributes:
        count: ``(118,)`` float64, number of atoms over all batches.
        vectors: ``(118, D)`` float64, unit length; 0 for elements without atoms.

    """

    count: Tensor
    vectors: Tensor

    @classmethod
    def empty(cls, dim: int, device: torch.device | str = "cpu") -> LastBatchTable:
        """Return an empty table with D = ``dim``."""
        zeros = torch.zeros(MAX_ATOMIC_NUMBER, dim, dtype=torch.float64, device=device)
        return cls(count=zeros[:, 0].clone(), vectors=zeros)

    @torch.no_grad()
    def update(self, h: Tensor, atomic_numbers: Tensor) -> LastBatchTable:
        """Return the table after one global batch, of which this worker holds N atoms (possibly none).

        Every worker must call this for every batch: means are over the atoms of all workers.
        """
        counts, totals = (all_reduce_sum(part) for part in _sums(h.double(), atomic_numbers))
        unit = torch.nn.functional.normalize(totals, dim=1)  # the length of the mean does not matter
        vectors = torch.where(counts[:, None] > 0, unit, self.vectors)
        return LastBatchTable(count=self.count + counts, vectors=vectors)

    def to_vectors(self, provenance: Mapping[str, Any]) -> AtomVectors:
        """Return the vectors of all elements with atoms; this method has no standard errors."""
        return table_of(self.count, self.vectors, provenance=provenance)


def _sums(rows: Tensor, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number ``(118,)`` of atoms of each element and the sum ``(118, D)`` of their rows ``(N, D)``."""
    index = atomic_numbers.long() - 1
    zeros = rows.new_zeros(MAX_ATOMIC_NUMBER, rows.shape[1])
    count = torch.bincount(index, minlength=MAX_ATOMIC_NUMBER).to(rows.dtype)
    return count, zeros.index_add(0, index, rows)


def table_of(
    count: Tensor, vectors: Tensor, errors: Tensor | None = None, provenance: Mapping[str, Any] = MappingProxyType({})
) -> AtomVectors:
    """Return the rows of the elements with atoms.

    Args:
        count: ``(118,)`` number of atoms.
        vectors: ``(118, D)``.
        errors: ``(118, D)`` standard errors; None: unknown.
        provenance: Source of the vectors.

    """
    seen = count.cpu().numpy() > 0
    return AtomVectors(
        atomic_numbers=np.flatnonzero(seen).astype(np.int64) + 1,
        vectors=vectors.cpu().numpy()[seen].astype(np.float32),
        site_counts=count.cpu().numpy()[seen].astype(np.int64),
        standard_errors=None if errors is None else errors.cpu().numpy()[seen].astype(np.float32),
        provenance=dict(provenance),
    )
