"""Condense graphs of whole data sets: keep one of the atoms and edges that message passing cannot distinguish.

Supervised training reads every crystal in every epoch, unmasked. Equivalent atoms are found once, before training;
then equal edges: in rock salt, an atom's six nearest neighbors become one edge with six copies. Nothing is
approximated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.graphs.batch import GraphTensors, select
from crysatom.nn.equivalence import EquivalentAtoms
from crysatom.nn.hashing import mix

BLOCK = 4096
"""Crystals processed at a time, to bound memory."""


def condensed(graphs: GraphTensors) -> GraphTensors:
    """Return the same crystals with one atom per class of equivalent atoms and one edge per class of equal edges.

    Graphs with vectors or potentials are returned unchanged: these may distinguish atoms that distances do not.
    Atoms are in order of the first atom of each class, edges in order of their first copy.

    Args:
        graphs: Graphs that are not condensed.

    """
    if graphs.vector is not None or graphs.potential is not None:
        return graphs
    crystals = torch.arange(graphs.num_crystals, device=graphs.atom_ptr.device)
    parts = [_condense(select(graphs, some)) for some in crystals.split(BLOCK)]
    atoms, degree, atomic_numbers, multiplicity, neighbor, distance, copies = (
        torch.cat(columns) for columns in zip(*parts, strict=True)
    )
    return GraphTensors(
        material_keys=graphs.material_keys,
        atom_ptr=F.pad(atoms.cumsum(0), (1, 0)),
        edge_ptr=F.pad(degree.cumsum(0), (1, 0)),
        atomic_numbers=atomic_numbers,
        neighbor=neighbor,
        distance=distance,
        multiplicity=multiplicity,
        copies=copies,
    )


def _condense(batch: Batch) -> tuple[Tensor, ...]:
    """Return atoms per crystal; degree, element and multiplicity of atoms; neighbor, distance and copies of edges."""
    row = batch.distance.view(torch.int32).long()  # equal if the bits are equal
    classes = EquivalentAtoms.of(batch, row, across=False)
    crystal = batch.batch[classes.first]
    is_first = torch.zeros_like(batch.batch, dtype=torch.bool)
    is_first[classes.first] = True
    kept = is_first[batch.edge_index[1]]
    neighbor, center = classes.which[batch.edge_index[:, kept]]
    edges, copies = _different(mix(mix(center, neighbor), row[kept]))
    atoms = torch.bincount(crystal, minlength=batch.num_graphs)
    first_atom = F.pad(atoms.cumsum(0), (1, 0))[:-1]
    return (
        atoms,
        torch.bincount(center[edges], minlength=len(crystal)),
        batch.atomic_numbers[classes.first].to(torch.uint8),
        classes.size.int(),
        (neighbor - first_atom[crystal[center]])[edges].int(),
        batch.distance[kept][edges],
        copies.int(),
    )


def _different(key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first position of each distinct key, ascending, and how often each occurs."""
    different, which, counts = torch.unique(key, return_inverse=True, return_counts=True)
    places = torch.arange(len(key), device=key.device)
    first, order = key.new_full((len(different),), len(key)).scatter_reduce(0, which, places, "amin").sort()
    return first, counts[order]
