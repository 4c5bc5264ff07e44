"""Overhead and gain of Ray: the same pretraining in a plain process, on one and on two Ray Train workers, in turn.

Each run is that of ``jobs/pretrain.py``; its first epoch is not counted. All must give the same losses. Ray gives its
workers a low priority: on a busy machine they are slower than a plain process.
"""

from __future__ import annotations

import os
from statistics import median

import bench
import pandas as pd
from bench import Benchmark, Run, Setting, timed
from driving import on_ray, quiet
from samples import sample

from crysatom.config import FeaturizeConfig, PretrainConfig
from crysatom.graphs.featurize import featurize_plain
from crysatom.names import LOSS, TRAIN
from crysatom.pipelines import pretraining

NAMES = {0: "plain process", 1: "1 Ray worker", 2: "2 Ray workers"}

TOLERANCE = 1e-3
"""Relative difference of the losses: the sums are split between the workers, and Adam amplifies float32's rounding."""


def measure(run: Run) -> None:
    """Train with each number of workers, in turn."""
    s = run.settings
    table = sample(run.table, s.crystals, run.folder / "crystals.parquet")
    made = featurize_plain(FeaturizeConfig.of(data=str(table), out=str(run.folder / "shards")))
    run.check("every crystal has a graph", made.accepted == s.crystals, f"{made.accepted} of {s.crystals}")
    histories: dict[int, list[pd.DataFrame]] = {workers: [] for workers in s.workers}
    seconds: dict[int, list[float]] = {workers: [] for workers in s.workers}
    with on_ray():
        for number in range(s.rounds):
            for workers in s.workers:
                config = config_of(run, workers, number)
                timing, finished = timed(1, lambda: quiet(lambda: pretraining.run(config)))  # noqa: B023
                histories[workers].append(finished.history)
                seconds[workers].append(timing.wall)
                rate = finished.history["crystals_per_second"][1:].median()
                print(f"{NAMES[workers]}: {rate:.1f} crystals/s", flush=True)
    for workers, runs in histories.items():
        check_runs(run, runs, histories[s.workers[0]])
        rates = [float(rate) for history in runs for rate in history["crystals_per_second"][1:]]
        run.figure(NAMES[workers], rates, "crystals/s")
        run.figure(f"{NAMES[workers]}, whole job", seconds[workers], "s", better="lower")
        run.facts[f"{NAMES[workers]}, share of time waiting for data"] = median(
            float(share) for history in runs for share in history["data_wait_share"][1:]
        )
    for workers in s.workers[1:]:
        pairs = zip(histories[workers], histories[s.workers[0]], strict=True)
        ratios = [
            float(one["crystals_per_second"][1:].median() / other["crystals_per_second"][1:].median())
            for one, other in pairs
        ]
        most = min(workers, os.cpu_count() or workers)
        reason = f"{workers} workers on {os.cpu_count()} processors, and half as much again for noise."
        run.figure(f"ratio, {NAMES[workers]} to plain", ratios, "x", ceiling=(1.5 * most, reason))


def config_of(run: Run, workers: int, number: int) -> PretrainConfig:
    """Return the configuration of a job."""
    s = run.settings
    return PretrainConfig.of(
        data=str(run.folder / "shards"),
        out=str(run.folder / "runs"),
        name=f"workers-{workers}-{number}",
        tracking_uri=f"sqlite:///{run.folder}/mlflow.db",
        register="",
        embedding_dim=s.dim,
        batch_size=s.batch_size,
        epochs=s.epochs,
        holdout_fraction=0.0,
        num_workers=workers,
    )


def check_runs(run: Run, runs: list[pd.DataFrame], plain: list[pd.DataFrame]) -> None:
    """Check that all crystals were counted, and that losses fall and are those of the plain process."""
    expected = [float(loss) for loss in plain[0][f"{TRAIN}/{LOSS}"]]
    for history in runs:
        losses = [float(loss) for loss in history[f"{TRAIN}/{LOSS}"]]
        run.check("the loss fell", min(losses[1:]) < losses[0], f"{losses}")
        run.equal("losses do not depend on the workers", losses, expected, TOLERANCE)
        counted = (history["crystals_per_second"] * history["seconds"]).round().tolist()
        asked = run.settings.crystals
        run.check("each epoch counted each crystal once", set(counted) == {asked}, f"{counted}, {asked} asked for")


BENCHMARK = Benchmark(
    name="ray_overhead",
    about=str(__doc__),
    measures=("training", "cluster/train.py", "cluster/session.py", "distributed.py", "ssl", "nn"),
    settings={
        "crystals": Setting(768, 32),
        "dim": Setting(200, 8, "embedding dimension"),
        "batch_size": Setting(128, 16),
        "epochs": Setting(4, 3),
        "rounds": Setting(1, 1),
        "workers": Setting((0, 1, 2), (0, 2), "numbers of workers, the plain process first"),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
