"""coGN: a graph network on the crystal's inequivalent atoms. Ruff et al., Digital Discovery 3, 594 (2024).

arXiv 2302.14102; the settings are those of the released code (aimat-lab/coGN and gcnn_keras, MIT). In 2023 it was the
best entry of the JARVIS leaderboard for six of the seven properties of CrysAtom's paper, and second to its nested
variant for the seventh. It needs distances only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.nn.bases import radial_basis
from crysatom.nn.edges import Edges
from crysatom.nn.pooling import pool
from crysatom.nn.products import Linear, linear
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.vectors.table import AtomVectors


class CoGN(Predictor):
    """Message passing by a deep network on an edge and both its ends; no normalization over the batch.

    The paper evaluates one atom for all that are equivalent under the space group. All predictors here that read
    distances only do so too (:mod:`crysatom.nn.condensed`), without a search for symmetry. Besides the atomic number,
    its code reads mass, radius, electronegativity, ionization energy and oxidation states of an element; here the atom
    vectors replace them.
    """

    OPTIONS: ClassVar[Mapping[str, float]] = {"message_layers": 5, "distance_bins": 32, "basis_cutoff": 8.0}
    """``message_layers`` of the message network; ``distance_bins`` Gaussians up to ``basis_cutoff`` angstrom."""

    centers: Tensor

    def __init__(self, spec: PredictorSpec, vectors: AtomVectors) -> None:
        super().__init__(spec, vectors)
        width, bins, cutoff = spec.width, int(self.options["distance_bins"]), self.options["basis_cutoff"]
        self.register_buffer("centers", torch.arange(1, bins + 1) * (cutoff / bins), persistent=False)
        self.embedding = Linear(vectors.dim, width)
        self.edge_embedding = Linear(bins, width)
        depth = int(self.options["message_layers"])
        self.layers = nn.ModuleList(MessageLayer(width, depth) for _ in range(spec.num_layers))
        self.out = nn.Linear(width, spec.outputs)
        self.apply(_initialize)

    def atoms(self, batch: Batch) -> Tensor:
        """Return the vectors of the atoms after all layers, ``(N, width)``."""
        distance, row = torch.unique(batch.distance, return_inverse=True)
        spacing = self.options["basis_cutoff"] / len(self.centers)
        basis = self.edge_embedding(radial_basis(distance, self.centers, 0.5 / spacing))  # the variance is the spacing
        edges, atoms = Edges.of(batch, (basis, row))
        different, kind = self.table(batch.atomic_numbers[atoms.first])
        h: Tensor = self.embedding(different).index_select(0, kind)
        for layer in self.layers:
            h = layer(h, edges)
        return h.index_select(0, atoms.which)

    def readout(self, atoms: Tensor, batch: Batch) -> Tensor:
        """Return the normalized prediction ``(B,)``; for C classes log-probabilities ``(B, C)``."""
        x = self.out(pool(atoms, batch))
        return F.log_softmax(x, dim=1) if self.spec.outputs > 1 else x[:, 0]


def _initialize(module: nn.Module) -> None:
    """Initialize as Keras does (Glorot & Bengio 2010): with torch's smaller weights, five layers lose the distances."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class MessageLayer(nn.Module):
    """Add a layer's output for the sum of its messages to each atom.

    Args:
        width: Width of atoms, edges and messages, C.
        depth: Number of layers of the message network.

    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first = Linear(3 * width, width)
        self.others = nn.ModuleList(Linear(width, width) for _ in range(depth - 1))
        self.update = Linear(width, width)

    def forward(self, h: Tensor, edges: Edges) -> Tensor:
        """Return updated atom vectors ``(M, C)`` from ``(M, C)``; edges have ``basis`` ``(R, C)``."""
        of_edge, of_center, of_neighbor = self.first.weight.split(h.shape[1], dim=1)
        message = (linear(edges.basis, of_edge) + self.first.bias).index_select(0, edges.row)
        message = message + linear(h, of_center).index_select(0, edges.center)
        message = F.silu(message + linear(h, of_neighbor).index_select(0, edges.neighbor))
        for layer in self.others:
            message = F.silu(layer(message))
        return h + F.silu(self.update(edges.sum_messages(message)))
