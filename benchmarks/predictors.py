"""Processor time of every predictor with default settings on one sample: graphs, training step, prediction.

A training is one as ``jobs/downstream.py`` runs it with ``--num-workers 0``; its losses must be those of the job, its
predictions those that the training reports. Times are per crystal, on one thread. Work done once for all epochs is
reported separately: making graphs and, if a predictor reads only distances, the search for equal atoms and edges.
ALIGNN and PotNet search equal atoms, bonds, angles and pairs in every batch; this is part of the step. The facts repeat
times of the public code, measured on 2026-11-22, in part on a busy machine.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import bench
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bench import Benchmark, Run, Setting, Timing, timed
from driving import JOB_TOLERANCE, check_training, drive, epochs_for, quiet
from samples import sample
from torch.profiler import ProfilerActivity, profile

from crysatom.config import DownstreamConfig, FeaturizeConfig, Limits
from crysatom.config.downstream import default
from crysatom.crystals.table import GRAPH_COLUMNS
from crysatom.graphs.batch import GraphTensors, select
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shard_task import make_graphs
from crysatom.graphs.shards import load
from crysatom.inputs.labels import Labeled, labeled
from crysatom.names import LOSS, TEST, TRAIN
from crysatom.nn.condensed import condensed
from crysatom.nn.line_graph import BondsAndAngles
from crysatom.pipelines import downstream
from crysatom.predictors.registry import PREDICTORS
from crysatom.training.regression import (
    Regression,
    build_regression,
    labeled_data,
    predictions,
    train_predictor,
)

PUBLIC = {"cgcnn": (56, 5.2), "matformer": (18.7, 224), "potnet": (240, 102), "alignn": (21.7, 348)}
"""CPU ms per crystal of the public code: graph, training step. CGCNN's are for crystals of 25 atoms."""

LEARNING_RATE = 3e-4
"""Peak rate: so low that the loss of every predictor falls within some steps."""

SHOWN = 6
"""Operations of a step in the facts, the slowest first."""


def config_of(run: Run, predictor: str, table: Path) -> DownstreamConfig:
    """Return the configuration of a job."""
    config = default(predictor)
    shards = run.folder / f"shards-{predictor}"
    featurize_plain(FeaturizeConfig.of(data=str(table), out=str(shards), **dataclasses.asdict(config.graph)))
    return config.replace(
        data=str(shards),
        split="random",
        batch_size=run.settings.batch_size,
        epochs=epochs_for(run.settings.rounds),
        selection="last",
        lr=LEARNING_RATE,
        num_workers=0,
        out=str(run.folder / "jobs"),
        tracking_uri=f"sqlite:///{run.folder}/mlflow.db",
        register="",
    )


def measure(run: Run) -> None:
    """Measure every predictor."""
    torch.set_num_threads(1)
    table = sample(run.table, run.settings.crystals, run.folder / "crystals.parquet")
    crystals = pq.read_table(table, columns=list(GRAPH_COLUMNS)).combine_chunks().to_batches()[0]
    for predictor in run.settings.predictors:
        config = config_of(run, predictor, table)
        measure_graphs(run, config, crystals)
        measure_training(run, config, labeled(config, Path(config.source.data), table, ""))


def measure_graphs(run: Run, config: DownstreamConfig, crystals: pa.RecordBatch) -> None:
    """Measure the making of graphs, and the search for equal atoms and edges."""
    name, count = config.architecture.predictor, crystals.num_rows
    rounds = range(run.settings.rounds)
    made = [timed(count, lambda: make_graphs(crystals, config.graph, Limits()))[0] for _ in rounds]
    run.figure(f"{name}, graph", [timing.cpu_ms for timing in made], "CPU ms/crystal", better="lower")
    every = GraphTensors.of(load(config.source.data))
    run.check("every crystal has a graph", every.num_crystals == count, f"{name}: {every.num_crystals} of {count}")
    found = [timed(count, partial(condensed, every)) for _ in rounds]
    run.figure(f"{name}, search", [timing.cpu_ms for timing, _ in found], "CPU ms/crystal", better="lower")
    per_crystal = {
        "atoms": len(every.atomic_numbers) / count,
        "edges": len(every.distance) / count,
        **evaluated(every, found[0][1], count),
    }
    run.facts[f"{name}, per crystal"] = per_crystal


