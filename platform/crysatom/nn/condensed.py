"""Graphs of whole data sets with each atom and edge once that networks of messages cannot tell from others.

What is learned of labeled crystals reads every crystal in every epoch, unmasked. Equal atoms are found once, before;
then equal edges: in rock salt an atom's six nearest neighbors are one, six times. Nothing is approximated.
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
"""Crystals at a time, to bound the memory."""


def condensed(graphs: GraphTensors) -> GraphTensors:
    """Return the same crystals with one atom per class of equivalent ones and one edge per class of equal ones.

    Graphs with vectors or potentials are returned as they are: atoms that distances do not tell apart, those may.
    Atoms keep the order of the first of each class, edges that of the first of their copies.

    Args:
        graphs: Graphs of which each atom and edge stands for itself.

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
    """Return atoms of each crystal; degree, element and multiplicity of atoms; neighbor, distance, copies of edges."""
    row = batch.distance.view(torch.int32).long()  # equal where the bits are
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
    """Return the first place of each different key, ascending, and how often each occurs."""
    different, which, counts = torch.unique(key, return_inverse=True, return_counts=True)
    places = torch.arange(len(key), device=key.device)
    first, order = key.new_full((len(different),), len(key)).scatter_reduce(0, which, places, "amin").sort()
    return first, counts[order]
