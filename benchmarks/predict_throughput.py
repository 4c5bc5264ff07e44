"""Predictions per second from CIFs, some of them broken, in one process and on Ray.

Writes crystals as CIFs, breaks some of them in different ways, trains a small model on other crystals, and predicts the
CIFs as ``jobs/predict.py`` does. Exactly the broken CIFs must be rejected, each for its reason. Ray is started before.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bench
import numpy as np
import pandas as pd
from bench import Benchmark, Run, Setting, timed
from driving import on_ray, quiet
from samples import sample, write_cifs

from crysatom.config import DownstreamConfig, PredictConfig
from crysatom.crystals.table import read_table, write_table
from crysatom.names import MATERIAL_ID, PREDICTION
from crysatom.pipelines import downstream, predicting

WAYS: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("cut off in the middle", "unreadable", lambda text: text[: text.index("_atom_site_occupancy") - 8]),
    ("a web page", "unreadable", lambda _: "<html><body>404 Not Found</body></html>"),
    ("an empty file", "unreadable", lambda _: ""),
    ("occupancy 0.5", "disordered", lambda text: re.sub(r"  1(\.0)?\n$", "  0.5\n", text)),
    ("the first site twice", "overlapping_atoms", lambda text: _without_formula(text) + _sites(text)[0] + "\n"),
    ("NaN as a coordinate", "nan_coordinates", lambda text: _with_coordinate(text, "nan")),
    ("a cell length of zero", "zero_volume", lambda text: re.sub(r"(_cell_length_a +)\S+", r"\g<1>0.0", text)),
    ("a cell in picometers", "absurd_volume", lambda text: _scaled(text, 100)),
    ("a dummy atom", "unknown_species", lambda text: _with_first_site(text, "Xx")),
    ("an element without vector", "no_vector", lambda text: _with_first_site(text, "Lr")),
)
"""Damage to a CIF written by pymatgen: name, expected reason of the rejection, function."""


def _sites(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"  [A-Z][a-z]?\S*  [A-Z]", line)]


def _without_formula(text: str) -> str:
    """Remove the formulas, which would contradict other sites."""
    return re.sub(r"_chemical_formula_\w+ .*\n", "", text)


def _with_first_site(text: str, symbol: str) -> str:
    first = _sites(text)[0]
    _, label, *others = first.split()
    return _without_formula(text).replace(first, "  ".join(["", symbol, label, *others]))


def _with_coordinate(text: str, value: str) -> str:
    first = _sites(text)[0]
    symbol, label, multiplicity, _, *others = first.split()
    return text.replace(first, "  ".join(["", symbol, label, multiplicity, value, *others]))


def _scaled(text: str, factor: float) -> str:
    text = re.sub(r"_cell_volume .*\n", "", text)  # it would contradict the cell
    return re.sub(r"(_cell_length_\w +)(\S+)", lambda found: f"{found[1]}{float(found[2]) * factor}", text)


def break_some(files: list[Path], count: int) -> dict[str, str]:
    """Break some CIFs; return the expected reason of each."""
    reasons = {}
    for number, row in enumerate(np.linspace(5, len(files) - 6, count).astype(int).tolist()):
        _, reason, break_it = WAYS[number % len(WAYS)]
        whole = files[row].read_text()
        text = break_it(whole)
        assert text != whole, "the damage has no effect"
        files[row].write_text(text)
        reasons[files[row].stem] = reason
    return reasons


def measure(run: Run) -> None:
    """Predict with each number of workers, in turn."""
    s, folder = run.settings, run.folder
    crystals = read_table(sample(run.table, s.crystals + s.training_crystals, folder / "crystals.parquet"))
    order = np.random.default_rng(0).permutation(len(crystals))
    for name, rows in (("few", order[: s.crystals]), ("training", order[s.crystals :])):
        write_table(crystals.take(rows), folder / f"{name}.parquet")
    files = write_cifs(folder / "few.parquet", folder / "cifs")
    reasons = break_some(files, s.broken)
    model = trained(run)
    with on_ray() if any(s.workers) else contextlib.nullcontext():
        for _ in range(s.rounds):
            for workers in s.workers:
                predict(run, model, workers, reasons)
    for workers in s.workers:
        name = f"{workers} Ray workers" if workers else "one process"
        run.figure(name, run.facts.pop(f"rates {workers}"), "crystals/s")
    run.facts["rejected, each for the expected reason"] = dict(Counter(reasons.values()).most_common())


def trained(run: Run) -> Path:
    """Train a small model; return its run's folder."""
    config = DownstreamConfig.of(
        data=str(run.folder / "training.parquet"),
        split="random",
        epochs=run.settings.epochs,
        num_workers=0,
        out=str(run.folder / "runs"),
        name="model",
        tracking_uri=f"sqlite:///{run.folder}/mlflow.db",
        register="",
    )
    [finished] = quiet(lambda: downstream.run(config))
    return finished.folder


def predict(run: Run, model: Path, workers: int, reasons: dict[str, str]) -> None:
    """Predict all CIFs; check what came out."""
    out = run.folder / f"predictions-{workers}.csv"
    config = PredictConfig.of(
        inputs=(str(run.folder / "cifs"),), model=(str(model),), out=str(out), num_workers=workers
    )
    asked = run.settings.crystals
    timing, report = timed(asked, lambda: predicting.run(config))
    counts = report.predicted, report.rejected, report.read
    expected = asked - len(reasons), len(reasons), asked
    run.check("predicted + rejected = read = asked for", counts == expected, f"{counts}, expected {expected}")
    assert report.quarantine is not None
    found = pd.read_csv(report.quarantine).set_index(MATERIAL_ID)["reason"].to_dict()
    run.check("exactly the broken CIFs were rejected, each for its reason", found == reasons, f"{found}; {reasons}")
    predictions = pd.read_csv(out)[PREDICTION]
    whole = bool(np.isfinite(predictions).all()) and len(predictions) == report.predicted
    run.check("every prediction is a number", whole, f"{len(predictions)} predictions")
    run.facts.setdefault(f"rates {workers}", []).append(timing.rate)


BENCHMARK = Benchmark(
    name="predict_throughput",
    about=str(__doc__),
    measures=("pipelines/predicting.py", "models", "crystals", "graphs", "predictors/cgcnn.py", "nn"),
    settings={
        "crystals": Setting(1000, 40),
        "broken": Setting(20, 10, "CIFs that are broken, in ten ways"),
        "training_crystals": Setting(2000, 60),
        "epochs": Setting(5, 2),
        "workers": Setting((0, 2), (0,), "numbers of workers; 0: this process"),
        "rounds": Setting(2, 1),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
