"""Processor time of every predictor with default settings on one sample: graphs, training step, inference.

    OPENBLAS_NUM_THREADS=1 python benchmarks/predictors.py --table jarvis_dft_3d.parquet

Times are per crystal, on one thread. Work done once for all epochs is reported separately: making graphs and, if a
predictor reads only distances, the search for equal atoms and edges. ALIGNN and PotNet search equal atoms, bonds,
angles and pairs in every batch; this is part of the step. For comparison the table shows times of the public code,
measured on 2026-11-22, in part on a busy machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from crysatom.config import FeaturizeConfig, Limits
from crysatom.config.downstream import default
from crysatom.crystals.table import GRAPH_COLUMNS, read_table, write_table
from crysatom.graphs.batch import GraphTensors, select
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shard_task import make_graphs
from crysatom.graphs.shards import load
from crysatom.nn.condensed import condensed
from crysatom.nn.line_graph import BondsAndAngles
from crysatom.predictors.base import Predictor
from crysatom.predictors.registry import PREDICTORS, build_predictor
from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware
from crysatom.training.regression import spec_of
from crysatom.vectors.published import cgcnn_bits

RESULTS = Path(__file__).parent / "results"
PUBLIC = {"cgcnn": (56, 5.2), "matformer": (18.7, 224), "potnet": (240, 102), "alignn": (21.7, 348)}
"""CPU ms per crystal of the public code: graph, training step. CGCNN's are for crystals of 25 atoms."""


def cpu_ms(work: Callable[[], Any], crystals: int) -> float:
    """Return the processor time of a function per crystal, in ms."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start) / crystals


def step(model: Predictor, optimizer: torch.optim.Optimizer, graphs: GraphTensors, batches: list[Tensor]) -> None:
    """Train on each batch."""
    for rows in batches:
        optimizer.zero_grad()
        model(select(graphs, rows)).square().mean().backward()
        optimizer.step()


def predict(model: Predictor, graphs: GraphTensors, batches: list[Tensor]) -> None:
    """Predict each batch."""
    model.eval()
    with torch.no_grad():
        for rows in batches:
            model(select(graphs, rows))
    model.train()


def measure(predictor: str, table: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure a predictor; times are medians over the rounds."""
    config = default(predictor)
    crystals = pq.read_table(table, columns=list(GRAPH_COLUMNS)).combine_chunks().to_batches()[0]
    count = crystals.num_rows
    rounds = range(arguments.rounds)
    graph_ms = median(cpu_ms(lambda: make_graphs(crystals, config.graph, Limits()), count) for _ in rounds)
    out = folder / predictor
    featurize_plain(FeaturizeConfig.of(data=str(table), out=str(out), **dataclasses.asdict(config.graph)))
    every = GraphTensors.of(load(out))
    graphs: list[GraphTensors] = []
    condensing_ms = cpu_ms(lambda: graphs.append(condensed(every)), count)
    torch.manual_seed(0)
    model = build_predictor(spec_of(config), cgcnn_bits())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    batches = list(torch.randperm(count).split(arguments.batch_size))
    step(model, optimizer, graphs[0], batches)
    train_ms = [cpu_ms(lambda: step(model, optimizer, graphs[0], batches), count) for _ in rounds]
    predict_ms = [cpu_ms(lambda: predict(model, graphs[0], batches), count) for _ in rounds]
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step(model, optimizer, graphs[0], batches[:1])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "per_crystal": {
            "atoms": round(len(every.atomic_numbers) / count, 1),
            "edges": round(len(every.distance) / count, 1),
            **evaluated(every, graphs[0], count),
        },
        "graph_cpu_ms": round(graph_ms, 3),
        "condensing_cpu_ms": round(condensing_ms, 3),
        "train_cpu_ms": round(median(train_ms), 2),
        "train_cpu_ms_each_round": [round(ms, 2) for ms in train_ms],
        "predict_cpu_ms": round(median(predict_ms), 2),
        "share_of_time": shares(profiler),
    }


def evaluated(every: GraphTensors, once: GraphTensors, count: int) -> dict[str, float]:
    """Return the mean numbers of evaluated atoms and edges per crystal."""
    if every.potential is not None:  # merged in every batch, within the predictor
        return {"pairs": round(int((~every.potential.isnan()).sum()) / count, 1)}
    if every.vector is None:
        return {
            "atoms_once": round(len(once.atomic_numbers) / count, 1),
            "edges_once": round(len(once.distance) / count, 1),
        }
    graphs = BondsAndAngles.of(select(every, torch.arange(count)))
    return {
        "atoms_once": round(len(graphs.atoms.first) / count, 1),
        "edges_once": round(len(graphs.bonds.first) / count, 1),
        "angles": round(int(graphs.line.edges.sum()) / count, 1),
        "angles_once": round(len(graphs.cosine) / count, 1),
    }


def shares(profiler: profile) -> dict[str, float]:
    """Return the time shares of the slowest operations of a step."""
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return {e.key: round(e.self_cpu_time_total / total, 3) for e in events[:8]}


def row(predictor: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    graph, train = PUBLIC.get(predictor, (None, None))
    public = (
        f"{graph} / {train} | {graph / found['graph_cpu_ms']:.0f} / {train / found['train_cpu_ms']:.1f}"
        if graph
        else "|"
    )
    ours = f"{found['graph_cpu_ms']:.2f} / {found['train_cpu_ms']:.1f} / {found['predict_cpu_ms']:.1f}"
    return f"| {predictor} | {found['parameters']:,} | {ours} | {public} |"


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="crystal table (.parquet)")
    parser.add_argument("--crystals", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--predictors", nargs="+", default=sorted(PREDICTORS.keys() - {"crysxpp"}))
    parser.add_argument("--note", default="", help="other load of the machine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    crystals = read_table(arguments.table)
    rows = np.random.default_rng(0).choice(len(crystals), arguments.crystals, replace=False)
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "crystals.parquet"
        write_table(crystals.take(np.sort(rows)), sample)
        for predictor in arguments.predictors:
            measured[predictor] = measure(predictor, sample, arguments, Path(folder))
            print(row(predictor, measured[predictor]), flush=True)
    result = {
        "predictors": measured,
        "settings": {name: str(getattr(value, "name", value)) for name, value in vars(arguments).items()},
        "threads": 1,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(result, indent=1))
    (RESULTS / f"predictors_{arguments.table.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
