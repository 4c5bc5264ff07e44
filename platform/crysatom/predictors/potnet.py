"""PotNet: messages over all pairs of atoms, by lattice sums of potentials. Lin et al., ICML 2023, arXiv 2306.10045.

Written from the paper's description; its code was not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.nn.bases import gaussian_basis
from crysatom.nn.normalization import ViewBatchNorm
from crysatom.nn.pooling import pool
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.vectors.table import AtomVectors

NEAREST = -0.75
"""Scalar of an edge to a near neighbor, times its length in angstrom."""


class PotNet(Predictor):
    """One network of messages for two kinds of edges: to near neighbors, and to every atom with all its images.

    With 92 element features and its default settings it has 1,751,809 parameters.
    """

    OPTIONS: ClassVar[Mapping[str, float]] = {"distance_bins": 256, "potential_bins": 64, "largest": 4.0}
    """``distance_bins`` Gaussians and ``potential_bins`` multiquadrics, from -``largest`` to ``largest``."""

    distances: Tensor
    potentials: Tensor

    def __init__(self, spec: PredictorSpec, vectors: AtomVectors) -> None:
        super().__init__(spec, vectors)
        width, largest = spec.width, self.options["largest"]
        for name in ("distance", "potential"):
            centers = torch.linspace(-largest, largest, int(self.options[f"{name}_bins"]))
            self.register_buffer(f"{name}s", centers, persistent=False)
        self.embedding = nn.Linear(vectors.dim, width)
        self.distance_embedding = nn.Linear(len(self.distances), width)
        self.potential_embedding = nn.Linear(len(self.potentials), width)
        self.potential_norm = ViewBatchNorm(width)
        self.layers = nn.ModuleList(PotentialLayer(width) for _ in range(spec.num_layers))
        self.hidden = nn.Linear(width, spec.hidden_dim)
        self.further = nn.ModuleList(nn.Linear(spec.hidden_dim, spec.hidden_dim) for _ in range(spec.num_hidden - 1))
        self.out = nn.Linear(spec.hidden_dim, spec.outputs)

    def atoms(self, batch: Batch) -> Tensor:
        """Return the vectors of the atoms after all layers, ``(N, width)``.

        Raises:
            ValueError: If the graphs have no potentials.

        """
        if "potential" not in batch:
            raise ValueError("PotNet needs lattice sums: make the graphs with --potentials exact or published")
        near = F.silu(self.distance_embedding(gaussian_basis(NEAREST / batch.distance, self.distances)))
        basis = multiquadric_basis(batch.potential, self.potentials)
        far = self.potential_norm(F.softplus(self.potential_embedding(basis)), 1)
        edges, edge_index = torch.cat([near, far]), torch.cat([batch.edge_index, batch.pair_index], dim=1)
        different, kind = self.table(batch.atomic_numbers)
        h: Tensor = self.embedding(different).index_select(0, kind)
        for layer in self.layers:
            h = layer(h, edges, edge_index)
        return h

    def readout(self, atoms: Tensor, batch: Batch) -> Tensor:
        """Return the normalized prediction ``(B,)``; for C classes log-probabilities ``(B, C)``."""
        x = F.softplus(self.hidden(pool(atoms, batch))) - math.log(2)
        for layer in self.further:
            x = F.softplus(layer(x)) - math.log(2)
        x = self.out(x)
        return F.log_softmax(x, dim=1) if self.spec.outputs > 1 else x[:, 0]


def multiquadric_basis(value: Tensor, centers: Tensor) -> Tensor:
    r"""Expand values in multiquadrics, :math:`\sqrt{1 + ((x - \mu) / s)^2}` with s the spacing of the centers.

    Args:
        value: ``(E,)``.
        centers: ``(F,)``, evenly spaced.

    Returns:
        ``(E, F)``, in the type of ``centers``.

    """
    spacing = centers[1] - centers[0]
    return torch.sqrt(1 + ((value.to(centers.dtype)[:, None] - centers) / spacing).square())


class PotentialLayer(nn.Module):
    """Gated messages from both ends and the edge, by two networks of two layers; their sum, normalized, is added.

    Args:
        width: Of atoms and edges.

    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.ModuleList([nn.Linear(3 * width, width), nn.Linear(width, width)])
        self.value = nn.ModuleList([nn.Linear(3 * width, width), nn.Linear(width, width)])
        self.gate_norm = ViewBatchNorm(width)
        self.norm = ViewBatchNorm(width)

    def forward(self, h: Tensor, edges: Tensor, edge_index: Tensor) -> Tensor:
        """Return new atoms ``(N, C)`` from ``(N, C)``, edges ``(E, C)`` and ``(2, E)``, row 1 where they arrive."""
        neighbor, center = edge_index
        gate, value = (_two_layers(part, h, edges, neighbor, center) for part in (self.gate, self.value))
        messages = torch.sigmoid(self.gate_norm(gate, 1)) * value
        return F.relu(h + self.norm(torch.zeros_like(h).index_add(0, center, messages), 1))


def _two_layers(layers: nn.ModuleList, h: Tensor, edges: Tensor, neighbor: Tensor, center: Tensor) -> Tensor:
    """Return the network of [center, neighbor, edge], ``(E, C)``; what an atom contributes is computed once."""
    first, second = layers
    assert isinstance(first, nn.Linear)
    of_center, of_neighbor, of_edge = first.weight.split(h.shape[1], dim=1)
    hidden = edges @ of_edge.T + first.bias
    hidden = hidden + (h @ of_center.T).index_select(0, center) + (h @ of_neighbor.T).index_select(0, neighbor)
    result: Tensor = second(F.silu(hidden))
    return result
