"""Crystals per second of training CGCNN: the published algorithm and ours in turn, on the same crystals.

    python benchmarks/cgcnn_throughput.py --table jarvis_dft_3d.parquet

The published algorithm is reimplemented from its description: features of both atoms and of the edge are gathered and
concatenated for every edge, one linear layer maps them, autograd stores the intermediates, and crystals are pooled one
by one. Our side is a training as ``jobs/downstream.py`` runs it with ``--num-workers 0``; epochs of the published
algorithm run between its epochs. Both sides have their graphs in memory. Work done once for all epochs is excluded: the
Gaussians of the published side, which its cache holds, and our search for equal atoms and edges, whose time is
reported. With the recipe ``paper`` both sides have the same weights, edges, batches, loss and optimizer, and must give
the same loss; our losses must be those of the job.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench import (
    NOTHING,
    RESULTS,
    Timing,
    check,
    check_equal,
    check_ratio,
    check_training,
    drive,
    quiet,
    timed,
)
from torch import Tensor, nn

from crysatom.config import DownstreamConfig, FeaturizeConfig, IngestConfig
from crysatom.config.downstream import RECIPES
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.table import read_table, write_table
from crysatom.graphs.batch import GraphTensors
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import load
from crysatom.inputs.labels import Labeled, labeled
from crysatom.names import EMBEDDED_SOURCE, LOSS, TRAIN
from crysatom.nn.bases import gaussian_basis, gaussian_centers
from crysatom.nn.condensed import condensed
from crysatom.pipelines import downstream
from crysatom.predictors.base import PredictorSpec
from crysatom.tracking.environment import environment_tags
from crysatom.training.context import Metrics
from crysatom.training.loaders import global_batches
from crysatom.training.machine import hardware
from crysatom.training.regression import build_regression, spec_of, train_predictor

NUM_NEIGHBORS = 12
EPOCHS_PER_ROUND = 2

CEILING = 50.0
"""Our step takes three matrix products per atom and layer at best, some 1.5 MFlop per crystal with the backward pass:
0.02 ms on one thread at 73 GFlop/s. The published step takes 1.5 ms: 75x without any exponential or memory access."""

JOB_TOLERANCE = 1e-5
"""Relative difference of our losses and the job's: the same float32 sums, on the same number of threads."""

PUBLISHED_TOLERANCE = 1e-3
"""Relative difference of the first epoch's loss and the published side's: other float32 sums, whose differences Adam
amplifies from step to step. 1e-7 to 1e-5 were seen."""


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


class PublishedRun:
    """The published side: single crystals in memory, concatenated for every batch; one epoch at a time.

    Args:
        config: Configuration of the job with the recipe ``paper``.
        data: What the job reads.

    """

    def __init__(self, config: DownstreamConfig, data: Labeled) -> None:
        self.config, self.crystals, self.losses = config, data.task.parts[TRAIN], list[float]()
        spec, task = spec_of(config), data.task
        graphs = GraphTensors.of(load(task.shards))
        centers = gaussian_centers(spec.cutoff, spec.basis_step).float()
        elements = torch.from_numpy(task.vectors.lookup(graphs.atomic_numbers.numpy()))
        neighbors = graphs.neighbor.long().view(-1, NUM_NEIGHBORS)
        edges = gaussian_basis(graphs.distance, centers).view(*neighbors.shape, len(centers))
        sizes = graphs.atom_ptr.diff().tolist()
        self.cache = list(zip(elements.split(sizes), neighbors.split(sizes), edges.split(sizes), strict=True))
        self.targets = ((torch.from_numpy(task.labels) - task.normalizer.mean) / task.normalizer.std).float()
        self.model = Published(spec, elements.shape[1], len(centers))
        ours = build_regression(config, task).predictor.state_dict()
        weights = {k: v for k, v in ours.items() if not k.startswith("table.")}
        self.model.load_state_dict(weights, strict=False)  # torch's batch norm counts batches
        optimization = config.optimization
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=optimization.lr, eps=optimization.adam_eps)

    def epoch(self) -> Timing:
        """Train for an epoch; return its time."""
        how = self.config.optimization
        batches = global_batches(self.crystals, how.batch_size, how.tail, self.config.seed, len(self.losses))
        timing, total = timed(len(self.crystals), lambda: sum(self.step(rows) * len(rows) for rows in batches))
        self.losses.append(total / len(self.crystals))
        check(np.isfinite(total), "the published side's loss is not finite")
        return timing

    def step(self, rows: np.ndarray) -> float:
        """Train on a batch; return its loss."""
        chosen = [self.cache[i] for i in rows.tolist()]
        first, neighbors, crystals = 0, [], []
        for elements, index, _ in chosen:
            neighbors.append(index + first)
            crystals.append(torch.arange(first, first + len(elements)))
            first += len(elements)
        atoms, gaussians = torch.cat([c[0] for c in chosen]), torch.cat([c[2] for c in chosen])
        loss = F.mse_loss(self.model(atoms, torch.cat(neighbors), gaussians, crystals), self.targets[rows])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


@dataclass(frozen=True)
class Round:
    """Times of an epoch of the published side, and of the two epochs of ours around it."""

    published: Timing
    ours: Timing


