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
from crysatom.nn.equivalence import Classes, EquivalentAtoms, Multigraph
from crysatom.nn.hashing import mix
from crysatom.nn.normalization import ViewBatchNorm
from crysatom.nn.pooling import pool
from crysatom.nn.products import Linear, linear
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.vectors.table import AtomVectors

NEAREST = -0.75
"""Edge scalar of a near neighbor times the edge's length in angstrom."""


class PotNet(Predictor):
    """One message network for two kinds of edges: to near neighbors, and to every atom with all its images.

    With 92 element features and default settings it has 1,751,809 parameters. Equivalent atoms and equal edges are
    evaluated once.
    """

    OPTIONS: ClassVar[Mapping[str, float]] = {"distance_bins": 256, "potential_bins": 64, "largest": 4.0}
    """``distance_bins`` Gaussians and ``potential_bins`` multiquadrics from -``largest`` to ``largest``."""

    distances: Tensor
    potentials: Tensor

    def __init__(self, spec: PredictorSpec, vectors: AtomVectors) -> None:
        super().__init__(spec, vectors)
        width, largest = spec.width, self.options["largest"]
        for name in ("distance", "potential"):
            centers = torch.linspace(-largest, largest, int(self.options[f"{name}_bins"]))
            self.register_buffer(f"{name}s", centers, persistent=False)
        self.embedding = Linear(vectors.dim, width)
        self.distance_embedding = Linear(len(self.distances), width)
        self.potential_embedding = Linear(len(self.potentials), width)
        self.potential_norm = ViewBatchNorm(width)
        self.layers = nn.ModuleList(PotentialLayer(width) for _ in range(spec.num_layers))
        self.hidden = Linear(width, spec.hidden_dim)
        self.further = nn.ModuleList(Linear(spec.hidden_dim, spec.hidden_dim) for _ in range(spec.num_hidden - 1))
        self.out = nn.Linear(spec.hidden_dim, spec.outputs)

    def atoms(self, batch: Batch) -> Tensor:
        """Return the vectors of the atoms after all layers, ``(N, width)``.

        Raises:
            ValueError: If the graphs have no potentials.

        """
        if "potential" not in batch:
            raise ValueError("PotNet needs lattice sums: make the graphs with --potentials exact or published")
        length, near = torch.unique(batch.distance, return_inverse=True)
        potential, far = torch.unique(batch.potential, return_inverse=True)
        row = torch.cat([near, far + len(length)])
        edge_index = torch.cat([batch.edge_index, batch.pair_index], dim=1)
        atoms = EquivalentAtoms.by_edges(batch.atomic_numbers, edge_index, row)
        neighbor, center = atoms.which[edge_index]
        classes = Classes.by(mix(mix(center, neighbor), row))
        graph = Multigraph.of(atoms, classes, edge_index)
        edges = self._edges(length, potential, torch.bincount(far, minlength=len(potential)))
        different, kind = self.table(batch.atomic_numbers[atoms.first])
        h: Tensor = self.embedding(different).index_select(0, kind)
        for layer in self.layers:
            h = layer(h, edges, row[classes.first], graph)
        return h.index_select(0, atoms.which)

    def _edges(self, length: Tensor, potential: Tensor, count: Tensor) -> Tensor:
        """Embed distinct lengths and distinct potentials, each of which occurs ``count`` times."""
        near = F.silu(self.distance_embedding(gaussian_basis(NEAREST / length, self.distances)))
        basis = multiquadric_basis(potential, self.potentials)
        far = F.softplus(self.potential_embedding(basis))
        return torch.cat([near, self.potential_norm(far, 1, count.to(far.dtype))])

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
    """Gated messages from both ends and the edge, by two networks of two layers; adds their normalized sum.

    Args:
        width: Width of atoms and edges, C.

    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.ModuleList([Linear(3 * width, width), Linear(width, width)])
        self.value = nn.ModuleList([Linear(3 * width, width), Linear(width, width)])
        self.gate_norm = ViewBatchNorm(width)
        self.norm = ViewBatchNorm(width)

    def forward(self, h: Tensor, edges: Tensor, row: Tensor, graph: Multigraph) -> Tensor:
        """Return updated atoms ``(n, C)``, from distinct edges ``(R, C)`` and the row of each edge ``(m,)``."""
        gate, value = (_two_layers(part, h, edges, row, graph) for part in (self.gate, self.value))
        messages = torch.sigmoid(self.gate_norm(gate, 1, graph.edges.to(h.dtype))) * value
        messages = messages * graph.copies.to(h.dtype)[:, None]
        total = torch.zeros_like(h).index_add(0, graph.target, messages)
        return F.relu(h + self.norm(total, 1, graph.nodes.to(h.dtype)))


def _two_layers(layers: nn.ModuleList, h: Tensor, edges: Tensor, row: Tensor, graph: Multigraph) -> Tensor:
    """Apply the network to [center, neighbor, edge], ``(m, C)``; the contribution of each is computed once."""
    first, second = layers
    assert isinstance(first, nn.Linear)
    of_center, of_neighbor, of_edge = first.weight.split(h.shape[1], dim=1)
    hidden = (linear(edges, of_edge) + first.bias).index_select(0, row)
    hidden = hidden + linear(h, of_center).index_select(0, graph.target)
    hidden = hidden + linear(h, of_neighbor).index_select(0, graph.source)
    result: Tensor = second(F.silu(hidden))
    return result
