"""Predictions per second from CIFs, some of them broken: ``python benchmarks/predict_throughput.py TABLE``.

Writes crystals of a table as CIFs, breaks some of them in different ways, trains a small model on other crystals of the
table, and runs the predict job on the CIFs like a user: in one process, then on Ray. Writes the results to
predict_throughput.md, between the markers there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import resource
import subprocess
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
from pymatgen.core import Structure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "platform"))

from crysatom.crystals.table import read_table, write_table  # noqa: E402 - after the path is set
from crysatom.names import ATOMIC_NUMBERS, FRAC_COORDS, LATTICE, MATERIAL_ID  # noqa: E402
from crysatom.text_tables import markdown  # noqa: E402

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
TRAINING_CRYSTALS = 2000
PROPERTY = "formation_energy_peratom"
PACKAGES = ("ray", "torch", "torch-geometric", "pymatgen")
COLUMNS = ("run", "read", "predicted", "rejected", "seconds", "crystals/s", "whole process (s)", "its CPU (s)")

WAYS: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("cut off in the middle", "unreadable", lambda text: text[: text.index("_atom_site_occupancy") - 8]),
    ("a web page", "unreadable", lambda _: "<html><body>404 Not Found</body></html>"),
    ("an empty file", "unreadable", lambda _: ""),
    ("occupancy 0.5", "disordered", lambda text: re.sub(r"  1(\.0)?\n$", "  0.5\n", text)),
    ("the first site twice", "overlapping_atoms", lambda text: text + _sites(text)[0] + "\n"),
    ("NaN as a coordinate", "nan_coordinates", lambda text: _with_coordinate(text, "nan")),
    ("a cell length of zero", "zero_volume", lambda text: re.sub(r"(_cell_length_a +)\S+", r"\g<1>0.0", text)),
    ("a cell in picometers", "absurd_volume", lambda text: _scaled(text, 100)),
    ("a dummy atom", "unknown_species", lambda text: _with_first_site(text, "Xx")),
    ("an element without vector", "no_vector", lambda text: _with_first_site(text, "Lr")),
)
"""Damage to a CIF written by pymatgen: name, expected reason of the rejection, function."""


def _sites(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"  [A-Z][a-z]?\S*  [A-Z]", line)]


def _with_first_site(text: str, symbol: str) -> str:
    first = _sites(text)[0]
    _, label, *others = first.split()
    # the formulas do not contain the new element
    text = re.sub(r"_chemical_formula_\w+ .*\n", "", text)
    return text.replace(first, "  ".join(["", symbol, label, *others]))


def _with_coordinate(text: str, value: str) -> str:
    first = _sites(text)[0]
    symbol, label, multiplicity, _, *others = first.split()
    return text.replace(first, "  ".join(["", symbol, label, multiplicity, value, *others]))


def _scaled(text: str, factor: float) -> str:
    return re.sub(r"(_cell_length_\w +)(\S+)", lambda found: f"{found[1]}{float(found[2]) * factor}", text)


def write_cifs(table: pa.Table, folder: Path, num_broken: int) -> dict[str, str]:
    """Write the crystals of a table as CIFs; return the expected reason for each broken one."""
    warnings.simplefilter("ignore")  # noble gases have no electronegativity
    folder.mkdir()
    rows = table.to_pylist()
    chosen = np.linspace(5, len(rows) - 6, num_broken).astype(int).tolist()
    broken = {row: WAYS[k % len(WAYS)] for k, row in enumerate(chosen)}
    reasons = {}
    for number, row in enumerate(rows):
        structure = Structure(
            np.reshape(row[LATTICE], (3, 3)), row[ATOMIC_NUMBERS], np.reshape(row[FRAC_COORDS], (-1, 3))
        )
        text = structure.to(fmt="cif")
        if number in broken:
            _, reasons[row[MATERIAL_ID]], break_it = broken[number]
            whole, text = text, break_it(text)
            assert text != whole, "the damage has no effect"
        (folder / f"{row[MATERIAL_ID]}.cif").write_text(text)
    return reasons


def run(job: str, *flags: str, cwd: Path, accepted: tuple[int, ...] = (0,)) -> tuple[str, float, float]:
    """Run a job like a user; return its output, and the seconds and CPU seconds of the whole process."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS"}}
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode not in accepted:
        sys.exit(f"{job} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, time.perf_counter() - started, cpu


def train(table: pa.Table, folder: Path) -> None:
    """Train a small model on the crystals of a table."""
    write_table(table, folder / "train.parquet")
    flags = ["--data", "train.parquet", "--property", PROPERTY, "--split", "random", "--name", "model"]
    run("downstream", *flags, "--epochs", "5", "--num-workers", "0", cwd=folder)


def measure(cifs: Path, workers: int, reasons: dict[str, str]) -> list[object]:
    """Predict, check the reason for every broken crystal, and return a row of the table."""
    out = f"p{workers}.csv"
    flags = ["--model", "runs/model-seed0", str(cifs), "--out", out, "--num-workers", str(workers)]
    output, seconds, cpu = run("predict", *flags, cwd=cifs.parent, accepted=(3,))
    print(output)
    predictions = pd.read_csv(cifs.parent / out)
    quarantine = pd.read_csv(cifs.parent / f"p{workers}.quarantine.csv").set_index(MATERIAL_ID)
    assert quarantine["reason"].to_dict() == reasons, (
        "every broken crystal is rejected for its reason, and no other one"
    )
    assert predictions["prediction"].notna().all()
    found = re.search(r"in ([\d.]+) s, ([\d,]+) crystals/s", output)
    assert found
    read = len(predictions) + len(quarantine)
    way = f"{workers} Ray workers, including their start" if workers else "one process"
    spent = "" if workers else f"{cpu:.1f}"  # unknown for Ray's processes
    return [way, f"{read:,}", f"{len(predictions):,}", len(quarantine), found[1], found[2], f"{seconds:.0f}", spent]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="crystal table (.parquet) with formation energies")
    parser.add_argument("--crystals", type=int, default=1000)
    parser.add_argument("--broken", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    table = read_table(arguments.table)
    with TemporaryDirectory() as name:
        folder = Path(name)
        shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
        reasons = write_cifs(shuffled.slice(0, arguments.crystals), folder / "cifs", arguments.broken)
        train(shuffled.slice(arguments.crystals, TRAINING_CRYSTALS), folder)
        load = psutil.getloadavg()[0]
        rows = [measure(folder / "cifs", workers, reasons) for workers in (0, arguments.workers)]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    counted = ", ".join(f"{count} {reason}" for reason, count in Counter(reasons.values()).most_common())
    figures = [
        f"{time.strftime('%Y-%m-%d')}; {psutil.cpu_count()} CPUs, load average {load:.1f} before; {versions}.",
        "",
        markdown(COLUMNS, rows, "lrrrrrrr"),
        f"Rejected, each for the expected reason: {counted}.",
    ]
    figures[-1] = textwrap.fill(figures[-1], 120, break_on_hyphens=False)
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text("\n".join([before + BEGIN, *figures, END + rest.split(END)[1]]))
    print("\n".join(figures))


if __name__ == "__main__":
    main()
