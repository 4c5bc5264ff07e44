"""How much memory, disk and time a set of crystals takes: the table of docs/operations.md.

    python benchmarks/sizing.py --tables jarvis_dft_3d.parquet mp_pool.parquet     # measures, then prints
    python benchmarks/sizing.py                                                    # prints

Graphs were measured by benchmarks/featurize.py, the speed of pretraining by benchmarks/pretrain_throughput.py on
crystals of JARVIS-DFT; those of another table are taken to need more in proportion to their edges. Measured here,
on some of each table: what a run of ``jobs/pretrain.py`` with the default recipe leaves on the disk, its peak
memory, and, to check that proportion, CPU seconds of a crystal in an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "platform"))

from crysatom.tracking.environment import environment_tags  # noqa: E402 - after the path is set
from crysatom.training.machine import hardware  # noqa: E402

RESULTS = Path(__file__).parent / "results"
SMALL, LARGE = "jarvis_dft_3d", "mp_pool"
ROWS = ((10_000, SMALL), (55_712, SMALL), (154_905, LARGE), (550_000, LARGE), (5_000_000, LARGE))
"""Crystals, and the table whose crystals they are taken to be like."""

EPOCHS = (1, 3)
"""Of two runs, whose difference is what epochs take: without imports, graphs and extraction."""

DEFAULT_EPOCHS = 20


def pretrain(data: Path, folder: Path, epochs: int) -> dict[str, float]:
    """Run the job in a process of its own; return its CPU seconds, its peak memory and the bytes it leaves."""
    name = f"{data.stem}-{epochs}"
    command = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), "--data", str(data), "--out", str(folder)]
    command += ["--name", name, "--num-workers", "0", "--epochs", str(epochs), "--register", ""]
    command += ["--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    null = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=null)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_mb": usage.ru_maxrss / 1000,
        "run_bytes": size(folder / name),
        "checkpoints_bytes": size(folder / name / "checkpoints"),
    }


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(table: Path, crystals: int) -> dict[str, Any]:
    """Return what a crystal of a table takes, by runs on some that lie evenly in it."""
    rows = pq.read_table(table)
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / f"{table.stem}.parquet"
        pq.write_table(rows.take(list(range(0, len(rows), len(rows) // crystals))[:crystals]), few)
        first, last = (pretrain(few, Path(folder), epochs) for epochs in EPOCHS)
    return {
        "table_bytes_per_crystal": table.stat().st_size / len(rows),
        "cpu_ms_per_crystal": 1000 * (last["cpu_s"] - first["cpu_s"]) / (EPOCHS[1] - EPOCHS[0]) / crystals,
        **{name: last[name] for name in ("peak_rss_mb", "run_bytes", "checkpoints_bytes")},
    }


def measured(name: str) -> dict[str, Any]:
    """Return the figures of another benchmark."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def edges(name: str) -> float:
    """Return the edges of a table's crystals, on average."""
    counts = measured(f"featurize_{name}")["counts"]
    return float(counts["edges"] / counts["accepted"])


def each(name: str, ours: dict[str, Any]) -> dict[str, float]:
    """Return what one crystal like those of a table takes: bytes, and seconds of one CPU."""
    graphs = measured(f"featurize_{name}")
    count = graphs["counts"]["accepted"]
    seconds = float(graphs["job"]["output"][-1].split(" in ")[1].split(" s")[0])
    alone = measured("pretrain_throughput")["ours"]["default"]["warm_epoch"]["cpu_ms_per_crystal"] / 1000
    heavier = edges(name) / edges(SMALL)
    return {
        "table": ours[name]["table_bytes_per_crystal"],
        "shards": graphs["bytes"] / count,
        "memory": graphs["reading"]["resident_mb"] * 1e6 / count,
        "featurize": seconds * graphs["machine"]["cpus"] / count,
        "epoch": alone * heavier,
    }


def amount(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """Return a value with the largest unit that it holds, to two digits."""
    factor, unit = next(((f, u) for f, u in units if value >= f), units[-1])
    scaled = float(f"{value / factor:.2g}")
    return f"{scaled:,.0f} {unit}" if scaled >= 10 else f"{scaled:g} {unit}"


BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
SECONDS = ((3600, "h"), (60, "min"), (1, "s"))


def page(ours: dict[str, Any]) -> str:
    """Return the table."""
    head = ["crystals", "like those of", "crystal table", "shards", "in memory, each worker"]
    head += ["featurize", "an epoch", f"{DEFAULT_EPOCHS} epochs on 16 CPUs"]
    lines = [head, ["---:", "---", *["---:"] * 6]]
    for count, name in ROWS:
        one = each(name, ours)
        row = [f"{count:,}", name, *(amount(count * one[key], BYTES) for key in ("table", "shards", "memory"))]
        row += [amount(count * one[key], SECONDS) for key in ("featurize", "epoch")]
        lines.append([*row, amount(count * one["epoch"] * DEFAULT_EPOCHS / 16, SECONDS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure if there are tables, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help=f"{SMALL}.parquet and {LARGE}.parquet")
    parser.add_argument("--crystals", type=int, default=256)
    arguments = parser.parse_args()
    if arguments.tables:
        load = psutil.getloadavg()[0]
        ours: dict[str, Any] = {table.stem: measure(table, arguments.crystals) for table in arguments.tables}
        ours |= {
            "settings": {"crystals": arguments.crystals, "epochs": EPOCHS},
            "load_average": {"before": load, "after": psutil.getloadavg()[0]},
            "date": time.strftime("%Y-%m-%d"),
            "environment": environment_tags(hardware()),
        }
        (RESULTS / "sizing.json").write_text(json.dumps(ours, indent=1) + "\n")
    print(page(measured("sizing")))


if __name__ == "__main__":
    main()
