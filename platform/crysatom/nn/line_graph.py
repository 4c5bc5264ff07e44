"""Pairs of bonds that meet at an atom, and the angles between them.

Edges of a batch are sorted by the atom they arrive at, so the bonds that lead into a given bond are contiguous: the
line graph is offset arithmetic, computed on the device for each batch and never stored. One of the atoms, bonds and
angles that message passing cannot distinguish is kept: about half of those of 128 crystals of JARVIS-DFT.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.nn.equivalence import Classes, Multigraph, num_different, run_sums
from crysatom.nn.hashing import mix

ANGLE_RESOLUTION = 2.0**-18
"""Cosines are rounded to this grid of 4e-6, so that equal angles become equal numbers."""


@dataclass(frozen=True)
class LineGraph:
    """Edges between E bonds: from the bond k to j to the bond j to i, including the way back (k = i).

    Attributes:
        source: ``(T,)`` bond that ends where the target begins.
        target: ``(T,)`` bond that begins there, ascending.
        ptr: ``(E + 1,)`` first edge of each target.
        steps: ``(T,)`` int64, cosine of the angle at the shared atom, between the directions to its two neighbors, in
            units of :data:`ANGLE_RESOLUTION`; the angle of the way back is 0 degrees.

    """

    source: Tensor
    target: Tensor
    ptr: Tensor
    steps: Tensor

    @classmethod
    def of(cls, batch: Batch) -> LineGraph:
        """Return the line graph of a batch of graphs with vectors.

        Raises:
            ValueError: If the graphs have no vectors.

        """
        if "vector" not in batch:
            raise ValueError("angles need the vectors of edges: make the graphs with --directions")
        shared = batch.edge_index[0]
        counts = batch.degree[shared]
        ptr = F.pad(counts.cumsum(0), (1, 0))
        total = int(ptr[-1])
        bonds = torch.arange(len(shared), device=shared.device)
        target = torch.repeat_interleave(bonds, counts, output_size=total)
        first = batch.edge_ptr[shared] - ptr[:-1]
        source = torch.arange(total, device=shared.device) + first[target]
        direction = batch.vector / batch.vector.norm(dim=1, keepdim=True)
        cosine = -(direction[source] * direction[target]).sum(1)
        return cls(source, target, ptr, (cosine / ANGLE_RESOLUTION).round().long())


@dataclass(frozen=True)
class BondsAndAngles:
    """A crystal graph and its line graph.

    Attributes:
        atoms: Classes of the batch's atoms.
        bonds: Classes of its edges.
        crystal: Atoms, and bonds between them.
        line: Bonds, and angles between them.
        cosine: ``(T,)`` cosine of the angles, float32.

    """

    atoms: Classes
    bonds: Classes
    crystal: Multigraph
    line: Multigraph
    cosine: Tensor

    @classmethod
    def of(cls, batch: Batch) -> BondsAndAngles:
        """Return both graphs of a batch, with one atom, bond or angle per class of equal ones.

        Raises:
            ValueError: If the batch's graphs have no vectors.

        """
        angles = LineGraph.of(batch)
        atoms, bonds = _classes(batch, angles)
        crystal = Multigraph.of(atoms, bonds, batch.edge_index)
        is_first = torch.zeros_like(bonds.which, dtype=torch.bool)
        is_first[bonds.first] = True
        kept = is_first[angles.target]
        source, target, steps = bonds.which[angles.source[kept]], bonds.which[angles.target[kept]], angles.steps[kept]
        some = Classes.by(mix(mix(target, source), steps))
        source, target = source[some.first], target[some.first]
        line = Multigraph(source, target, bonds.size, some.size * bonds.size[target], some.size)
        return cls(atoms, bonds, crystal, line, steps[some.first].float() * ANGLE_RESOLUTION)


def _classes(batch: Batch, angles: LineGraph) -> tuple[Classes, Classes]:
    """Refine elements and distances along bonds and angles until the classes are stable."""
    neighbor, center = batch.edge_index
    atom = mix(batch.atomic_numbers.long(), 0)
    bond = mix(torch.unique(batch.distance, return_inverse=True)[1], 0)
    counts, refined = [-1, -1], [0, 0]
    while counts != refined:
        stable, counts = (atom, bond), refined
        arriving = run_sums(mix(bond[angles.source], angles.steps), angles.ptr)
        bond = mix(mix(mix(bond, atom[neighbor]), atom[center]), arriving)
        atom = mix(atom, run_sums(mix(bond, 0), batch.edge_ptr))
        refined = torch.stack([num_different(atom), num_different(bond)]).tolist()
    return Classes.by(stable[0]), Classes.by(stable[1])
