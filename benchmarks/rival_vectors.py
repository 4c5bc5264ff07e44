"""SkipAtom and Atom2Vec on a crystal table: time, memory, and similarity to the published vectors.

    python benchmarks/rival_vectors.py --data graphs/mp_pool --out rivals --published atom_vectors/

Runs jobs/vectors.py like a user, samples the resident memory of its processes, and correlates the cosine similarities
of all pairs of elements that two tables share.

A record of one day: ``make bench`` does not run this.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from crysatom.text_tables import markdown
from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware
from crysatom.vectors.files import read_vectors
from crysatom.vectors.table import AtomVectors

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
PUBLISHED = ("skipatom200", "skipatom200_induced", "atom2vec86", "mat2vec200", "crysatom_official200")
METHODS = {"skipatom": [], "atom2vec": ["--dim", "86"]}

Array = NDArray[Any]


def run_job(method: str, flags: list[str], data: str, out: Path, workers: int) -> dict[str, Any]:
    """Run the job; return its last lines, its time, and the peak memory of its processes, in MB."""
    command = [sys.executable, str(ROOT / "jobs" / "vectors.py"), "--method", method, "--data", data, *flags]
    command += ["--out", str(out), "--name", method, "--num-workers", str(workers)]
    command += ["--tracking-uri", f"sqlite:///{out.resolve()}/mlflow.db"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own job
    memory = {"job": 0.0, "largest_worker": 0.0}
    while process.poll() is None:
        for who, megabytes in resident(process.pid).items():
            memory[who] = max(memory[who], round(megabytes))
        time.sleep(0.2)
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines()
    if process.returncode:
        sys.exit("\n".join(lines))
    seconds = round(time.perf_counter() - start, 1)
    facts = json.loads((out / method / "run.json").read_text())["facts"]
    return {"seconds_of_job": seconds, "peak_resident_mb": memory, "facts": facts, "said": lines[-4:]}


def resident(pid: int) -> dict[str, float]:
    """Return the resident memory of the job and of its largest Ray process, in MB."""
    found = {"job": 0.0, "largest_worker": 0.0}
    try:
        root = psutil.Process(pid)
        found["job"] = root.memory_info().rss / 1e6
        workers = [c for c in root.children(recursive=True) if "ray::" in " ".join(c.cmdline())]
        found["largest_worker"] = max((c.memory_info().rss / 1e6 for c in workers), default=0.0)
    except psutil.NoSuchProcess:
        pass
    return found


def similarities(table: AtomVectors, elements: Array) -> Array:
    """Return the cosine similarity of each pair of elements."""
    rows = table.lookup(elements).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found: Array = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return found


def agreement(one: AtomVectors, other: AtomVectors) -> dict[str, float]:
    """Return the number of common elements of two tables and the correlations of their similarities."""
    common = np.intersect1d(one.atomic_numbers, other.atomic_numbers)
    first, second = similarities(one, common), similarities(other, common)
    return {
        "elements": len(common),
        "spearman": round(float(spearmanr(first, second).statistic), 3),
        "pearson": round(float(pearsonr(first, second).statistic), 3),
    }


def main() -> None:
    """Run both methods, compare, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="crystal table or graph shards")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; finished runs are reused")
    parser.add_argument("--published", type=Path, required=True, help="folder of the published tables, as CSV")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--note", default="", help="other load of the machine")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = {
        method: run_job(method, flags, arguments.data, arguments.out, arguments.num_workers)
        for method, flags in METHODS.items()
    }
    tables = {f"ours: {method}": read_vectors(arguments.out / method / "vectors") for method in METHODS}
    tables |= {name: read_vectors(arguments.published / f"{name}.csv") for name in PUBLISHED}
    agreements = {f"{a} | {b}": agreement(tables[a], tables[b]) for a, b in itertools.combinations(tables, 2)}
    rows = []
    for name in tables:
        cells = [agreements.get(f"{name} | {other}") for other in PUBLISHED]
        rows.append([name, *(f"{c['spearman']} / {c['pearson']}" if c else "" for c in cells)])
    print(markdown(["", *PUBLISHED], rows, "l" + "r" * len(PUBLISHED)), end="")
    result = {
        "runs": runs,
        "agreement_of_similarities": agreements,
        "settings": {name: str(getattr(value, "name", value)) for name, value in vars(arguments).items()},
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(runs, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "rival_vectors.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
