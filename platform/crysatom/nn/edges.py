"""The edges that messages travel on: several views of the same crystals as one disjoint graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

CACHE_ELEMENTS = 2**18
"""Values of one temporary that still stay in a CPU core's second-level cache (1 MiB in float32)."""

GPU_ELEMENTS = 2**28
"""On a GPU a temporary only has to fit into memory (1 GiB in float32)."""


@dataclass(frozen=True)
class Chunk:
    """A run of atoms of one view, with all edges that arrive at them."""

    view: int
    atoms: slice
    edges: slice


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Directed edges of V views with N atoms each, as one graph of M = V * N atoms.

    Attributes:
        num_views: V; normalization statistics are kept apart per view.
        num_atoms: M.
        edge_ptr: ``(M + 1,)`` first edge of each atom; edges are sorted by the atom they arrive at.
        center: ``(E,)`` atom the edge arrives at.
        neighbor: ``(E,)`` atom it comes from.
        row: ``(E,)`` row of ``basis`` that describes it.
        basis: ``(R, F)`` distance features; edges of equal length, in all views, share a row.

    """

    num_views: int
    num_atoms: int
    edge_ptr: Tensor
    center: Tensor
    neighbor: Tensor
    row: Tensor
    basis: Tensor

    @cached_property
    def view_ptr(self) -> list[int]:
        """First edge of each view, and the end."""
        atoms = self.num_atoms // self.num_views
        ends: list[int] = self.edge_ptr[:: max(atoms, 1)].tolist()
        return ends if atoms else [0] * (self.num_views + 1)

    @cached_property
    def edges_per_view(self) -> Tensor:
        """``(V,)`` float64 on the device."""
        return torch.tensor(self.view_ptr, dtype=torch.float64, device=self.basis.device).diff()

    def chunks(self, width: int) -> list[Chunk]:
        """Cut into runs whose ``(edges, width)`` temporaries stay in the processor's cache."""
        elements = CACHE_ELEMENTS if self.basis.device.type == "cpu" else GPU_ELEMENTS
        size = max(1, elements // width)
        atoms_per_view = self.num_atoms // self.num_views
        cuts: list[Chunk] = []
        for view in range(self.num_views):
            first = view * atoms_per_view
            ptr = self.edge_ptr[first : first + atoms_per_view + 1]
            targets = torch.arange(self.view_ptr[view], self.view_ptr[view + 1], size, device=ptr.device)
            starts = torch.searchsorted(ptr, targets, right=True) - 1 if len(targets) else targets
            bounds = [*torch.unique(starts).tolist(), atoms_per_view]
            bounds[0] = 0
            edge_bounds = ptr[torch.tensor(bounds, device=ptr.device)].tolist()
            cuts += [
                Chunk(view, slice(first + a, first + b), slice(e, f))
                for a, b, e, f in zip(bounds, bounds[1:], edge_bounds, edge_bounds[1:], strict=False)
            ]
        return cuts

    @cached_property
    def center_basis(self) -> Tensor:
        """``(M, F)`` sum of the features of the edges that arrive at each atom."""
        return self._sum_basis(self.center)

    @cached_property
    def neighbor_basis(self) -> Tensor:
        """``(M, F)`` sum of the features of the edges that leave each atom."""
        return self._sum_basis(self.neighbor)

    def _sum_basis(self, index: Tensor) -> Tensor:
        total = self.basis.new_zeros(self.num_atoms, self.basis.shape[1])
        return total.index_add_(0, index, self.basis.index_select(0, self.row))

    @cached_property
    def row_counts(self) -> Tensor:
        """``(V, R)`` edges of each view that a row of ``basis`` describes."""
        views = zip(self.view_ptr, self.view_ptr[1:], strict=False)
        counts = [torch.bincount(self.row[a:b], minlength=len(self.basis)) for a, b in views]
        return torch.stack(counts).to(self.basis.dtype)

    @cached_property
    def gram(self) -> Tensor:
        """``(V, F, F)`` sum over each view's edges of the outer product of their features."""
        return self.basis.T @ (self.row_counts[:, :, None] * self.basis)

    @cached_property
    def in_degree(self) -> Tensor:
        """``(M,)`` edges that arrive at each atom."""
        return self.edge_ptr.diff().to(self.basis.dtype)

    @cached_property
    def out_degree(self) -> Tensor:
        """``(M,)`` edges that leave each atom."""
        return torch.bincount(self.neighbor, minlength=self.num_atoms).to(self.basis.dtype)
