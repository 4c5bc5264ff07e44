"""The published CrysAtom pretraining procedure, reimplemented from its description, for timing.

The throughput claim is measured against this code, so it follows the procedure step by step. Every time a crystal is
loaded, its CIF is parsed and its neighbors are searched three times (for the crystal and for its two views). Gaussian
distance features are materialized for every edge. Pooling and the connectivity decoder process the crystals of a batch
one by one, the decoder on all N^2 pairs of atoms. One step takes three forward passes. Nothing is cached. It uses one
process.

N atoms and B crystals in a batch, M = 12 neighbors per atom, D the embedding dimension.

Source: Mukherjee, Ghosh, Basuchowdhuri, "CrysAtom: Distributed Representation of Atoms for Crystal Property
Prediction", LoG 2024, arXiv:2409.04737; the graph is that of Xie and Grossman, PRL 120, 145301 (2018).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pymatgen.core import Structure
from pymatgen.core.periodic_table import Element
from torch import Tensor, nn
from torch.nn import functional as F

CUTOFF = 8.0
NUM_NEIGHBORS = 12
PADDING_DISTANCE = CUTOFF + 1.0
GAUSSIAN_CENTERS = np.linspace(0.0, CUTOFF, 41)
GAUSSIAN_WIDTH = 0.2
MASK_FRACTION = 0.10
NUM_CLASSES = 6
CLASS_WEIGHTS = (0.1, 1.0, 1.0, 1.0, 1.0, 1.0)
PROJECTION_DIM = 128
NOMINAL_BATCH = 128
OFF_DIAGONAL_WEIGHT = 0.0051
LEARNING_RATE = 0.03
CONNECTIVITY_WEIGHT, FEATURE_WEIGHT, SSL_WEIGHT = 0.25, 0.25, 0.50


class Graph(NamedTuple):
    """Input of the encoder: one crystal or one batch."""

    atoms: Tensor
    """``(N, F)`` element features."""

    neighbors: Tensor
    """``(N, M)`` index of the atom at the other end."""

    edges: Tensor
    """``(N, M, 41)`` Gaussian features of the distance."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One crystal, its two views, and the target of the connectivity decoder, ``(N, N)``."""

    crystal: Graph
    views: tuple[Graph, Graph]
    connectivity: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Concatenated crystals; ``connectivity`` holds the N^2 targets of each, row by row."""

    crystal: Graph
    views: tuple[Graph, Graph]
    connectivity: Tensor
    ranges: list[range]


# Loading


def read_element_features(path: Path) -> dict[int, np.ndarray]:
    """Read element features by atomic number from a CSV with the columns symbol, v0, v1, ..."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {Element(row[0]).Z: np.array(row[1:], dtype=np.float32) for row in rows}


def load_crystal(path: Path, elements: dict[int, np.ndarray], rng: np.random.Generator) -> Sample:
    """Parse a CIF file and build the graphs of the crystal and of two new views."""
    structure = Structure.from_file(path)
    atoms = np.stack([elements[site.specie.Z] for site in structure])
    indices, distances = _nearest(structure)
    return Sample(
        crystal=_graph(atoms, indices, distances),
        views=(_view(structure, atoms, rng), _view(structure, atoms, rng)),
        connectivity=_connectivity(indices),
    )


def _neighbor_lists(structure: Structure) -> list[list[tuple[float, int]]]:
    """Return (distance, atom) of all neighbors within the cutoff, per site, nearest first."""
    return [
        sorted((neighbor.nn_distance, neighbor.index) for neighbor in neighbors)
        for neighbors in structure.get_all_neighbors(CUTOFF)
    ]


def _pad(chosen: list[tuple[float, int]]) -> list[tuple[float, int]]:
    return chosen + [(PADDING_DISTANCE, 0)] * (NUM_NEIGHBORS - len(chosen))


