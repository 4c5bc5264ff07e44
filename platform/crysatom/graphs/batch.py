"""From flat graph arrays to PyG batches, without a Python loop over crystals.

Shapes: B crystals, N atoms, E edges. A batch holds

    atomic_numbers  (N,) int64
    degree          (N,) int64    edges of each atom
    atom_slot       (N,) int64    index of the atom within its crystal
    edge_index      (2, E) int64  row 0: neighbor, row 1: center; sorted by center
    distance        (E,) float32  angstrom
    slot            (E,) int64    position of the edge within its atom's list
    material_key    (B,) int64
    batch, ptr      (N,), (B + 1,) int64, as PyG defines them
    edge_ptr        (N + 1,) int64, first edge of each atom, counted in the batch

and, if graphs have them,

    vector          (E, 3) float32  from the center of each edge to its neighbor, angstrom
    pair_index      (2, Q) int64    pairs of atoms of each crystal, row 0: the other atom, row 1: the atom
    potential       (Q,) float32    lattice sum of each pair
    pair_ptr        (B + 1,) int64  first pair of each crystal

and, in a condensed batch (:mod:`crysatom.nn.condensed`),

    multiplicity    (N,) int64    number of atoms of the crystal that each atom represents
    copies          (E,) int64    number of edges of the center atom that each edge represents
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.counting import count
from crysatom.graphs.graph import GraphArrays
from crysatom.names import ATOMIC_NUMBERS, DEGREE, DISTANCE, MATERIAL_KEY, NEIGHBOR, POTENTIAL, VECTOR


@dataclass(frozen=True, kw_only=True)
class GraphTensors:
    """Graphs of B crystals on one device; the tensors of :class:`GraphArrays` that a step reads.

    Attributes:
        material_keys: ``(B,)`` int64.
        atom_ptr: ``(B + 1,)`` int64.
        edge_ptr: ``(N + 1,)`` int64.
        atomic_numbers: ``(N,)`` uint8.
        neighbor: ``(E,)`` int32, index within its crystal.
        distance: ``(E,)`` float32, angstrom.
        multiplicity: ``(N,)`` int32, number of equivalent atoms that each represents; None: one.
        copies: ``(E,)`` int32, number of equivalent edges of its center that each represents; None: one.
        vector: ``(E, 3)`` float32, from the center of each edge to its neighbor, angstrom; or None.
        potential: ``(sum of squared atom counts,)`` float32, lattice sums of each crystal's pairs of atoms, row by
            row, NaN where there is no pair; or None.

    """

    material_keys: Tensor
    atom_ptr: Tensor
    edge_ptr: Tensor
    atomic_numbers: Tensor
    neighbor: Tensor
    distance: Tensor
    multiplicity: Tensor | None = None
    copies: Tensor | None = None
    vector: Tensor | None = None
    potential: Tensor | None = None

    @classmethod
    def of(cls, arrays: GraphArrays) -> GraphTensors:
        """Return the arrays as tensors that share memory, except ``neighbor``: torch cannot gather uint16 on a GPU."""
        return cls(
            material_keys=torch.from_numpy(arrays.material_keys),
            atom_ptr=torch.from_numpy(arrays.atom_ptr),
            edge_ptr=torch.from_numpy(arrays.edge_ptr),
            atomic_numbers=torch.from_numpy(arrays.atomic_numbers),
            neighbor=torch.from_numpy(arrays.neighbor.astype(np.int32)),
            distance=torch.from_numpy(arrays.distance),
            vector=None if arrays.vector is None else torch.from_numpy(arrays.vector),
            potential=None if arrays.potential is None else torch.from_numpy(arrays.potential),
        )

    def to(self, device: torch.device | str) -> GraphTensors:
        """Return a copy on the device."""
        return GraphTensors(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: tensor for name, tensor in named if tensor is not None}

    @property
    def num_crystals(self) -> int:
        """Number of crystals, B."""
        return len(self.atom_ptr) - 1

    @cached_property
    def pair_ptr(self) -> Tensor:
        """``(B + 1,)`` int64, first pair of atoms of each crystal."""
        return _offsets(self.atom_ptr.diff().square())

    @cached_property
    def sizes(self) -> Tensor:
        """``(B, 3)`` int64 on the CPU: atoms, edges, and ordered pairs of atoms of each crystal."""
        atoms = self.atom_ptr.diff()
        return torch.stack([atoms, self.edge_ptr[self.atom_ptr].diff(), atoms.square()], dim=1).cpu()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors().values())


def collate(table: pa.Table | pa.RecordBatch) -> Batch:
    """Return the crystals of graph-shard rows as one batch; slices and chunked columns are supported.

    Args:
        table: Columns material_key, atomic_numbers, degree, neighbor, distance and, if present, vector and potential;
            others are ignored.

    """
    extra = {
        name: torch.from_numpy(np.array(flat_values(table[name]), dtype=np.float32))
        for name in (VECTOR, POTENTIAL)
        if name in table.schema.names
    }
    if VECTOR in extra:
        extra[VECTOR] = extra[VECTOR].view(-1, 3)
    return _assemble(
        material_key=torch.from_numpy(np.array(table[MATERIAL_KEY].to_numpy(), dtype=np.int64)),
        num_atoms=torch.from_numpy(np.array(list_lengths(table[ATOMIC_NUMBERS]))),
        atomic_numbers=torch.from_numpy(flat_values(table[ATOMIC_NUMBERS]).astype(np.int64)),
        degree=torch.from_numpy(flat_values(table[DEGREE]).astype(np.int64)),
        neighbor=torch.from_numpy(flat_values(table[NEIGHBOR]).astype(np.int64)),
        distance=torch.from_numpy(np.array(flat_values(table[DISTANCE]), dtype=np.float32)),
        **extra,
    )


def select(graphs: GraphTensors, crystals: Tensor) -> Batch:
    """Gather crystals into one batch, in the given order; indices may repeat.

    Args:
        graphs: Graphs on any device.
        crystals: ``(B,)`` int64 indices.

    """
    num_atoms, num_edges, num_pairs = graphs.sizes[crystals.cpu()].sum(0).tolist()
    crystals = crystals.to(graphs.atom_ptr.device, non_blocking=True)
    first_atom, end_atom = graphs.atom_ptr[crystals], graphs.atom_ptr[crystals + 1]
    atom_counts = end_atom - first_atom
    atoms = _ranges(first_atom, atom_counts, num_atoms)
    first_edge = graphs.edge_ptr[first_atom]
    edges = _ranges(first_edge, graphs.edge_ptr[end_atom] - first_edge, num_edges)
    pairs = None if graphs.potential is None else _ranges(graphs.pair_ptr[crystals], atom_counts.square(), num_pairs)
    return _assemble(
        material_key=graphs.material_keys[crystals],
        num_atoms=atom_counts,
        atomic_numbers=graphs.atomic_numbers[atoms].long(),
        degree=graphs.edge_ptr[atoms + 1] - graphs.edge_ptr[atoms],
        neighbor=graphs.neighbor[edges].long(),
        distance=graphs.distance[edges],
        multiplicity=None if graphs.multiplicity is None else graphs.multiplicity[atoms].long(),
        copies=None if graphs.copies is None else graphs.copies[edges].long(),
        vector=None if graphs.vector is None else graphs.vector[edges],
        potential=None if graphs.potential is None else graphs.potential[pairs],
    )


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Return the crystals from ``start`` to ``stop`` of a batch; most of its tensors are views of the batch's.

    Args:
        batch: Crystals; it may have ``target`` and ``crystal`` (B,), as the loaders add.
        start: First crystal.
        stop: The crystal after the last.

    """
    first_atom, end_atom = batch.ptr[start], batch.ptr[stop]
    bounds = torch.stack([first_atom, end_atom, batch.edge_ptr[first_atom], batch.edge_ptr[end_atom]]).tolist()
    crystals, atoms, edges = slice(start, stop), slice(*bounds[:2]), slice(*bounds[2:])
    part = Batch(_base_cls=Data)
    store = part._store  # noqa: SLF001 - as below
    store.update({name: batch[name][atoms] for name in _OF_ATOMS if name in batch})
    store.update({name: batch[name][edges] for name in _OF_EDGES if name in batch})
    store.update({name: batch[name][crystals] for name in _OF_CRYSTALS if name in batch})
    store.update(
        {
            "edge_index": batch.edge_index[:, edges] - first_atom,
            "num_nodes": atoms.stop - atoms.start,
            "batch": batch.batch[atoms] - start,
            "ptr": batch.ptr[start : stop + 1] - first_atom,
            "edge_ptr": batch.edge_ptr[atoms.start : atoms.stop + 1] - edges.start,
        }
    )
    if "potential" in batch:
        pairs = slice(*batch.pair_ptr[[start, stop]].tolist())
        store["pair_index"] = batch.pair_index[:, pairs] - first_atom
        store["potential"], store["pair_ptr"] = batch.potential[pairs], batch.pair_ptr[start : stop + 1] - pairs.start
    _remember_parts(part, part.ptr, part.edge_ptr[part.ptr])
    return part


