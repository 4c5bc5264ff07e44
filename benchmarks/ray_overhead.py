"""Overhead of Ray: the same pretraining in a plain process, on one and on two Ray Train workers, in turn.

    python benchmarks/ray_overhead.py --data SHARDS

Each run is ``jobs/pretrain.py``; the speed is the median over all epochs but the first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
WORKERS = {"plain process": 0, "1 Ray worker": 1, "2 Ray workers": 2}


def run(data: str, workers: int, arguments: argparse.Namespace, folder: Path) -> tuple[float, float, float]:
    """Return crystals per second and data-wait share of all epochs but the first, and the seconds of the job."""
    command = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), "--data", data, "--out", str(folder)]
    command += ["--num-workers", str(workers), "--epochs", str(arguments.epochs)]
    command += ["--name", f"run-{workers}-{time.time_ns()}"]
    command += ["--embedding-dim", str(arguments.dim), "--register", "", "--holdout-fraction", "0"]
    command += ["--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own job
    seconds = time.perf_counter() - start
    newest = max(folder.glob(f"run-{workers}-*/history.csv"), key=lambda path: path.stat().st_mtime)
    history = pd.read_csv(newest)[1:]
    return history["crystals_per_second"].median(), history["data_wait_share"].median(), seconds


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of graph shards, or a crystal table")
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for name, workers in WORKERS.items():
                rates[name].append(run(arguments.data, workers, arguments, Path(folder)))
                print(f"{name:<14} {rates[name][-1][0]:8.1f} crystals/s", flush=True)
    plain = rates["plain process"]
    result: dict[str, Any] = {
        name: {
            "crystals_per_second": [round(r, 1) for r, _, _ in measured],
            "median": round(median(r for r, _, _ in measured), 1),
            "ratio_to_plain": round(median(m[0] / p[0] for m, p in zip(measured, plain, strict=True)), 3),
            "data_wait_share": round(median(w for _, w, _ in measured), 4),
            "job_seconds": round(median(s for _, _, s in measured), 1),
        }
        for name, measured in rates.items()
    }
    result |= {
        "settings": vars(arguments),
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ray_overhead.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
