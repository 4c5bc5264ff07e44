"""Crystals per second of featurizing, in one process and on Ray, and of making batches from the shards.

Both ways must write the same bytes. Ray is started before. Memory is measured by ``soak.py`` and ``ten_times.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bench
import numpy as np
import pyarrow as pa
import torch
from bench import Benchmark, Run, Setting, timed
from driving import on_ray
from samples import sample
from torch_geometric.data import Batch

from crysatom.config import FeaturizeConfig
from crysatom.graphs.batch import GraphTensors, collate, select
from crysatom.graphs.featurize import FeaturizeReport, featurize_plain
from crysatom.graphs.shards import iter_tables, load, read_manifest


def measure(run: Run) -> None:
    """Featurize in both ways, in turn, then read the shards."""
    from crysatom.cluster.featurize import featurize

    table = sample(run.table, run.settings.crystals, run.folder / "crystals.parquet")
    ways = {"one process": featurize_plain, "Ray": featurize}
    with on_ray():
        featurize(config_of(table, run.folder / "warm-up", run.settings.crystals))
        found = [{way: made(run, way, work, table) for way, work in ways.items()} for _ in range(run.settings.rounds)]
    for way in ways:
        run.timings(f"featurizing, {way}", [one[way] for one in found], cpu=way != "Ray")
    pairs = [one["Ray"].rate / one["one process"].rate for one in found]
    cpus = os.cpu_count() or 1
    reason = f"Ray has a worker for each of {cpus} processors, and half as much again for noise."
    run.figure("ratio, Ray to one process", pairs, "x", ceiling=(1.5 * cpus, reason))
    measure_reading(run, run.folder / "shards-one process")


def config_of(table: Path, out: Path, crystals: int) -> FeaturizeConfig:
    """Return the configuration: some shards, even if there are few crystals."""
    return FeaturizeConfig.of(data=str(table), out=str(out), crystals_per_shard=min(4096, max(1, crystals // 4)))


def made(run: Run, way: str, work: Callable[[FeaturizeConfig], FeaturizeReport], table: Path) -> bench.Timing:
    """Featurize; check the counts, and that the shards are those of the first time."""
    crystals = run.settings.crystals
    out = run.folder / f"shards-{way}-{len(list(run.folder.iterdir()))}"
    timing, report = timed(crystals, partial(work, config_of(table, out, crystals)))
    counts = report.accepted, report.rejected, report.read, report.made
    run.check(
        "accepted + rejected = read = made = asked for",
        report.accepted + report.rejected == report.read == report.made == crystals,
        f"{counts}",
    )
    first = run.folder / "shards-one process"
    if not first.exists():
        out.rename(first)
        out = first
    digests = [[shard["sha256"] for shard in read_manifest(folder)["shards"]] for folder in (first, out)]
    run.check("both ways write the same bytes", digests[0] == digests[1], way)
    manifest = read_manifest(out)
    edges = manifest["counts"]["edges"]
    run.facts["edges per crystal"] = edges / report.accepted
    run.facts["bytes per edge"] = sum(shard["bytes"] for shard in manifest["shards"]) / edges
    return timing


def measure_reading(run: Run, folder: Path) -> None:
    """Time loading all shards, and making batches from them in three ways, on one thread."""
    torch.set_num_threads(1)
    size = run.settings.batch_size
    timing, graphs = timed(run.settings.crystals, lambda: GraphTensors.of(load(folder)))
    run.timings("reading all shards", [timing])
    order = torch.from_numpy(np.random.default_rng(0).permutation(graphs.num_crystals))
    table = pa.concat_tables(list(iter_tables(folder)))
    few = select(graphs, order[: 20 * size]).to_data_list()
    pieces = range(0, graphs.num_crystals - size + 1, size)
    ways: dict[str, list[Callable[[], Any]]] = {
        "select": [partial(select, graphs, order[i : i + size]) for i in pieces],
        "collate": [partial(collate, table.slice(i, size)) for i in pieces],
        "Batch.from_data_list": [
            partial(Batch.from_data_list, few[i : i + size]) for i in range(0, len(few) - size + 1, size)
        ],
    }
    for name, calls in ways.items():
        timing, batches = timed(size * len(calls), lambda: sum(call().num_graphs for call in calls))  # noqa: B023
        run.check("batches hold every crystal asked for", batches == timing.crystals, f"{name}: {batches}")
        run.timings(f"batches of {size}, {name}", [timing])


BENCHMARK = Benchmark(
    name="featurize_throughput",
    about=str(__doc__),
    measures=("graphs", "crystals/table.py", "cluster/featurize.py"),
    settings={
        "crystals": Setting(20_000, 48),
        "rounds": Setting(2, 1),
        "batch_size": Setting(128, 8),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