_OF_ATOMS = ("atomic_numbers", "degree", "atom_slot", "multiplicity")
_OF_EDGES = ("distance", "slot", "copies", "vector")
_OF_CRYSTALS = ("material_key", "target", "crystal")


def _offsets(counts: Tensor) -> Tensor:
    """Return the ``(n + 1,)`` running sum of ``(n,)`` counts, from zero."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _ranges(starts: Tensor, counts: Tensor, total: int) -> Tensor:
    """Return ``start, start + 1, ...`` (count of them, in total ``total``) for each start, concatenated."""
    shift = torch.repeat_interleave(starts - counts.cumsum(0) + counts, counts, output_size=total)
    return shift + torch.arange(total, device=starts.device)


def _assemble(  # noqa: PLR0913 - keyword-only
    *,
    material_key: Tensor,
    num_atoms: Tensor,
    atomic_numbers: Tensor,
    degree: Tensor,
    neighbor: Tensor,
    distance: Tensor,
    multiplicity: Tensor | None = None,
    copies: Tensor | None = None,
    vector: Tensor | None = None,
    potential: Tensor | None = None,
) -> Batch:
    """Build the batch from flat arrays; ``neighbor`` is an index within the crystal, ``num_atoms`` is ``(B,)``."""
    device = atomic_numbers.device
    total_atoms, total_edges = len(atomic_numbers), len(neighbor)
    ptr, edge_ptr = _offsets(num_atoms), _offsets(degree)
    crystal = torch.repeat_interleave(torch.arange(len(num_atoms), device=device), num_atoms, output_size=total_atoms)
    first_atom = ptr[crystal]
    center = torch.repeat_interleave(torch.arange(total_atoms, device=device), degree, output_size=total_edges)
    batch = Batch(_base_cls=Data)
    store = batch._store  # noqa: SLF001 - setting many attributes through Data costs a third of the time
    store.update(
        {
            "atomic_numbers": atomic_numbers,
            "degree": degree,
            "atom_slot": torch.arange(total_atoms, device=device) - first_atom,
            "edge_index": torch.stack([neighbor + first_atom[center], center]),
            "distance": distance,
            "slot": torch.arange(total_edges, device=device) - edge_ptr[center],
            "material_key": material_key,
            "num_nodes": total_atoms,
            "batch": crystal,
            "ptr": ptr,
            "edge_ptr": edge_ptr,
        }
    )
    if multiplicity is not None and copies is not None:
        store.update({"multiplicity": multiplicity, "copies": copies})
    if vector is not None:
        store["vector"] = vector
    if potential is not None:
        per_atom = num_atoms[crystal]
        atom = torch.repeat_interleave(torch.arange(total_atoms, device=device), per_atom, output_size=len(potential))
        pairs = torch.stack([_ranges(first_atom, per_atom, len(potential)), atom])
        kept = (~potential.isnan()).nonzero()[:, 0]
        per_crystal = count(crystal[atom[kept]], len(num_atoms))
        store.update({"pair_index": pairs[:, kept], "potential": potential[kept], "pair_ptr": _offsets(per_crystal)})
    _remember_parts(batch, ptr, edge_ptr[ptr])
    return batch


def _remember_parts(batch: Batch, atoms: Tensor, edges: Tensor) -> None:
    """Record where each crystal begins, as ``Batch.from_data_list`` does, so that ``to_data_list`` works."""
    crystals = torch.arange(len(atoms), device=atoms.device)
    slices = {
        "atomic_numbers": atoms,
        "degree": atoms,
        "atom_slot": atoms,
        "edge_index": edges,
        "distance": edges,
        "slot": edges,
        "material_key": crystals,
    }
    extra = {"multiplicity": atoms, "copies": edges, "vector": edges}
    if "potential" in batch:
        extra |= dict.fromkeys(("pair_index", "potential"), batch.pair_ptr)
    slices |= {name: parts for name, parts in extra.items() if name in batch}
    nothing = torch.zeros_like(atoms[:-1])
    batch._num_graphs = len(atoms) - 1  # noqa: SLF001 - PyG has no public setter
    batch._slice_dict = slices  # noqa: SLF001
    batch._inc_dict = {name: atoms[:-1] if name in {"edge_index", "pair_index"} else nothing for name in slices}  # noqa: SLF001
    batch._store.__dict__["_num_nodes"] = _Counts(atoms)  # noqa: SLF001


class _Counts:
    """Number of atoms of each crystal, read from the device on access."""

    def __init__(self, ptr: Tensor) -> None:
        self.ptr = ptr

    def __getitem__(self, index: int) -> int:
        return int(self.ptr[index + 1] - self.ptr[index])
