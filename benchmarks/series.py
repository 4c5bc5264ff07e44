"""Run the benchmarks, one after the other, each in a process of its own: ``python benchmarks/series.py [NAME ...]``.

``--small`` runs the small forms in this process: it checks the benchmarks and writes nothing. ``--compare FOLDER``
compares the results in a folder (written by ``--out``) with the stored ones.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import bench
import driving

SPEED = (
    "pretrain_throughput",
    "cgcnn_throughput",
    "predictors",
    "featurize_throughput",
    "ingest_throughput",
    "ray_overhead",
    "scatter",
)
"""What ``make bench`` runs: some ten minutes."""

OTHERS = ("predict_throughput", "lattice_sums", "interval_coverage", "cif_round_trip", "mixed_cluster")
"""Accuracies, and what takes long: run by name or with ``--all``."""

NAMES = (*SPEED, *OTHERS)

RECORDS = {
    "published_cgcnn": "needs the published checkpoints",
    "rival_vectors": "needs the published tables of vectors, and minutes on a large set",
    "soak": "takes 45 minutes",
    "ten_times": "takes an hour and 2 GB",
    "vector_spectrum": "needs graphs of JARVIS-DFT, and half an hour",
}
"""Scripts whose results are records of one day: each says so, and nothing runs them again."""

TOOLS = ("pages", "perturbed_crystals", "pool_without", "results_page", "series")
"""Scripts that measure nothing."""

APART = ("gpu",)
"""Runs on a machine without the rest of this repository, see its docstring."""


def load(name: str) -> bench.Benchmark:
    """Return a benchmark."""
    found: bench.Benchmark = importlib.import_module(name).BENCHMARK
    return found


def small(names: list[str]) -> None:
    """Run small forms in this process, on one Ray.

    Raises:
        CheckError: If a check does not hold.

    """
    with driving.on_ray() if len(names) > 1 else contextlib.nullcontext():  # a single one starts Ray if it needs it
        for name in names:
            one(name)


def one(name: str) -> None:
    """Run a small form in this process; print its seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    benchmark = load(name)
    result = bench.measured(benchmark, bench.arguments(benchmark, ["--small"]))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {len(result['checks'])} checks hold, {wall:.0f} s, {cpu:.0f} s of CPU time", flush=True)


def full(name: str, flags: list[str]) -> bool:
    """Run a benchmark in a new process; return whether it succeeded."""
    start = time.perf_counter()
    print(f"## {name}", flush=True)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a waiting thread would count as CPU time
    command = [sys.executable, str(bench.FOLDER / f"{name}.py"), *flags]
    done = subprocess.run(command, env=environment, check=False)  # noqa: S603 - our own benchmark
    print(f"{name}: exit code {done.returncode}, {time.perf_counter() - start:.0f} s\n", flush=True)
    return done.returncode == 0


def compare(names: list[str], folder: Path) -> int:
    """Compare each result in a folder with the stored one; return how many have worse figures."""
    import comparing

    codes = [
        comparing.main(bench.RESULTS / f"{name}.json", folder / f"{name}.json")
        for name in names
        if (folder / f"{name}.json").exists()
    ]
    for code in codes:
        if isinstance(code, str):
            print(code)
    return sum(code != 0 for code in codes) if codes else 1


def main() -> None:
    """Run the benchmarks, or compare results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(SPEED)}")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(OTHERS)}")
    parser.add_argument("--small", action="store_true", help="all in small form")
    parser.add_argument("--out", type=Path, help="folder for the results; default: benchmarks/results, and the pages")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="compare results instead of measuring")
    parser.add_argument("--table", help="crystal table (.parquet) for benchmarks that read one")
    parser.add_argument("--note", default="", help="other load of the machine")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(NAMES)):
        parser.error(f"no benchmark {', '.join(unknown)}; choose among {', '.join(NAMES)}")
    everything = given.all or given.small or given.compare
    names = given.names or list(NAMES if everything else SPEED)
    if given.compare:
        sys.exit(compare(names, given.compare) > 0)
    if given.small:
        small(names)
        return
    failed = 0
    for name in names:
        flags = ["--note", given.note] * bool(given.note)
        flags += ["--table", str(given.table)] * bool(given.table and load(name).reads_table)
        flags += ["--out", str(given.out / f"{name}.json")] if given.out else []
        failed += not full(name, flags)
    sys.exit(f"error: {failed} of {len(names)} benchmarks failed" if failed else 0)


if __name__ == "__main__":
    main()
