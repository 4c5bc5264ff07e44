"""Edges for message passing: several views of the same crystals as one disjoint graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.graphs import counting
from crysatom.nn.equivalence import EquivalentAtoms

CACHE_ELEMENTS = 2**18
"""Values of one temporary that fit in a CPU core's second-level cache (1 MiB in float32)."""

GPU_ELEMENTS = 2**28
"""Values of one temporary on a GPU, where it only has to fit into memory (1 GiB in float32)."""


def rows_at_once(width: int, device: torch.device) -> int:
    """Return how many rows of a temporary are processed together."""
    return max(1, (CACHE_ELEMENTS if device.type == "cpu" else GPU_ELEMENTS) // width)


def blocks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Cut ``(rows, width)`` into runs of rows that fit into the CPU cache, or into a GPU's memory."""
    size = rows_at_once(width, device)
    return (slice(i, i + size) for i in range(0, rows, size))


def sum_rows(table: Tensor, rows: Tensor, ptr: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return sums of rows of a table, without a temporary that holds the rows (torch's ``embedding_bag``).

    Args:
        table: ``(K, C)``, contiguous.
        rows: ``(n,)`` rows.
        ptr: ``(m + 1,)`` start of each run of the n that is summed.
        weights: ``(n,)`` factors; None: one.

    Returns:
        ``(m, C)``.

    """
    if not len(rows):
        return table.new_zeros(len(ptr) - 1, table.shape[1])
    return F.embedding_bag(rows, table, ptr[:-1], mode="sum", per_sample_weights=weights)


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Directed edges of V views with N atoms each, as one graph of M = V * N atoms.

    Attributes:
        num_views: V; each view has its own normalization statistics.
        num_atoms: M.
        edge_ptr: ``(M + 1,)`` first edge of each atom; edges are sorted by the atom they arrive at.
        center: ``(E,)`` atom the edge arrives at.
        neighbor: ``(E,)`` atom it comes from.
        row: ``(E,)`` row of ``basis`` that describes it.
        basis: ``(R, F)`` distance features; edges of equal length, in all views, share a row.
        count: ``(E,)`` number of equal edges that each represents, in the type of ``basis``; None: one.
        multiplicity: ``(M,)`` number of equivalent atoms that each represents, in the type of ``basis``; None: one.
            The ``count`` of an edge is then the multiplicity of its center times its ``copies``.
        copies: ``(E,)`` number of equal edges of its center that each represents, in the type of ``basis``; None: one.
        apart: Return messages per edge, not summed at the atoms.

    """

    num_views: int
    num_atoms: int
    edge_ptr: Tensor
    center: Tensor
    neighbor: Tensor
    row: Tensor
    basis: Tensor
    count: Tensor | None = None
    multiplicity: Tensor | None = None
    copies: Tensor | None = None
    apart: bool = False

    @classmethod
    def of(cls, batch: Batch, features: tuple[Tensor, Tensor]) -> tuple[Edges, EquivalentAtoms]:
        """Return the edges of a batch as one view, with one atom per class of equivalent atoms.

        Args:
            batch: Crystals.
            features: Distance features ``(R, F)`` and the row of each edge ``(E,)``.

        """
        basis, row = features
        if "multiplicity" in batch:
            return cls._of_condensed(batch, basis, row)
        atoms = EquivalentAtoms.of(batch, row)
        degree = batch.degree[atoms.first].long()
        edge_ptr = F.pad(degree.cumsum(0), (1, 0))
        center = torch.arange(len(degree), device=row.device).repeat_interleave(degree)
        taken = torch.arange(len(center), device=row.device) + (batch.edge_ptr[atoms.first] - edge_ptr[:-1])[center]
        multiplicity = atoms.size.to(basis.dtype)
        edges = cls(
            num_views=1,
            num_atoms=len(degree),
            edge_ptr=edge_ptr,
            center=center,
            neighbor=atoms.which[batch.edge_index[0, taken]],
            row=row[taken],
            basis=basis,
            count=multiplicity[center],
            multiplicity=multiplicity,
        )
        return edges, atoms

    @classmethod
    def _of_condensed(cls, batch: Batch, basis: Tensor, row: Tensor) -> tuple[Edges, EquivalentAtoms]:
        neighbor, center = batch.edge_index
        multiplicity, copies = batch.multiplicity.to(basis.dtype), batch.copies.to(basis.dtype)
        edges = cls(
            num_views=1,
            num_atoms=len(multiplicity),
            edge_ptr=batch.edge_ptr,
            center=center,
            neighbor=neighbor,
            row=row,
            basis=basis,
            count=multiplicity[center] * copies,
            multiplicity=multiplicity,
            copies=copies,
        )
        each = torch.arange(len(multiplicity), device=row.device)
        return edges, EquivalentAtoms(each, each, batch.multiplicity)

    @cached_property
    def edges_per_view(self) -> Tensor:
        """Number of edges of each view, ``(V,)`` float64 on the device."""
        return self.row_counts.sum(1, dtype=torch.float64)

    @cached_property
    def _by_neighbor(self) -> tuple[Tensor, Tensor]:
        """Edges sorted by the atom they leave ``(E,)``, and the first edge of each atom ``(M + 1,)``."""
        degree = counting.count(self.neighbor, self.num_atoms)
        return torch.argsort(self.neighbor), F.pad(degree.cumsum(0), (1, 0))

    def at_center(self, table: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of rows ``(E,)`` of a table ``(K, C)`` over the edges that arrive at each atom, ``(M, C)``."""
        return sum_rows(table, rows, self.edge_ptr, self.count)

    def at_neighbor(self, table: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of rows ``(E,)`` of a table ``(K, C)`` over the edges that leave each atom, ``(M, C)``."""
        order, ptr = self._by_neighbor
        return sum_rows(table, rows[order], ptr, None if self.count is None else self.count[order])

    def sum_messages(self, messages: Tensor) -> Tensor:
        """Return the sum of the messages ``(E, C)`` that arrive at each atom, ``(M, C)``, weighted by copies."""
        if self.copies is not None:
            messages = messages * self.copies[:, None]
        return messages.new_zeros(self.num_atoms, messages.shape[1]).index_add(0, self.center, messages)

    @cached_property
    def center_basis(self) -> Tensor:
        """Sum of the features of the edges that arrive at each atom, ``(M, F)``."""
        return self.at_center(self.basis, self.row)

    @cached_property
    def neighbor_basis(self) -> Tensor:
        """Sum of the features of the edges that leave each atom, ``(M, F)``."""
        return self.at_neighbor(self.basis, self.row)

    @cached_property
    def row_counts(self) -> Tensor:
        """Number of edges of each view that each row of ``basis`` describes, ``(V, R)``."""
        views, rows = self.num_views, len(self.basis)
        view = self.center // max(self.num_atoms // views, 1) if views > 1 else 0
        return self._counts(view * rows + self.row, views * rows).view(views, rows)

    @cached_property
    def gram(self) -> Tensor:
        """Sum over each view's edges of the outer product of their features, ``(V, F, F)``."""
        return self.basis.T @ (self.row_counts[:, :, None] * self.basis)

    @cached_property
    def in_degree(self) -> Tensor:
        """Number of edges that arrive at each atom, ``(M,)``."""
        return self._counts(self.center, self.num_atoms)

    @cached_property
    def out_degree(self) -> Tensor:
        """Number of edges that leave each atom, ``(M,)``."""
        return self._counts(self.neighbor, self.num_atoms)

    def _counts(self, index: Tensor, size: int) -> Tensor:
        return counting.count(index, size, self.count).to(self.basis.dtype)

    def classes(self, kind: Tensor, num_kinds: int) -> tuple[Edges, EdgeClasses]:
        """Return the distinct edges between kinds of atoms, each with its count, and the class of each edge.

        In a layer that reads only the kind of an atom, edges of a view are equal if their distances and the kinds at
        both ends are equal: in the first layer about 36 % of the edges of JARVIS-DFT are distinct.

        Args:
            kind: ``(M,)`` in ``0..num_kinds - 1``.
            num_kinds: K; atom ``v K + k`` of the result represents all atoms of kind k in view v.

        """
        view = torch.arange(self.num_views, device=kind.device).repeat_interleave(self.num_atoms // self.num_views)
        place = view * num_kinds + kind
        key = (place[self.center] * num_kinds + kind[self.neighbor]) * len(self.basis) + self.row
        different, which, sizes = torch.unique(key, return_inverse=True, return_counts=True)
        pair, row = different // len(self.basis), different % len(self.basis)
        center = pair // num_kinds
        size = self.num_views * num_kinds
        edges = Edges(
            num_views=self.num_views,
            num_atoms=size,
            edge_ptr=F.pad(counting.count(center, size).cumsum(0), (1, 0)),
            center=center,
            neighbor=center // num_kinds * num_kinds + pair % num_kinds,
            row=row,
            basis=self.basis,
            count=self._counts(which, len(different)),
            apart=True,
        )
        order = torch.argsort(which)
        ptr = F.pad(sizes.cumsum(0), (1, 0))
        return edges, EdgeClasses(which, self.edge_ptr, order, self.center[order], ptr, self.copies)


@dataclass(frozen=True)
class EdgeClasses:
    """Classes of equal edges.

    Attributes:
        which: ``(E,)`` class of each edge.
        edge_ptr: ``(M + 1,)`` first edge of each atom.
        order: ``(E,)`` the edges, sorted by class.
        center: ``(E,)`` atoms at which they arrive, in this order.
        ptr: ``(U + 1,)`` first edge of each class, in this order.
        copies: ``(E,)``, see :class:`Edges`.

    """

    which: Tensor
    edge_ptr: Tensor
    order: Tensor
    center: Tensor
    ptr: Tensor
    copies: Tensor | None

    def sum_messages(self, messages: Tensor) -> Tensor:
        """Sum messages, given one per class ``(U, D)``, over the edges that arrive at each atom, ``(M, D)``."""
        total: Tensor = _SumMessages.apply(messages, self)  # type: ignore[no-untyped-call]
        return total


class _SumMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, messages: Tensor, classes: EdgeClasses) -> Tensor:
        ctx.classes = classes
        return sum_rows(messages, classes.which, classes.edge_ptr, classes.copies)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        classes = ctx.classes
        copies = None if classes.copies is None else classes.copies[classes.order]
        return sum_rows(grads[0].contiguous(), classes.center, classes.ptr, copies), None