def _nearest(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Return index and distance of the nearest neighbors, each ``(N, M)``."""
    return _as_arrays([_pad(neighbors[:NUM_NEIGHBORS]) for neighbors in _neighbor_lists(structure)])


def _as_arrays(lists: list[list[tuple[float, int]]]) -> tuple[np.ndarray, np.ndarray]:
    indices = np.array([[index for _, index in neighbors] for neighbors in lists])
    distances = np.array([[distance for distance, _ in neighbors] for neighbors in lists])
    return indices, distances


def _view(structure: Structure, atoms: np.ndarray, rng: np.random.Generator) -> Graph:
    """Zero a tenth of the atoms, and reroute a tenth of each atom's edges to atom 0, without features."""
    masked = atoms.copy()
    count = max(1, int(MASK_FRACTION * len(atoms)))
    masked[rng.choice(len(atoms), count, replace=False)] = 0.0
    lists = []
    for neighbors in _neighbor_lists(structure):
        nearest = neighbors[:NUM_NEIGHBORS]
        kept = int(np.ceil((1 - MASK_FRACTION) * len(nearest)))
        lists.append(_pad([nearest[k] for k in rng.choice(len(nearest), kept, replace=False)]))
    return _graph(masked, *_as_arrays(lists))


def _graph(atoms: np.ndarray, indices: np.ndarray, distances: np.ndarray) -> Graph:
    features = np.exp(-(((distances[..., None] - GAUSSIAN_CENTERS) / GAUSSIAN_WIDTH) ** 2))
    return Graph(torch.from_numpy(atoms), torch.from_numpy(indices), torch.from_numpy(features.astype(np.float32)))


def _connectivity(indices: np.ndarray) -> Tensor:
    """Return how often each atom occurs in each atom's neighbor list, clipped at 5."""
    counts = torch.zeros(len(indices), len(indices), dtype=torch.long)
    for i, row in enumerate(indices):
        for j in row:
            counts[i, j] += 1
    return counts.clamp(max=NUM_CLASSES - 1)


def collate(samples: Sequence[Sample]) -> Batch:
    """Concatenate crystals and shift their neighbor indices."""
    ranges, start, targets = [], 0, []
    for sample in samples:
        size = len(sample.connectivity)
        ranges.append(range(start, start + size))
        start += size
        targets.extend(sample.connectivity.flatten().tolist())
    return Batch(
        crystal=_concatenate([sample.crystal for sample in samples], ranges),
        views=(
            _concatenate([sample.views[0] for sample in samples], ranges),
            _concatenate([sample.views[1] for sample in samples], ranges),
        ),
        connectivity=torch.tensor(targets),
        ranges=ranges,
    )


def _concatenate(graphs: Sequence[Graph], ranges: Sequence[range]) -> Graph:
    return Graph(
        torch.cat([graph.atoms for graph in graphs]),
        torch.cat([graph.neighbors + atoms.start for graph, atoms in zip(graphs, ranges, strict=True)]),
        torch.cat([graph.edges for graph in graphs]),
    )


# Model


class Convolution(nn.Module):
    """CGCNN's convolution: one linear layer on concatenated ends and edge, gated, summed over neighbors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim + len(GAUSSIAN_CENTERS), 2 * dim)
        self.edge_norm = nn.BatchNorm1d(2 * dim)
        self.node_norm = nn.BatchNorm1d(dim)

    def forward(self, h: Tensor, neighbors: Tensor, edges: Tensor) -> Tensor:
        """Return the updated ``(N, D)`` node states."""
        center = h[:, None, :].expand(-1, NUM_NEIGHBORS, -1)
        gated = self.linear(torch.cat([center, h[neighbors], edges], dim=-1))
        gated = self.edge_norm(gated.flatten(0, 1)).view_as(gated)
        gate, core = gated.chunk(2, dim=-1)
        message = (torch.sigmoid(gate) * F.softplus(core)).sum(dim=1)
        return F.softplus(h + self.node_norm(message))


class Reference(nn.Module):
    """Encoder, two decoders and projection head of the published auto-encoder.

    Args:
        dim: Embedding dimension D; 200 published, with 1,225,692 parameters.
        num_features: Length of an element's input features.
        num_layers: Convolutions in the encoder.

    """

    def __init__(self, dim: int, num_features: int = 92, num_layers: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Linear(num_features, dim, bias=False)
        self.convolutions = nn.ModuleList(Convolution(dim) for _ in range(num_layers))
        self.bilinear = nn.Bilinear(dim, dim, NUM_CLASSES)
        self.classifier = nn.Linear(NUM_CLASSES, NUM_CLASSES)
        self.feature_decoder = nn.Linear(dim, num_features)
        self.projection = nn.Sequential(
            nn.Softplus(),
            nn.Linear(dim, PROJECTION_DIM),
            nn.Softplus(),
            nn.Linear(PROJECTION_DIM, PROJECTION_DIM),
            nn.Softplus(),
            nn.Linear(PROJECTION_DIM, PROJECTION_DIM),
        )

    def encode(self, graph: Graph) -> Tensor:
        """Return ``(N, D)`` node states."""
        h: Tensor = self.embedding(graph.atoms)
        for convolution in self.convolutions:
            h = convolution(h, graph.neighbors, graph.edges)
        return h

    def decode(self, h: Tensor, ranges: Sequence[range]) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``(sum N^2, 6)`` of the connectivity classes and feature logits ``(N, F)``."""
        classes, features = [], []
        for atoms in ranges:
            unit = F.normalize(h[atoms.start : atoms.stop], dim=1)
            left = unit.repeat_interleave(len(atoms), dim=0)
            right = unit.repeat(len(atoms), 1)
            classes.append(F.log_softmax(self.classifier(self.bilinear(left, right)), dim=1))
            features.append(self.feature_decoder(unit))
        return torch.cat(classes), torch.cat(features)

    def project(self, h: Tensor, ranges: Sequence[range]) -> Tensor:
        """Return ``(B, 128)`` unit-length projections of the crystals' mean node states."""
        pooled = torch.stack([h[atoms.start : atoms.stop].mean(dim=0) for atoms in ranges])
        return F.normalize(self.projection(pooled), dim=1)


# Losses and step


def barlow_twins(first: Tensor, second: Tensor) -> Tensor:
    """Return the Barlow Twins loss; as published, the correlation is divided by the nominal batch size."""
    first, second = (F.batch_norm(z, None, None, training=True) for z in (first, second))
    correlation = first.T @ second / NOMINAL_BATCH
    diagonal = torch.diagonal(correlation)
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + OFF_DIAGONAL_WEIGHT * off_diagonal


def losses(model: Reference, batch: Batch) -> dict[str, Tensor]:
    """Return the terms of the objective and their weighted sum ``loss``."""
    log_probabilities, logits = model.decode(model.encode(batch.crystal), batch.ranges)
    weights = torch.tensor(CLASS_WEIGHTS)
    terms = {
        "connectivity": F.nll_loss(log_probabilities, batch.connectivity, weight=weights),
        "features": F.binary_cross_entropy_with_logits(logits, batch.crystal.atoms),
        "ssl": barlow_twins(*(model.project(model.encode(view), batch.ranges) for view in batch.views)),
    }
    total = CONNECTIVITY_WEIGHT * terms["connectivity"] + FEATURE_WEIGHT * terms["features"] + SSL_WEIGHT * terms["ssl"]
    return {"loss": total, **terms}


def make_optimizer(model: Reference) -> torch.optim.Optimizer:
    """Return Adam with the published constant learning rate."""
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)


def train_step(model: Reference, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
    """Take one optimizer step; return the loss terms before it."""
    optimizer.zero_grad()
    terms = losses(model, batch)
    terms["loss"].backward()
    optimizer.step()
    return {name: term.item() for name, term in terms.items()}
