"""Random graphs as a batch, for tests that do not need real crystals."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Batch


def random_batch(num_crystals: int, seed: int = 0, max_atoms: int = 9, dtype: torch.dtype = torch.float32) -> Batch:
    """Return crystals of 1 to ``max_atoms`` atoms with 10 to 15 edges each."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, max_atoms + 1, (num_crystals,), generator=generator)
    ptr = _offsets(sizes)
    crystal = torch.arange(num_crystals).repeat_interleave(sizes)
    degree = torch.randint(10, 16, (int(ptr[-1]),), generator=generator)
    edge_ptr = _offsets(degree)
    center = torch.arange(len(crystal)).repeat_interleave(degree)
    uniform = torch.rand(len(center), generator=generator)
    neighbor = ptr[crystal[center]] + (uniform * sizes[crystal[center]]).long()
    return make_batch(
        ptr=ptr,
        atomic_numbers=torch.randint(1, 90, (len(crystal),), generator=generator),
        degree=degree,
        edge_index=torch.stack([neighbor, center]),
        distance=(torch.rand(len(center), generator=generator, dtype=torch.float64) * 4 + 2).to(dtype),
        material_key=torch.randint(-(2**62), 2**62, (num_crystals,), generator=generator),
        edge_ptr=edge_ptr,
    )


def with_copies(batch: Batch) -> Batch:
    """Return crystals with two unconnected copies of the given ones' atoms, so that each atom has an equivalent."""
    atoms, edges = batch.batch.repeat(2).sort(stable=True).indices, batch.batch[batch.edge_index[1]]
    atoms, edges = atoms % batch.num_nodes, edges.repeat(2).sort(stable=True).indices
    copy, edges = edges // len(batch.distance), edges % len(batch.distance)
    crystal = batch.batch[batch.edge_index[1, edges]]
    shift = batch.ptr[crystal] + copy * batch.ptr.diff()[crystal]
    return make_batch(
        ptr=2 * batch.ptr,
        atomic_numbers=batch.atomic_numbers[atoms],
        degree=batch.degree[atoms],
        edge_ptr=_offsets(batch.degree[atoms]),
        edge_index=batch.edge_index[:, edges] + shift,
        distance=batch.distance[edges],
        material_key=batch.material_key,
    )


def make_batch(
    *,
    ptr: Tensor,
    atomic_numbers: Tensor,
    degree: Tensor,
    edge_ptr: Tensor,
    edge_index: Tensor,
    distance: Tensor,
    material_key: Tensor,
) -> Batch:
    """Build a batch; derived tensors are computed from the given ones."""
    num_crystals, num_atoms, center = len(ptr) - 1, len(atomic_numbers), edge_index[1]
    crystal = torch.arange(num_crystals).repeat_interleave(ptr.diff())
    batch = Batch(
        atomic_numbers=atomic_numbers,
        batch=crystal,
        ptr=ptr,
        edge_index=edge_index,
        degree=degree,
        edge_ptr=edge_ptr,
        distance=distance,
        material_key=material_key,
        slot=torch.arange(len(center)) - edge_ptr[:-1][center],
        atom_slot=torch.arange(num_atoms) - ptr[:-1][crystal],
        num_nodes=num_atoms,
    )
    batch._num_graphs = num_crystals
    return batch


def take(batch: Batch, start: int, stop: int) -> Batch:
    """Return crystals ``start`` to ``stop`` of a batch."""
    first, last = int(batch.ptr[start]), int(batch.ptr[stop])
    edges = slice(int(batch.edge_ptr[first]), int(batch.edge_ptr[last]))
    return make_batch(
        ptr=batch.ptr[start : stop + 1] - first,
        atomic_numbers=batch.atomic_numbers[first:last],
        degree=batch.degree[first:last],
        edge_ptr=batch.edge_ptr[first : last + 1] - batch.edge_ptr[first],
        edge_index=batch.edge_index[:, edges] - first,
        distance=batch.distance[edges],
        material_key=batch.material_key[start:stop],
    )


def _offsets(sizes: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
