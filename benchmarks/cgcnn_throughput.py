"""Crystals per second of training CGCNN: the published algorithm and ours in turn, on the same crystals.

The published algorithm is reimplemented from its description: features of both atoms and of the edge are gathered and
concatenated for every edge, one linear layer maps them, autograd stores the intermediates, and crystals are pooled one
by one. Our side is a training as ``jobs/downstream.py`` runs it with ``--num-workers 0``. A round is two epochs of ours
with an epoch of the published algorithm between them. Both sides have their graphs in memory. Work done once for all
epochs is excluded: the Gaussians of the published side, which its cache holds, and our search for equal atoms and
edges, whose time is reported. With the recipe ``paper`` both sides have the same weights, edges, batches, loss and
optimizer, and must give the same loss. Our losses must be those of the job.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import bench
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from bench import Benchmark, Run, Setting, Timing, timed
from driving import JOB_TOLERANCE, check_training, drive, epochs_for, is_turn, quiet, rounds_of
from samples import sample
from torch import Tensor, nn

from crysatom.config import DownstreamConfig, FeaturizeConfig
from crysatom.config.downstream import RECIPES
from crysatom.graphs.batch import GraphTensors
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import load
from crysatom.inputs.labels import Labeled, labeled
from crysatom.names import LOSS, TRAIN
from crysatom.nn.bases import gaussian_basis, gaussian_centers
from crysatom.nn.condensed import condensed
from crysatom.pipelines import downstream
from crysatom.predictors.base import PredictorSpec
from crysatom.training.context import Metrics
from crysatom.training.loaders import global_batches
from crysatom.training.regression import build_regression, spec_of, train_predictor

NUM_NEIGHBORS = 12

CEILING = (
    50.0,
    (
        "three matrix products per atom and layer alone, 1.5 MFlop per crystal with the backward pass, take 0.02 ms of "
        "an AMD EPYC's thread; the published step takes 1.5 ms: 75, without an exponential or an access to memory."
    ),
)

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

    def epoch(self, run: Run) -> Timing:
        """Train for an epoch; return its time."""
        how = self.config.optimization
        batches = global_batches(self.crystals, how.batch_size, how.tail, self.config.seed, len(self.losses))
        timing, total = timed(len(self.crystals), lambda: sum(self.step(rows) * len(rows) for rows in batches))
        self.losses.append(total / len(self.crystals))
        run.check("the published side's loss is finite", math.isfinite(total), f"{total}")
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


def config_of(run: Run, recipe: str, batch_size: int) -> DownstreamConfig:
    """Return the configuration of a job, whose graphs are made once."""
    config = RECIPES[recipe]("cgcnn")
    graph = {"ties": config.graph.ties, "pad_short_lists": config.graph.pad_short_lists}
    shards = run.folder / f"shards-{recipe}"
    if not shards.exists():
        featurize_plain(FeaturizeConfig.of(data=str(run.folder / "crystals.parquet"), out=str(shards), **graph))
    return config.replace(
        data=str(shards),
        split="random",
        batch_size=batch_size,
        epochs=epochs_for(run.settings.rounds),
        num_workers=0,
        out=str(run.folder / f"jobs-{batch_size}"),
        tracking_uri=f"sqlite:///{run.folder}/mlflow.db",
        register="",
    )


def data_of(run: Run, config: DownstreamConfig) -> Labeled:
    """Return what the job reads."""
    return labeled(config, Path(config.source.data), run.folder / "crystals.parquet", "")


def job_losses(config: DownstreamConfig) -> list[float]:
    """Return the loss of each epoch of the job."""
    [finished] = quiet(lambda: downstream.run(config))
    return [float(loss) for loss in pd.read_csv(finished.folder / downstream.HISTORY)[f"{TRAIN}/{LOSS}"]]


def measure(run: Run) -> None:
    """Measure every recipe and batch size beside the published side."""
    torch.set_num_threads(1)
    sample(run.table, run.settings.crystals, run.folder / "crystals.parquet")
    for size in run.settings.batch_sizes:
        for recipe in run.settings.recipes:
            in_turn(run, recipe, size)
    for recipe in run.settings.recipes:
        graphs = GraphTensors.of(load(run.folder / f"shards-{recipe}"))
        count, atoms, edges = graphs.num_crystals, len(graphs.atomic_numbers), len(graphs.distance)
        run.check("every crystal has a graph", count == run.settings.crystals, f"{count} graphs")
        run.facts[f"graphs, recipe {recipe}"] = {"atoms per crystal": atoms / count, "edges per atom": edges / atoms}
        seconds = timed(count, partial(condensed, graphs))[0].wall
        run.figure(f"search for equal atoms and edges, recipe {recipe}", [seconds], "s, once", better="lower")


def in_turn(run: Run, recipe: str, batch_size: int) -> None:
    """Train with one recipe; run an epoch of the published side in each round."""
    config, published = config_of(run, recipe, batch_size), config_of(run, "paper", batch_size)
    data = data_of(run, config)
    theirs = PublishedRun(published, data_of(run, published))
    timings: list[Timing] = []
    name = f"batch {batch_size}, recipe {recipe}"

    def after(metrics: Metrics) -> None:
        if metrics["epoch"] == 0:
            theirs.epoch(run)  # warm-up
        elif is_turn(metrics):
            timings.append(theirs.epoch(run))
            ours = metrics["crystals_per_second"]
            print(f"{name}: published {timings[-1].rate:.0f}, ours {ours:.0f} crystals/s", flush=True)

    folder = run.folder / f"run-{recipe}-{batch_size}"
    outcome, epochs = drive(partial(train_predictor, config, data.task), config.workers, folder, after)
    crystals = len(data.task.parts[TRAIN])
    check_training(run, outcome.history, epochs, crystals, config.optimization, f"{TRAIN}/{LOSS}")
    losses = [metrics[f"{TRAIN}/{LOSS}"] for metrics in outcome.history]
    run.equal("our losses are those of the job", losses, job_losses(config), JOB_TOLERANCE)
    if recipe == "paper":
        what = "the first epoch's loss is that of the published side"
        run.equal(what, losses[:1], theirs.losses[:1], PUBLISHED_TOLERANCE)
        run.timings(f"batch {batch_size}, published", timings)
    ours = rounds_of(epochs)
    run.timings(f"{name}, ours", ours)
    run.ratios(f"{name}, ratio", timings, ours, CEILING)
    run.facts[f"{name}, loss of the first and last epoch"] = [losses[0], losses[-1]]
    run.facts["training crystals"] = crystals


BENCHMARK = Benchmark(
    name="cgcnn_throughput",
    about=str(__doc__),
    measures=("training", "predictors/base.py", "predictors/cgcnn.py", "nn", "graphs", "runs/lifecycle.py"),
    settings={
        "crystals": Setting(1280, 80, "a tenth each is for validation and test"),
        "batch_sizes": Setting((64, 256), (16,)),
        "recipes": Setting(("paper", "default"), ("paper",)),
        "rounds": Setting(5, 1),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
