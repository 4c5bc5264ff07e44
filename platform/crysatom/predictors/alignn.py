"""ALIGNN: message passing between atoms and between bonds. Choudhary & DeCost, npj Comput. Mater. 7, 185 (2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.nn.bases import radial_basis
from crysatom.nn.edge_gated import EdgeGatedConv
from crysatom.nn.line_graph import BondsAndAngles
from crysatom.nn.normalization import ViewBatchNorm
from crysatom.nn.pooling import pool
from crysatom.nn.products import Linear
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.vectors.table import AtomVectors


class ALIGNN(Predictor):
    """Edge-gated convolutions alternating on the crystal graph and its line graph, then on the crystal graph alone.

    With 92 element features and default settings it has 4,026,753 parameters. 1,024 of them, the affine parts of the
    last norms of bonds and angles, have no effect and are not trained.
    """

    OPTIONS: ClassVar[Mapping[str, float]] = {
        "plain_layers": 4,
        "embedding": 64,
        "distance_bins": 80,
        "angle_bins": 40,
        "basis_cutoff": 8.0,
    }
    """``plain_layers``: layers without angles, after ``num_layers`` with them; ``embedding``: width of the first layer
    after the Gaussians; ``distance_bins``: Gaussians from 0 to ``basis_cutoff`` angstrom; ``angle_bins``: Gaussians of
    the cosine."""

    distance_centers: Tensor
    cosine_centers: Tensor

    def __init__(self, spec: PredictorSpec, vectors: AtomVectors) -> None:
        super().__init__(spec, vectors)
        width, option = spec.width, {name: int(value) for name, value in self.options.items()}
        distances = torch.linspace(0, self.options["basis_cutoff"], option["distance_bins"])
        self.register_buffer("distance_centers", distances, persistent=False)
        self.register_buffer("cosine_centers", torch.linspace(-1, 1, option["angle_bins"]), persistent=False)
        self.embedding = Dense(vectors.dim, width)
        self.bond_embedding = Embedding(len(self.distance_centers), option["embedding"], width)
        self.angle_embedding = Embedding(len(self.cosine_centers), option["embedding"], width)
        plain, last = option["plain_layers"], spec.num_layers - 1
        self.atom_layers = nn.ModuleList(EdgeGatedConv(width) for _ in range(spec.num_layers))
        self.bond_layers = nn.ModuleList(EdgeGatedConv(width, last=k == last) for k in range(spec.num_layers))
        self.plain_layers = nn.ModuleList(EdgeGatedConv(width, last=k == plain - 1) for k in range(plain))
        self.out = nn.Linear(width, spec.outputs)

    def atoms(self, batch: Batch) -> Tensor:
        """Return the vectors of the atoms after all layers, ``(N, width)``."""
        graphs = BondsAndAngles.of(batch)
        crystal, line = graphs.crystal, graphs.line
        different, kind = self.table(batch.atomic_numbers[graphs.atoms.first])
        of_kind = torch.zeros_like(different[:, 0]).index_add(0, kind, crystal.nodes.to(different.dtype))
        x = self.embedding(different, of_kind).index_select(0, kind)
        y = self.bond_embedding(batch.distance[graphs.bonds.first], crystal.edges, self.distance_centers)
        z = self.angle_embedding(graphs.cosine, line.edges, self.cosine_centers)
        for of_atoms, of_bonds in zip(self.atom_layers, self.bond_layers, strict=True):
            x, y = of_atoms(x, y, crystal)
            y, z = of_bonds(y, z, line)
        for layer in self.plain_layers:
            x, y = layer(x, y, crystal)
        h: Tensor = x
        return h.index_select(0, graphs.atoms.which)

    def readout(self, atoms: Tensor, batch: Batch) -> Tensor:
        """Return the normalized prediction ``(B,)``; for C classes log-probabilities ``(B, C)``."""
        x = self.out(pool(atoms, batch))
        return F.log_softmax(x, dim=1) if self.spec.outputs > 1 else x[:, 0]


class Dense(nn.Module):
    """Linear layer, batch normalization and SiLU.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.

    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)
        self.norm = ViewBatchNorm(outputs)

    def forward(self, x: Tensor, count: Tensor) -> Tensor:
        """Return ``(n, outputs)`` from ``(n, inputs)`` distinct rows that occur ``count`` ``(n,)`` times each."""
        return F.silu(self.norm(self.linear(x), 1, count.to(x.dtype)))


class Embedding(nn.Module):
    """Expand a number in Gaussians and apply two layers. Equal numbers, frequent in crystals, are embedded once.

    Args:
        bins: Number of Gaussians.
        hidden: Width of the first layer.
        outputs: Width of the second layer.

    """

    def __init__(self, bins: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = Dense(bins, hidden)
        self.second = Dense(hidden, outputs)

    def forward(self, value: Tensor, count: Tensor, centers: Tensor) -> Tensor:
        """Embed ``(n,)`` numbers that occur ``count`` times each, ``(n, outputs)``; ``centers`` are evenly spaced."""
        different, row = torch.unique(value, return_inverse=True)
        count = torch.zeros_like(different).index_add(0, row, count.to(different.dtype))
        basis = radial_basis(different, centers, 1 / float(centers[1] - centers[0]))
        embedded: Tensor = self.second(self.first(basis, count), count)
        return embedded.index_select(0, row)
