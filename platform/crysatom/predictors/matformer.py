"""Matformer: a graph transformer with edges along lattice vectors. Yan et al., NeurIPS 2022, arXiv 2209.11807."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.nn.bases import radial_basis
from crysatom.nn.edges import Edges
from crysatom.nn.normalization import ViewBatchNorm
from crysatom.nn.pooling import pool
from crysatom.nn.products import Linear, linear
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.vectors.table import AtomVectors


class Matformer(Predictor):
    """Attention over neighbors and along lattice vectors, in which each component has its own gate.

    With 92 element features and default settings it has 2,782,849 parameters. It reads distances only, so equivalent
    atoms and equal edges are evaluated once.
    """

    OPTIONS: ClassVar[Mapping[str, float]] = {"heads": 4, "distance_bins": 128, "basis_cutoff": 8.0}
    """``heads``: attention heads; ``distance_bins``: Gaussians from 0 to ``basis_cutoff`` angstrom."""

    centers: Tensor

    def __init__(self, spec: PredictorSpec, vectors: AtomVectors) -> None:
        super().__init__(spec, vectors)
        width, bins = spec.width, int(self.options["distance_bins"])
        self.register_buffer("centers", torch.linspace(0, self.options["basis_cutoff"], bins), persistent=False)
        self.embedding = Linear(vectors.dim, width)
        self.edge_embedding = nn.Sequential(Linear(bins, width), nn.Softplus(), Linear(width, width))
        heads = int(self.options["heads"])
        self.layers = nn.ModuleList(AttentionLayer(width, heads) for _ in range(spec.num_layers))
        self.hidden = Linear(width, spec.hidden_dim)
        self.further = nn.ModuleList(Linear(spec.hidden_dim, spec.hidden_dim) for _ in range(spec.num_hidden - 1))
        self.out = nn.Linear(spec.hidden_dim, spec.outputs)

    def atoms(self, batch: Batch) -> Tensor:
        """Return the vectors of the atoms after the attention layers, ``(N, width)``."""
        distance, row = torch.unique(batch.distance, return_inverse=True)
        gamma = (len(self.centers) - 1) / self.options["basis_cutoff"]
        basis = self.edge_embedding(radial_basis(distance, self.centers, gamma))
        edges, atoms = Edges.of(batch, (basis, row))
        different, kind = self.table(batch.atomic_numbers[atoms.first])
        h: Tensor = self.embedding(different).index_select(0, kind)
        for layer in self.layers:
            h = layer(h, edges)
        return h.index_select(0, atoms.which)

    def readout(self, atoms: Tensor, batch: Batch) -> Tensor:
        """Return the normalized prediction ``(B,)``; for C classes log-probabilities ``(B, C)``."""
        x = F.silu(self.hidden(pool(atoms, batch)))
        for layer in self.further:
            x = F.silu(layer(x))
        x = self.out(x)
        return F.log_softmax(x, dim=1) if self.spec.outputs > 1 else x[:, 0]


class AttentionLayer(nn.Module):
    """One layer: messages of H heads, gated component by component, and the layer's input beside their sum.

    Along the edge from j to i a head has Q = [q_i, q_i, q_i], K = [k_i, k_j, e], V = [v_i, v_j, e], each 3C wide, and
    sends ``norm(W_2 (W_1 V * sigmoid(norm(Q * K / sqrt(3C)))))``. W_1 V is the sum of a part of each end and one of
    the distance; these are computed per atom and per distinct distance, not per edge.

    Args:
        width: C.
        heads: H; all share W_1, W_2 and norms.

    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.query = Linear(width, heads * width)
        self.key = Linear(width, heads * width)
        self.value = Linear(width, heads * width)
        self.edge = Linear(width, heads * width, bias=False)
        self.message = Linear(3 * width, 3 * width)
        self.gate_norm = nn.LayerNorm(3 * width)
        self.project = Linear(3 * width, width)
        self.project_norm = nn.LayerNorm(width)
        self.concat = Linear(heads * width, width)
        self.norm = ViewBatchNorm(width)
        self.skip = Linear(width, width)

    def forward(self, h: Tensor, edges: Edges) -> Tensor:
        """Return updated atom vectors ``(M, C)`` from ``(M, C)``; edges have ``basis`` ``(R, C)``."""
        by_head = (-1, self.heads, self.width)
        query, key, value = (part(h).view(by_head) for part in (self.query, self.key, self.value))
        edge = self.edge(edges.basis).view(by_head)
        at_center, at_neighbor, at_distance = self.message.weight.split(self.width, dim=1)
        center, neighbor, row = edges.center, edges.neighbor, edges.row
        at_query = query.index_select(0, center)
        alpha = torch.cat(
            [
                (query * key).index_select(0, center),
                at_query * key.index_select(0, neighbor),
                at_query * edge.index_select(0, row),
            ],
            dim=-1,
        )
        gate = torch.sigmoid(self.gate_norm(alpha / math.sqrt(3 * self.width)))
        message = (linear(value, at_center) + self.message.bias).index_select(0, center)
        message = message + linear(value, at_neighbor).index_select(0, neighbor)
        message = message + linear(edge, at_distance).index_select(0, row)
        message = self.project_norm(self.project(message * gate))
        total = self.concat(edges.sum_messages(message.flatten(1)))
        new: Tensor = F.silu(self.norm(total, 1, edges.multiplicity)) + self.skip(h)
        return new
