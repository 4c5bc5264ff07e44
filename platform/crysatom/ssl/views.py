"""Views of a crystal: masks over the stored graph, drawn on the device from counters.

A mask is a pure function of (seed, epoch, view, material, atom, edge slot). A view therefore does not depend on the
worker that draws it, on the rest of the batch, or on interruptions of the run.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.graphs.counting import count
from crysatom.nn.edges import Edges
from crysatom.nn.hashing import mix


def lowest_per_segment(values: Tensor, segment: Tensor, ptr: Tensor, number: Tensor) -> Tensor:
    """Mark the ``number[s]`` lowest values of each segment s.

    Args:
        values: ``(n,)``.
        segment: ``(n,)`` segment of each value, sorted.
        ptr: ``(S + 1,)`` first value of each segment.
        number: ``(S,)``.

    Returns:
        ``(n,)`` bool.

    """
    order = torch.argsort(values)
    order = order[torch.argsort(segment[order], stable=True)]
    place = torch.arange(len(values), device=values.device) - ptr[segment]
    marked = torch.empty_like(values, dtype=torch.bool)
    marked[order] = place < number[segment]
    return marked


def mask_atoms(batch: Batch, stream: Tensor, fraction: float) -> Tensor:
    """Choose max(1, floor(fraction n)) of each crystal's n atoms; ``(N,)`` bool.

    Args:
        batch: Crystals.
        stream: ``(B,)`` pseudo-random state of each crystal.
        fraction: Fraction of atoms; 0 masks none.

    """
    if fraction == 0:
        return torch.zeros_like(batch.batch, dtype=torch.bool)
    number = (batch.ptr.diff() * fraction + 1e-9).floor().clamp(min=1)
    return lowest_per_segment(mix(stream[batch.batch], batch.atom_slot), batch.batch, batch.ptr, number)


def mask_element(batch: Batch, stream: Tensor) -> Tensor:
    """Choose all atoms of one element of each crystal, all its elements being equally likely; ``(N,)`` bool.

    The choice is the same for a supercell.

    Args:
        batch: Crystals.
        stream: ``(B,)`` pseudo-random state of each crystal.

    """
    values = mix(stream[batch.batch], batch.atomic_numbers.long())
    lowest = torch.full_like(stream, torch.iinfo(torch.int64).max).scatter_reduce(0, batch.batch, values, "amin")
    return values == lowest[batch.batch]


def mask_edges(batch: Batch, stream: Tensor, fraction: float, cutoff: float = math.inf) -> Tensor:
    """Choose n - ceil((1 - fraction) n) of each atom's n edges; ``(E,)`` bool.

    Args:
        batch: Crystals.
        stream: ``(B,)`` pseudo-random state of each crystal.
        fraction: Fraction of edges.
        cutoff: Edges longer than this are padding; they are neither counted nor chosen.

    """
    center = batch.edge_index[1]
    if fraction == 0:
        return torch.zeros_like(center, dtype=torch.bool)
    degree = batch.degree.long()
    values = mix(mix(stream[batch.batch], batch.atom_slot)[center], batch.slot)
    if math.isfinite(cutoff):
        padding = batch.distance > cutoff
        values = values.masked_fill(padding, torch.iinfo(torch.int64).max)
        degree = degree.index_add(0, center, padding.long(), alpha=-1)
    return lowest_per_segment(values, center, batch.edge_ptr, (degree * fraction + 1e-9).floor())


def stack_views(
    batch: Batch,
    features: tuple[Tensor, Tensor],
    masked_atoms: list[Tensor],
    masked_edges: list[Tensor],
    *,
    reroute: bool,
) -> tuple[Tensor, Edges]:
    """Join views of a batch into one disjoint graph.

    Args:
        batch: Crystals with N atoms and E edges.
        features: Distance features ``(R, F)`` and the row of each edge ``(E,)``.
        masked_atoms: ``(N,)`` bool of each of V views.
        masked_edges: ``(E,)`` bool of each view.
        reroute: Keep masked edges as edges without features to their crystal's first atom (published).

    Returns:
        Atomic numbers ``(V N,)`` with 0 at masked atoms, and the edges.

    """
    source, center = batch.edge_index
    basis, rows = features
    num_views, num_atoms = len(masked_edges), batch.num_nodes
    masked = torch.stack(masked_edges)
    if reroute:
        first_atom = batch.ptr[batch.batch]
        offset = num_atoms * torch.arange(num_views, device=center.device)[:, None]
        neighbor = (torch.where(masked, first_atom[center], source) + offset).flatten()
        row = torch.where(masked, len(basis), rows).flatten()
        center = (center + offset).flatten()
        degree = batch.degree.long().repeat(num_views)
        basis = torch.cat([basis, basis.new_zeros(1, basis.shape[1])])
    else:
        view, kept = (~masked).nonzero().unbind(1)
        offset = num_atoms * view
        neighbor, row, center = source[kept] + offset, rows[kept], center[kept] + offset
        degree = count(center, num_views * num_atoms)
    stacked = Edges(
        num_views=num_views,
        num_atoms=num_views * num_atoms,
        edge_ptr=F.pad(degree.cumsum(0), (1, 0)),
        center=center,
        neighbor=neighbor,
        row=row,
        basis=basis,
    )
    numbers = batch.atomic_numbers.long()
    return torch.cat([numbers.masked_fill(atoms, 0) for atoms in masked_atoms]), stacked
