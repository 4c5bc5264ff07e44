"""Featurizing speed and memory: ``python benchmarks/featurize_throughput.py --data TABLE --out DIR [--plain]``.

Runs the featurize job like a user, samples the resident memory of its processes twice a second, then times reading the
shards and making batches from them on one thread.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
from torch_geometric.data import Batch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "platform"))

from crysatom.graphs.batch import GraphTensors, collate, select  # noqa: E402 - after the path is set
from crysatom.graphs.shards import iter_tables, load, read_manifest  # noqa: E402

PLAIN = """
import logging
from crysatom.config import FeaturizeConfig, parse
from crysatom.graphs.featurize import featurize_plain
logging.basicConfig(level=logging.INFO, format="%(message)s")
report = featurize_plain(parse(FeaturizeConfig))
print(f"{report.made:,} crystals in {report.seconds:.1f} s, {report.crystals_per_second:,.0f} crystals/s")
"""
PACKAGES = ("ray", "pyarrow", "pymatgen", "numpy", "torch", "torch-geometric")


def run_job(data: str, out: str, *, plain: bool) -> dict[str, Any]:
    """Run the job; return its output and the memory of its processes over time, in MB."""
    script = ["-c", PLAIN] if plain else [str(ROOT / "jobs" / "featurize.py")]
    environment = {**psutil.Process().environ(), "PYTHONPATH": str(ROOT / "platform")}
    process = subprocess.Popen(  # noqa: S603 - our own job
        [sys.executable, *script, "--data", data, "--out", out], env=environment, stdout=subprocess.PIPE, text=True
    )
    samples: list[dict[str, float]] = []
    start = time.monotonic()
    while process.poll() is None:
        samples.append({"seconds": time.monotonic() - start, **resident(process.pid)})
        time.sleep(0.5)
    assert process.stdout is not None
    output = process.stdout.read().strip().splitlines()
    if process.returncode:
        sys.exit("\n".join(output))
    return {"output": output, "memory": summarize(samples)}


def resident(pid: int) -> dict[str, float]:
    """Return the resident memory of the driver and of the largest process that makes shards, in MB."""
    memory = {"driver": 0.0, "worker": 0.0}
    try:
        root = psutil.Process(pid)
        memory["driver"] = root.memory_info().rss / 1e6
        for child in root.children(recursive=True):
            if "ray::" in " ".join(child.cmdline()) and "Map" in " ".join(child.cmdline()):
                memory["worker"] = max(memory["worker"], child.memory_info().rss / 1e6)
    except psutil.NoSuchProcess:
        pass
    return memory


def summarize(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Return the peak of each kind of process, in total and in each tenth of the run."""
    parts = np.array_split(np.arange(len(samples)), 10)
    kinds = ("driver", "worker")
    peaks = {kind: [round(max((samples[i][kind] for i in part), default=0.0)) for part in parts] for kind in kinds}
    return {"peak_mb_by_tenth_of_the_run": peaks, "peak_mb": {kind: max(values) for kind, values in peaks.items()}}


def time_reading(folder: str, batch_size: int) -> dict[str, float]:
    """Time loading all shards, and making batches from them in three ways, on one thread."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    graphs = GraphTensors.of(load(folder))
    seconds = time.perf_counter() - start
    order = torch.from_numpy(np.random.default_rng(0).permutation(graphs.num_crystals))
    table = pa.concat_tables(list(iter_tables(folder)))
    few = select(graphs, order[: 20 * batch_size]).to_data_list()
    pieces = range(0, graphs.num_crystals - batch_size, batch_size)
    return {
        "load_seconds": seconds,
        "resident_mb": graphs.nbytes / 1e6,
        "select_per_second": rate([lambda i=i: select(graphs, order[i : i + batch_size]) for i in pieces]),
        "collate_per_second": rate([lambda i=i: collate(table.slice(i, batch_size)) for i in pieces]),
        "from_data_list_per_second": rate(
            [lambda i=i: Batch.from_data_list(few[i : i + batch_size]) for i in range(0, len(few), batch_size)]
        ),
    }


def rate(calls: list[Any]) -> float:
    """Return crystals per second of functions that make batches."""
    start = time.perf_counter()
    crystals = sum(call().num_graphs for call in calls)
    return float(crystals / (time.perf_counter() - start))


def main() -> None:
    """Run the benchmark and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--plain", action="store_true", help="in one process, without Ray")
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    load_before = psutil.getloadavg()[0]
    job = run_job(arguments.data, arguments.out, plain=arguments.plain)
    load_after = psutil.getloadavg()[0]
    manifest = read_manifest(arguments.out)
    result = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "machine": {"cpus": psutil.cpu_count(), "processor": platform.processor() or platform.machine()},
        "load_average": {"before": load_before, "after": load_after},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "table": Path(arguments.data).name,
        "plain": arguments.plain,
        "counts": {name: value for name, value in manifest["counts"].items() if name != "elements"},
        "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
        "job": job,
        "reading": {"batch_size": arguments.batch_size, **time_reading(arguments.out, arguments.batch_size)},
    }
    name = f"featurize_{Path(arguments.data).stem}{'_plain' if arguments.plain else ''}.json"
    results = Path(__file__).parent / "results" / name
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