def in_turn(config: DownstreamConfig, data: Labeled, theirs: PublishedRun, folder: Path) -> tuple[list[Round], Any]:
    """Train; run an epoch of the published side between two epochs, so that both see the same load of the machine.

    Returns:
        Times of each round, and our loss of each epoch.

    """
    timings = []

    def after(metrics: Metrics) -> None:
        if metrics["epoch"] == 0:
            theirs.epoch()  # warm-up
        elif metrics["epoch"] % EPOCHS_PER_ROUND == 1:
            timings.append(theirs.epoch())
            name = f"{config.recipe}, batch {config.optimization.batch_size}"
            rates = 1 / timings[-1].wall_each, metrics["crystals_per_second"]
            print(f"{name}: published {rates[0]:.0f}, ours {rates[1]:.0f} crystals/s", flush=True)

    outcome, epochs = drive(partial(train_predictor, config, data.task), config.workers, folder, after)
    crystals, size = len(data.task.parts[TRAIN]), config.optimization.batch_size
    steps = -(-crystals // size) if config.optimization.tail == "short" else max(1, crystals // size)
    check_training(outcome.history, epochs, crystals, steps, f"{TRAIN}/{LOSS}")
    rounds = [Round(each, epochs[2 * r + 1].timing + epochs[2 * r + 2].timing) for r, each in enumerate(timings)]
    return rounds, [metrics[f"{TRAIN}/{LOSS}"] for metrics in outcome.history]


def job_losses(config: DownstreamConfig) -> list[float]:
    """Return the loss of each epoch of the job."""
    [finished] = quiet(lambda: downstream.run(config))
    history = np.genfromtxt(finished.folder / downstream.HISTORY, delimiter=",", names=True, deletechars="")
    return [float(loss) for loss in history[f"{TRAIN}/{LOSS}"]]


def write_sample(table: Path | None, count: int, folder: Path) -> Path:
    """Write a random sample of a crystal table, or of the crystals in pymatgen."""
    if table is None:
        table = ingest_plain(IngestConfig.of(source=EMBEDDED_SOURCE, out=str(folder / "embedded"))).table
    crystals = read_table(table)
    rows = np.random.default_rng(0).choice(len(crystals), min(count, len(crystals)), replace=False)
    write_table(crystals.take(np.sort(rows)), folder / "crystals.parquet")
    return folder / "crystals.parquet"


def featurized(config: DownstreamConfig, table: Path, folder: Path) -> Path:
    """Return a folder of the graphs that a job reads."""
    rule = {"ties": config.graph.ties, "pad_short_lists": config.graph.pad_short_lists}
    shards = folder / "-".join(map(str, rule.values()))
    if not shards.exists():
        featurize_plain(FeaturizeConfig.of(data=str(table), out=str(shards), **rule))
    return shards


def measure(recipe: str, batch_size: int, table: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one recipe beside the published side in alternating rounds."""

    def job(name: str) -> DownstreamConfig:
        config = RECIPES[name]("cgcnn").replace(
            split="random",
            batch_size=batch_size,
            epochs=1 + EPOCHS_PER_ROUND * arguments.rounds,
            num_workers=0,
            out=str(folder / f"jobs-{batch_size}"),
            tracking_uri=f"sqlite:///{folder}/mlflow.db",
            register="",
        )
        return config.replace(data=str(featurized(config, table, folder)))

    def read(config: DownstreamConfig) -> Labeled:
        return labeled(config, Path(config.source.data), table, "")

    config = job(recipe)
    data = read(config)
    published = job("paper")
    theirs = PublishedRun(published, read(published))
    rounds, losses = in_turn(config, data, theirs, folder / f"run-{recipe}-{batch_size}")
    difference = {"to_job": check_equal(losses, job_losses(config), JOB_TOLERANCE, "our losses and the job's")}
    if recipe == "paper":
        difference["to_published"] = check_equal(
            losses[:1], theirs.losses[:1], PUBLISHED_TOLERANCE, "our first epoch's loss and the published side's"
        )
    graphs = GraphTensors.of(load(data.task.shards))
    preparation, _ = timed(graphs.num_crystals, lambda: condensed(graphs))
    ratios = [r.published.wall_each / r.ours.wall_each for r in rounds]
    cpu_ratios = [r.published.cpu_each / r.ours.cpu_each for r in rounds]
    for ratio in (*ratios, *cpu_ratios):
        check_ratio(ratio, CEILING, "matrix products alone take more than that")
    return {
        "published": sum((r.published for r in rounds), NOTHING).summary(),
        "ours": sum((r.ours for r in rounds), NOTHING).summary(),
        "ratio": round(median(ratios), 2),
        "ratio_each_round": [round(r, 2) for r in ratios],
        "ratio_cpu": round(median(cpu_ratios), 2),
        "ratio_cpu_each_round": [round(r, 2) for r in cpu_ratios],
        "loss": [round(losses[0], 6), round(losses[-1], 6)],
        "difference": difference,
        "training_crystals": len(data.task.parts[TRAIN]),
        "atoms_per_crystal": round(len(graphs.atomic_numbers) / graphs.num_crystals, 2),
        "edges_per_atom": round(len(graphs.distance) / len(graphs.atomic_numbers), 2),
        "condensing_s": round(preparation.wall, 3),
    }


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="crystal table (.parquet); default: the crystals in pymatgen")
    parser.add_argument("--crystals", type=int, default=1280, help="a tenth each is for validation and test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=["paper", "default"])
    parser.add_argument("--note", default="", help="other load of the machine")
    parser.add_argument("--out", type=Path, help="JSON file to write; default: in benchmarks/results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_sample(arguments.table, arguments.crystals, folder)
        for size in arguments.batch_sizes:
            result[f"batch_{size}"] = {r: measure(r, size, table, arguments, folder) for r in arguments.recipes}
    used = arguments.table.name if arguments.table else "the crystals in pymatgen"
    result |= {
        "settings": {"table": used, "crystals": arguments.crystals, "rounds": arguments.rounds},
        "threads": 1,
        "note": arguments.note,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(result, indent=1))
    out = arguments.out or RESULTS / f"cgcnn_throughput_{Path(used).stem.replace(' ', '_')}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
