"""Crystals per second of a CGCNN training step: the published algorithm and ours in turn, on the same crystals.

    python benchmarks/cgcnn_throughput.py --table jarvis_dft_3d.parquet

The published algorithm is reimplemented from its description: features of both atoms and of the edge are gathered and
concatenated for every edge, one linear layer maps them, autograd stores the intermediates, and crystals are pooled one
by one. Both sides have their graphs in memory. Work done once for all epochs is excluded: the Gaussians of the
published side, which its cache holds, and our search for equal atoms and edges, whose time is reported. Both sides have
the same weights, edges, batches, loss and optimizer, and must give the same loss.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crysatom.config import FeaturizeConfig, GraphSpec
from crysatom.config.downstream import RECIPES
from crysatom.crystals.table import read_table, write_table
from crysatom.graphs.batch import GraphTensors, select
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import load
from crysatom.nn.bases import gaussian_basis, gaussian_centers
from crysatom.nn.condensed import condensed
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.cgcnn import CGCNN
from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware
from crysatom.vectors.published import cgcnn_bits

RESULTS = Path(__file__).parent / "results"
NUM_NEIGHBORS = 12
LEARNING_RATE = 1e-3


class Clock:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Add the wall-clock time of the block to a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start


class Convolution(nn.Module):
    """A convolution with one concatenated vector per edge."""

    def __init__(self, width: int, num_features: int) -> None:
        super().__init__()
        self.fc_full = nn.Linear(2 * width + num_features, 2 * width)
        self.bn1 = nn.BatchNorm1d(2 * width)
        self.bn2 = nn.BatchNorm1d(width)

    def forward(self, h: Tensor, neighbors: Tensor, edges: Tensor) -> Tensor:
        """Return the updated ``(N, D)`` atom vectors."""
        center = h[:, None, :].expand(-1, neighbors.shape[1], -1)
        joined = self.fc_full(torch.cat([center, h[neighbors], edges], dim=2))
        gate, core = self.bn1(joined.flatten(0, 1)).view_as(joined).chunk(2, dim=2)
        message = (torch.sigmoid(gate) * F.softplus(core)).sum(dim=1)
        return F.softplus(h + self.bn2(message))


class Published(nn.Module):
    """CGCNN as published."""

    def __init__(self, spec: PredictorSpec, num_features: int, num_gaussians: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(num_features, spec.width)
        self.convs = nn.ModuleList(Convolution(spec.width, num_gaussians) for _ in range(spec.num_layers))
        self.conv_to_fc = nn.Linear(spec.width, spec.hidden_dim)
        self.fc_out = nn.Linear(spec.hidden_dim, 1)

    def forward(self, elements: Tensor, neighbors: Tensor, edges: Tensor, crystals: list[Tensor]) -> Tensor:
        """Return ``(B,)`` from features ``(N, F)``, neighbors ``(N, 12)``, Gaussians ``(N, 12, 41)``, atoms of each."""
        h = self.embedding(elements)
        for convolution in self.convs:
            h = convolution(h, neighbors, edges)
        pooled = torch.cat([h[atoms].mean(dim=0, keepdim=True) for atoms in crystals])
        x = F.softplus(self.conv_to_fc(F.softplus(pooled)))
        output: Tensor = self.fc_out(x)[:, 0]
        return output


class PublishedSide:
    """The published side: single crystals in memory, concatenated for every batch."""

    def __init__(self, spec: PredictorSpec, graphs: GraphTensors, ours: CGCNN) -> None:
        centers = gaussian_centers(spec.cutoff, spec.basis_step).float()
        elements = torch.from_numpy(cgcnn_bits().lookup(graphs.atomic_numbers.numpy()))
        neighbors = graphs.neighbor.long().view(-1, NUM_NEIGHBORS)
        edges = gaussian_basis(graphs.distance, centers).view(*neighbors.shape, len(centers))
        sizes = graphs.atom_ptr.diff().tolist()
        self.crystals = list(zip(elements.split(sizes), neighbors.split(sizes), edges.split(sizes), strict=True))
        self.model = Published(spec, elements.shape[1], len(centers))
        weights = {k: v for k, v in ours.state_dict().items() if not k.startswith("table.")}
        self.model.load_state_dict(weights, strict=False)  # torch's batch norm counts batches
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)

    def step(self, rows: Tensor, targets: Tensor, clock: Clock) -> float:
        """Train on a batch; return its loss."""
        with clock.of("batch"):
            chosen = [self.crystals[i] for i in rows.tolist()]
            first, neighbors, crystals = 0, [], []
            for elements, index, _ in chosen:
                neighbors.append(index + first)
                crystals.append(torch.arange(first, first + len(elements)))
                first += len(elements)
            inputs = (
                torch.cat([c[0] for c in chosen]),
                torch.cat(neighbors),
                torch.cat([c[2] for c in chosen]),
                crystals,
            )
        with clock.of("forward"):
            loss = F.mse_loss(self.model(*inputs), targets)
        return learn(loss, self.optimizer, clock)


class OurSide:
    """Our side: the predictor on flat arrays."""

    def __init__(self, graphs: GraphTensors, model: CGCNN) -> None:
        start = time.perf_counter()
        self.graphs, self.model = condensed(graphs), model
        self.preparation_s = time.perf_counter() - start
        self.optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)

    def step(self, rows: Tensor, targets: Tensor, clock: Clock) -> float:
        """Train on a batch; return its loss."""
        with clock.of("batch"):
            batch = select(self.graphs, rows)
        with clock.of("forward"):
            loss = F.mse_loss(self.model(batch), targets)
        return learn(loss, self.optimizer, clock)


def learn(loss: Tensor, optimizer: torch.optim.Optimizer, clock: Clock) -> float:
    """Compute gradients and take an optimizer step; return the loss."""
    with clock.of("backward"):
        optimizer.zero_grad()
        loss.backward()
    with clock.of("optimizer"):
        optimizer.step()
    return loss.item()


def graphs_of(table: Path, count: int, spec: GraphSpec, folder: Path) -> GraphTensors:
    """Featurize a random sample of a crystal table."""
    crystals = read_table(table)
    rows = np.random.default_rng(0).choice(len(crystals), count, replace=False)
    write_table(crystals.take(np.sort(rows)), folder / "crystals.parquet")
    job = FeaturizeConfig.of(
        data=str(folder / "crystals.parquet"),
        out=str(folder / spec.ties),
        ties=spec.ties,
        pad_short_lists=spec.pad_short_lists,
    )
    featurize_plain(job)
    return GraphTensors.of(load(folder / spec.ties))


def measure(arguments: argparse.Namespace, batch_size: int, folder: Path) -> dict[str, Any]:
    """Measure the sides in alternating rounds; a round is one pass over the crystals."""
    torch.manual_seed(0)
    spec = PredictorSpec()
    graphs = {
        recipe: graphs_of(arguments.table, arguments.crystals, RECIPES[recipe]("cgcnn").graph, folder)
        for recipe in ("paper", "default")
    }
    model = CGCNN(spec, cgcnn_bits())
    published = PublishedSide(spec, graphs["paper"], model)
    defaults = CGCNN(spec, cgcnn_bits())
    sides: dict[str, PublishedSide | OurSide] = {
        "published": published,
        "ours": OurSide(graphs["paper"], model),
        "ours_default_graphs": OurSide(graphs["default"], defaults),
    }
    count = graphs["paper"].num_crystals
    targets = torch.randn(count)
    batches = [r for r in torch.randperm(count).split(batch_size) if len(r) == batch_size]
    crystals = batch_size * len(batches)
    losses = {name: side.step(batches[0], targets[batches[0]], Clock()) for name, side in sides.items()}
    # float32: the same sums in another order
    assert abs(losses["published"] - losses["ours"]) < 1e-4 * losses["published"], losses
    rates: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    clocks = {name: Clock() for name in sides}
    for number in range(arguments.rounds):
        for name, side in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for rows in batches:
                side.step(rows, targets[rows], clocks[name])
            rates[name].append(crystals / (time.perf_counter() - wall))
            processor[name].append(1e3 * (time.process_time() - cpu) / crystals)
        print(f"batch {batch_size}, round {number + 1}:", {n: round(r[-1]) for n, r in rates.items()}, flush=True)
    ratios = [b / a for a, b in zip(rates["published"], rates["ours"], strict=True)]
    cpu_ratios = [a / b for a, b in zip(processor["published"], processor["ours"], strict=True)]
    return {
        "first_loss": {name: round(loss, 6) for name, loss in losses.items()},
        "atoms_per_crystal": round(len(graphs["paper"].atomic_numbers) / count, 2),
        "edges_per_atom": {r: round(len(g.distance) / len(g.atomic_numbers), 2) for r, g in graphs.items()},
        "crystals_per_second": {name: round(median(values)) for name, values in rates.items()},
        "cpu_ms_per_crystal": {name: round(median(values), 3) for name, values in processor.items()},
        "condensing_s": {
            name: round(side.preparation_s, 2) for name, side in sides.items() if isinstance(side, OurSide)
        },
        "ratio": round(median(ratios), 2),
        "ratio_each_round": [round(r, 2) for r in ratios],
        "ratio_cpu": round(median(cpu_ratios), 2),
        "share_of_time": {name: shares(clock) for name, clock in clocks.items()},
    }


def shares(clock: Clock) -> dict[str, float]:
    """Return the share of each phase in the time."""
    total = sum(clock.seconds.values())
    return {phase: round(seconds / total, 3) for phase, seconds in clock.seconds.items()}


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="crystal table (.parquet)")
    parser.add_argument("--crystals", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--note", default="", help="other load of the machine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for batch_size in arguments.batch_sizes:
        with tempfile.TemporaryDirectory() as folder:
            result[f"batch_{batch_size}"] = measure(arguments, batch_size, Path(folder))
    result |= {
        "settings": {"table": arguments.table.name, "crystals": arguments.crystals, "rounds": arguments.rounds},
        "threads": 1,
        "note": arguments.note,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"cgcnn_throughput_{arguments.table.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
