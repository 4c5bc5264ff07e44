"""Featurizing and streamed pretraining of one and ten times JARVIS: does memory grow with the data?

    python benchmarks/ten_times.py --table jarvis_dft_3d.parquet --work FOLDER [--store-mb 400]

The crystals are perturbed copies (``perturbed_crystals.py``). Each step is a job on a Ray of its own; all its processes
are sampled every second. Results are written to ``results/ten_times.json``.

A record of one day: ``make bench`` does not run this.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
from compact import compact
from watching import MB, Watched, contents, watch

from crysatom.graphs.shards import TRAINING_COLUMNS, iter_tables, read_manifest
from crysatom.names import MATERIAL_ID
from crysatom.text_tables import markdown
from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware
from crysatom.vectors.files import read_vectors

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
STORE_LIMIT = "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"


def measure(copies: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the crystals, featurize them and pretrain for an epoch; return the results of each step."""
    folder: Path = arguments.work / f"x{copies}"
    table, shards, runs = folder / "crystals.parquet", folder / "shards", folder / "runs"
    benchmark = [sys.executable, str(Path(__file__).parent / "perturbed_crystals.py")]
    benchmark += ["--table", str(arguments.table), "--copies", str(copies), "--out", str(table)]
    featurize = [sys.executable, str(ROOT / "jobs" / "featurize.py"), "--data", str(table), "--out", str(shards)]
    pretrain = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), "--data", str(shards), "--out", str(runs)]
    pretrain += ["--loader", "streamed", "--num-workers", "2", "--epochs", "1", "--name", "run", "--register", ""]
    pretrain += ["--embedding-dim", "16", "--num-layers", "1", "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    limit = {STORE_LIMIT: str(int(arguments.store_mb * MB))} if arguments.store_mb else {}
    steps: dict[str, dict[str, Any]] = {}
    for name, command, out in (
        ("table", benchmark, folder),
        ("featurize", featurize, shards),
        ("pretrain", pretrain, runs),
    ):
        print(f"{copies} x: {name} ...", flush=True)
        seen = watch(command, folder / name, out=out, environment=limit)
        if seen.returncode:
            sys.exit(f"error: {name} ended with {seen.returncode}: see {folder / name / 'job.log'}")
        steps[name] = {"command": as_typed(command, arguments.work), **figures(seen, folder / name / "tmp")}
        print(json.dumps(steps[name]["peak_mb"]), flush=True)
        shutil.rmtree(folder / name / "tmp")
    crystals = counts(table, shards)
    history = pd.read_csv(runs / "run" / "history.csv").iloc[0]
    steps["featurize"]["crystals_per_second"] = round(crystals["read"] / steps["featurize"]["seconds"])
    steps["pretrain"]["crystals_per_second"] = round(float(history["crystals_per_second"]))
    steps["pretrain"]["epoch_seconds"] = round(float(history["seconds"]))
    steps["pretrain"]["sites_in_the_vectors"] = sites(runs / "run" / "vectors" / "vectors.safetensors")
    on_disk = {"table": table.stat().st_size, "shards": round(contents(shards)[1] * MB)}
    return {
        "crystals": crystals,
        "bytes_on_disk": on_disk,
        "stream_mb": round(stream_bytes(shards) / MB),
        "steps": steps,
    }


def as_typed(command: list[str], work: Path) -> str:
    """Return a command without the folders of this machine."""
    return shlex.join(command[1:]).replace(f"{ROOT}/", "").replace(f"{work}/", "")


def sites(vectors: Path) -> int:
    """Return the number of sites that the element vectors average: all of the data, unless crystals were lost."""
    found = read_vectors(vectors).site_counts
    assert found is not None
    return int(found.sum())


def figures(seen: Watched, temporary: Path) -> dict[str, Any]:
    """Return the results of a step: time, memory by kind of process, object store, spilled bytes, disk."""
    system = seen.system
    found: dict[str, Any] = {"seconds": round(seen.seconds), "samples": len(system), "peak_mb": seen.peaks()}
    if "object_mb" in system:
        found |= {
            "object_store_peak_mb": round(float(system["object_mb"].max())),
            "objects_peak": int(system["objects"].max()),
            "spilled_mb": round(float(system["spilled_mb"].max())),
        }
    found |= {
        "temporary_peak_mb": round(float(system["session_mb"].max())),
        "temporary_left_mb": round(contents(temporary)[1]),
        "processes_left": seen.alive,
        "private_mb_by_tenth_of_the_run": tenths(seen.processes),
    }
    return found


def tenths(processes: pd.DataFrame) -> list[int]:
    """Return the peak private memory of all processes in each tenth of a run, in MB."""
    total = processes.groupby("seconds")["private"].sum()
    return [round(float(part.max())) for part in np.array_split(total.to_numpy(), 10) if len(part)]


def counts(table: Path, shards: Path) -> dict[str, Any]:
    """Count the crystals; exit unless each is either a graph or in the quarantine."""
    manifest = read_manifest(shards)["counts"]
    quarantine = pq.read_table(shards / "quarantine.parquet") if manifest["rejected"] else None
    reasons = dict(Counter(quarantine["reason"].to_pylist())) if quarantine is not None else {}
    rows = pq.ParquetFile(table).metadata.num_rows
    ids: set[str] = set()
    for piece in iter_tables(shards, (MATERIAL_ID,)):
        ids.update(piece[MATERIAL_ID].to_pylist())
    found = {name: manifest[name] for name in ("read", "accepted", "rejected", "atoms", "edges")}
    if not (rows == found["read"] == found["accepted"] + sum(reasons.values()) and len(ids) == found["accepted"]):
        sys.exit(f"error: crystals were lost: {rows} in the table, {found}, {reasons}, {len(ids)} ids in the shards")
    return {"in_the_table": rows, **found, "quarantined": reasons, "ids_in_the_shards": len(ids)}


def stream_bytes(shards: Path) -> int:
    """Return the size of the streamed columns of all shards in memory, in bytes."""
    return sum(piece.nbytes for piece in iter_tables(shards, TRAINING_COLUMNS))


def compared(one: dict[str, Any], ten: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return the peaks by step and kind of process: [small set, large set]."""
    return {
        name: {
            kind: [one["steps"][name]["peak_mb"].get(kind, {}).get("rss", 0), peak["rss"]]
            for kind, peak in ten["steps"][name]["peak_mb"].items()
        }
        for name in ten["steps"]
    }


def table(result: dict[str, Any]) -> str:
    """Return the peak resident memory by kind of process, step and size, as a Markdown table."""
    peak_of = compared(result["small"], result["large"])
    steps, kinds = ("featurize", "pretrain"), peak_of["pretrain"]
    rows = []
    for kind in kinds:
        peaks = [peak_of[step].get(kind, ["", ""]) for step in steps]
        rows.append([kind, *(f"{peak:,}" if peak != "" else "" for pair in peaks for peak in pair)])
    return markdown(["peak resident MB", "featurize", "", "pretrain", ""], rows, "lrrrr").rstrip()


def main() -> None:
    """Measure both sizes, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="crystal table")
    parser.add_argument("--work", type=Path, required=True, help="new folder, some 2 GB; a short path")
    parser.add_argument("--copies", type=int, nargs=2, default=(1, 10))
    parser.add_argument("--store-mb", type=float, default=0.0, help="limit of Ray's object store; 0: Ray's own, 30 %%")
    parser.add_argument("--results", type=Path, default=RESULTS / "ten_times.json")
    arguments = parser.parse_args()
    load = psutil.getloadavg()[1]
    one, ten = (measure(copies, arguments) for copies in arguments.copies)
    result = {
        "small": one,
        "large": ten,
        "settings": {"copies": list(arguments.copies), "store_mb": arguments.store_mb},
        "date": time.strftime("%Y-%m-%d"),
        "load_average": {"before": load, "after": psutil.getloadavg()[1]},
        "environment": environment_tags(hardware()),
    }
    arguments.results.write_text(compact(result))
    print(table(result))


if __name__ == "__main__":
    main()
