"""Pairs of bonds that meet at an atom, and the angles between them.

Edges of a batch are sorted by the atom they arrive at, so that the bonds which continue into a given one are a run of
them: the line graph is offsets arithmetic, done on the device for each batch, and never stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Batch

ANGLE_RESOLUTION = 2.0**-18
"""Cosines are kept on a grid of 4e-6, by which equal angles become equal numbers."""


@dataclass(frozen=True)
class LineGraph:
    """Edges between E bonds: from the bond k to j to the bond j to i, the one back (k = i) among them.

    Attributes:
        source: ``(T,)`` bond that ends where the other begins.
        target: ``(T,)`` the other, ascending.
        cosine: ``(T,)`` of the angle at the atom that both share, between the directions to its two neighbors; 1 for
            the way back.

    """

    source: Tensor
    target: Tensor
    cosine: Tensor

    @classmethod
    def of(cls, batch: Batch) -> LineGraph:
        """Return the line graph of a batch of graphs with vectors.

        Raises:
            ValueError: If the graphs have none.

        """
        if "vector" not in batch:
            raise ValueError("angles need the vectors of edges: make the graphs with --directions")
        shared = batch.edge_index[0]
        counts = batch.degree[shared]
        ends = counts.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        bonds = torch.arange(len(shared), device=shared.device)
        target = torch.repeat_interleave(bonds, counts, output_size=total)
        first = batch.edge_ptr[shared] - (ends - counts)
        source = torch.arange(total, device=shared.device) + first[target]
        direction = batch.vector / batch.vector.norm(dim=1, keepdim=True)
        cosine = -(direction[source] * direction[target]).sum(1)
        return cls(source, target, (cosine / ANGLE_RESOLUTION).round() * ANGLE_RESOLUTION)
