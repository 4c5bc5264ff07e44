"""Two workers, one half as fast as the other: equal shares of each batch against shares by measured speed.

The training runs under Ray Train like jobs/pretrain.py, with one difference: in each forward pass a worker sleeps for
each edge of its share, the last worker twice as long. The sleep simulates the work of an accelerator and leaves the two
processors to the computation, a small model on both workers. It slows down both the training and the speed measurement
that determines the shares. The two variants run in turn in one process. Losses are also compared in float64, where
rounding does not hide differences; streams are excluded, because two runs draw them in different orders.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import bench
import numpy as np
import torch
from bench import Benchmark, Run, Setting
from driving import on_ray
from ray.cloudpickle import register_pickle_by_value
from samples import sample
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.cluster.data import streamed_data, streamed_dataset
from crysatom.cluster.train import train_on_cluster
from crysatom.config import FeaturizeConfig, PretrainConfig
from crysatom.graphs.featurize import featurize_plain
from crysatom.names import LOSS, TRAIN
from crysatom.training.context import Context
from crysatom.training.loop import Loop
from crysatom.training.pretrain import build, resident_data
from crysatom.vectors.elements import element_features

WAYS = ("equal", "speed")

TOLERANCES = {"float32, first epoch": 1e-5, "float64": 1e-12}
"""Relative differences of losses that rounding explains."""


class Slowed(nn.Module):
    """A model with a delay.

    Args:
        model: The model.
        seconds: Delay for each edge.

    """

    def __init__(self, model: nn.Module, seconds: float) -> None:
        super().__init__()
        self.model, self.seconds = model, seconds

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Sleep, then evaluate the model."""
        time.sleep(self.seconds * batch.edge_index.shape[1])
        terms: dict[str, Tensor] = self.model(batch, epoch)
        return terms


def work(
    config: PretrainConfig, shards: Path, arguments: argparse.Namespace, dtype: torch.dtype, context: Context
) -> Any:
    """Train on this worker; return the history."""
    load = streamed_data if arguments.streamed else resident_data
    loader: Any = load(config, shards, context.device).train
    if not arguments.streamed:
        loader.tensors = dataclasses.replace(loader.tensors, distance=loader.tensors.distance.to(dtype))
    model = build(config, element_features(config.encoder.node_features)).to(dtype)
    last = distributed.rank() == distributed.world_size() - 1
    pace = arguments.pace * (arguments.slowness if last else 1)
    slowed = Slowed(model, pace)
    return Loop(slowed, loader, None, config.optimization, context, balance=config.workers.balance).run()


def show(news: Any) -> None:
    """Print a message, or the speed of an epoch."""
    if not isinstance(news, str):
        news = f"epoch {news['epoch']:.0f}: {news['crystals_per_second']:.1f} crystals/s"
    print(news, flush=True)


def trained(run: Run, config: PretrainConfig, dtype: torch.dtype) -> Any:
    """Return the history of a training under Ray Train."""
    shards = run.folder / "shards"
    task = partial(work, config, shards, run.settings, dtype)
    checkpoints = run.folder / f"checkpoints-{len(list(run.folder.iterdir()))}"
    stream = streamed_dataset(config, shards) if run.settings.streamed else None
    history = train_on_cluster(task, config.workers, checkpoints, record=lambda *_: None, show=show, stream=stream)
    counted = {round(epoch["crystals_per_second"] * epoch["seconds"]) for epoch in history}
    asked = run.settings.crystals
    run.check("each epoch counted each crystal once", counted == {asked}, f"{counted}, {asked} asked for")
    return history


def largest_difference(one: Any, other: Any) -> float:
    """Return the largest relative difference between the losses of two histories."""
    a, b = (np.array([epoch[f"{TRAIN}/{LOSS}"] for epoch in history]) for history in (one, other))
    return float(np.abs(a / b - 1).max())


def measure(run: Run) -> None:
    """Train with equal shares and with shares by speed, in turn."""
    register_pickle_by_value(sys.modules[work.__module__])  # workers cannot import this file
    s = run.settings
    table = sample(run.table, s.crystals, run.folder / "crystals.parquet")
    featurize_plain(FeaturizeConfig.of(data=str(table), out=str(run.folder / "shards")))
    base = {"embedding_dim": s.dim, "num_workers": s.workers, "holdout_fraction": 0.0, "batch_size": s.batch_size}
    configs = {way: PretrainConfig.of(**base, epochs=s.epochs, balance=way) for way in WAYS}
    histories: dict[str, list[Any]] = {way: [] for way in WAYS}
    with on_ray():
        for _ in range(s.rounds):
            for way, config in configs.items():
                histories[way].append(trained(run, config, torch.float32))
        exact = (
            {}
            if s.streamed or not s.exact
            else {way: trained(run, config, torch.float64) for way, config in configs.items()}
        )
    rates = {
        way: [median(epoch["crystals_per_second"] for epoch in history[1:]) for history in runs]
        for way, runs in histories.items()
    }
    for way, rate in rates.items():
        run.figure("shares by speed" if way == "speed" else "equal shares", rate, "crystals/s")
    gains = [fast / slow for slow, fast in zip(rates["equal"], rates["speed"], strict=True)]
    share = 1 / (s.workers - 1 + 1 / s.slowness)
    most = s.slowness / s.workers / share
    run.figure("gain", gains, "x", ceiling=(1.2 * most, f"{most:g} if nothing but the work took time, and noise."))
    run.facts["largest share, by speed"] = [history[-1]["largest_share"] for history in histories["speed"]]
    run.facts["largest share, by slowness"] = share
    if exact:
        first = largest_difference(histories["speed"][0][:1], histories["equal"][0][:1])
        found = {"float32, first epoch": first, "float64": largest_difference(exact["speed"], exact["equal"])}
        for dtype, difference in found.items():
            allowed = TOLERANCES[dtype]
            run.check(f"losses do not depend on the shares ({dtype})", difference <= allowed, f"{difference:.1e}")
        run.facts["largest difference of losses"] = {name: f"{value:.1e}" for name, value in found.items()}


BENCHMARK = Benchmark(
    name="mixed_cluster",
    about=str(__doc__),
    measures=("training", "cluster/train.py", "cluster/data.py", "distributed.py"),
    settings={
        "crystals": Setting(768, 32),
        "batch_size": Setting(128, 16),
        "streamed": Setting(False, False, "through Ray Data, instead of graphs in memory"),
        "exact": Setting(True, False, "compare the losses in float64 too"),
        "workers": Setting(2, 2),
        "slowness": Setting(2.0, 2.0, "time factor of the last worker"),
        "pace": Setting(200e-6, 1e-6, "seconds of sleep per edge of the other workers"),
        "dim": Setting(16, 8, "embedding dimension"),
        "epochs": Setting(3, 2),
        "rounds": Setting(2, 1),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
