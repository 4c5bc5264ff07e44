"""Encoder: element features, then crystal-graph convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.nn.bases import expand_different, gaussian_centers
from crysatom.nn.edges import Edges
from crysatom.nn.gated_conv import GatedConv


class Encoder(nn.Module):
    """CrysAtom's encoder (paper eq. 1): a linear map of element features and L convolutions.

    Differences from the published code: a table per element instead of features per atom (the same numbers), masks
    that can be true masks, and an optional learned vector at masked atoms.

    Args:
        features: ``(M, K)`` features of the elements.
        atomic_numbers: ``(M,)`` their atomic numbers.
        width: D.
        num_layers: L.
        cutoff: Largest distance, in angstrom; determines the Gaussians.
        learned_mask: Give masked atoms a learned vector instead of zero.

    """

    features: Tensor
    centers: Tensor

    def __init__(
        self,
        features: Tensor,
        atomic_numbers: Tensor,
        *,
        width: int,
        num_layers: int,
        cutoff: float,
        learned_mask: bool,
    ) -> None:
        super().__init__()
        table = torch.zeros(MAX_ATOMIC_NUMBER + 1, features.shape[1])
        table[atomic_numbers.long()] = features
        self.register_buffer("features", table, persistent=False)
        self.register_buffer("centers", gaussian_centers(cutoff).float(), persistent=False)
        self.embedding = nn.Linear(features.shape[1], width, bias=False)
        self.mask_vector = nn.Parameter(torch.zeros(width)) if learned_mask else None
        self.convs = nn.ModuleList(GatedConv(width, len(self.centers)) for _ in range(num_layers))

    def basis(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features ``(R, F)`` of the R distinct distances, and the row of each edge ``(E,)``."""
        return expand_different(distance, self.centers)

    def unmasked(self, batch: Batch, features: tuple[Tensor, Tensor]) -> Tensor:
        """Return the vectors ``(N, D)`` of a batch's atoms, given the result of :meth:`basis`."""
        edges, atoms = Edges.of(batch, features)
        h: Tensor = self(batch.atomic_numbers[atoms.first].long(), edges)
        return h.index_select(0, atoms.which)

    def forward(self, atomic_numbers: Tensor, edges: Edges, *, track: bool = True) -> Tensor:
        """Return the vectors of atoms.

        Args:
            atomic_numbers: ``(M,)``; 0 marks a masked atom.
            edges: Edges between them.
            track: Update the running statistics, which evaluation of unmasked crystals uses.

        Returns:
            ``(M, D)``.

        """
        table = self.embedding(self.features)
        if self.mask_vector is not None:
            table = torch.cat([self.mask_vector[None], table[1:]])
        h: Tensor = self.convs[0](table, edges, kind=atomic_numbers, track=track)
        for conv in list(self.convs)[1:]:
            h = conv(h, edges, track=track)
        return h