def measure_training(run: Run, config: DownstreamConfig, data: Labeled) -> None:
    """Measure the training step and the prediction."""
    name, crystals = config.architecture.predictor, len(data.task.parts[TRAIN])
    work = partial(train_predictor, config, data.task)
    outcome, epochs = drive(work, config.workers, run.folder / f"run-{name}")
    check_training(run, outcome.history, epochs, crystals, config.optimization, f"{TRAIN}/{LOSS}")
    losses = [metrics[f"{TRAIN}/{LOSS}"] for metrics in outcome.history]
    if name in run.settings.jobs:
        run.equal("our losses are those of the job", losses, job_losses(config), JOB_TOLERANCE)
    steps = [epoch.timing.cpu_ms for epoch in epochs[1:]]
    run.figure(f"{name}, training step", steps, "CPU ms/crystal", better="lower")
    model = build_regression(config, data.task)
    model.load_state_dict(outcome.state)
    timings, found = predict_all(run, config, data, model)
    what = "predictions are those that the training reports"
    run.equal(what, found.tolist(), outcome.predictions[TEST].tolist(), 1e-4)
    run.figure(f"{name}, prediction", [timing.cpu_ms for timing in timings], "CPU ms/crystal", better="lower")
    run.facts[f"{name}, parameters"] = outcome.num_parameters
    run.facts[f"{name}, share of a step"] = shares(config, data, model)
    if name in PUBLIC:
        run.facts[f"{name}, CPU ms of the public code"] = dict(zip(("graph", "step"), PUBLIC[name], strict=True))


def job_losses(config: DownstreamConfig) -> list[float]:
    """Return the loss of each epoch of the job."""
    [finished] = quiet(lambda: downstream.run(config))
    return [float(loss) for loss in pd.read_csv(finished.folder / downstream.HISTORY)[f"{TRAIN}/{LOSS}"]]


def predict_all(
    run: Run, config: DownstreamConfig, data: Labeled, model: Regression
) -> tuple[list[Timing], np.ndarray]:
    """Predict all crystals in each round; return the times, and the predictions for the test crystals."""
    everyone = np.arange(run.settings.crystals)
    task = dataclasses.replace(data.task, parts={TRAIN: data.task.parts[TRAIN], TEST: everyone})
    loader = labeled_data(config, task, torch.device("cpu"))[TEST]
    results = [timed(len(everyone), lambda: predictions(model, loader)) for _ in range(run.settings.rounds)]
    indices, values = results[0][1]
    run.check("every crystal was predicted", np.array_equal(indices, everyone), f"{len(indices)} predictions")
    return [timing for timing, _ in results], values[data.task.parts[TEST]]


def evaluated(every: GraphTensors, once: GraphTensors, count: int) -> dict[str, float]:
    """Return the mean numbers of evaluated atoms and edges per crystal."""
    if every.potential is not None:  # merged in every batch, within the predictor
        return {"pairs": int((~every.potential.isnan()).sum()) / count}
    if every.vector is None:
        return {"atoms once": len(once.atomic_numbers) / count, "edges once": len(once.distance) / count}
    graphs = BondsAndAngles.of(select(every, torch.arange(count)))
    return {
        "atoms once": len(graphs.atoms.first) / count,
        "edges once": len(graphs.bonds.first) / count,
        "angles": int(graphs.line.edges.sum()) / count,
        "angles once": len(graphs.cosine) / count,
    }


def shares(config: DownstreamConfig, data: Labeled, model: Regression) -> dict[str, str]:
    """Return the time shares of the slowest operations of a step."""
    model.train()
    batch = next(iter(labeled_data(config, data.task, torch.device("cpu"))[TRAIN].epoch(0)))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(batch, 0)[LOSS].backward()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return {e.key.removeprefix("aten::"): f"{100 * e.self_cpu_time_total / total:.0f} %" for e in events[:SHOWN]}


BENCHMARK = Benchmark(
    name="predictors",
    about=str(__doc__),
    measures=("training", "predictors", "nn", "graphs", "runs/lifecycle.py"),
    settings={
        "crystals": Setting(80, 20, "a tenth each is for validation and test"),
        "batch_size": Setting(64, 8),
        "rounds": Setting(3, 1),
        "predictors": Setting(tuple(sorted(PREDICTORS.keys() - {"crysxpp"})), ("alignn", "cogn")),
        "jobs": Setting(("cgcnn", "cogn", "potnet"), ("cogn",), "predictors whose losses are compared with a job's"),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
