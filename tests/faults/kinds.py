"""Kinds of jobs for fault injection: command, results, and their comparison with an undisturbed run."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crysatom.tracking.store import client
from crysatom.vectors.files import read_vectors

NUM_WORKERS = 2
CARE = ("--checkpoint-minutes", "0.02", "--max-failures", "5")
"""A checkpoint about every second, also within an epoch, which takes a few seconds."""

SPACE = """
from crysatom.config import Choice, SearchSpace


def space():
    fixed = {"epochs": 8, "embedding_dim": 16, "num_layers": 2, "projection_dim": 16, "batch_size": 12}
    return SearchSpace(objective="pretrain", settings={"lr": Choice((3e-3, 1e-3))}, fixed=fixed)
"""


@dataclass(frozen=True)
class Verdict:
    """Results of a run compared with an undisturbed one.

    Attributes:
        difference: Largest relative difference between results.
        lost: Missing, duplicate or miscounted results, in words.

    """

    difference: float
    lost: list[str]


@dataclass(frozen=True)
class Kind(ABC):
    """Kind of job.

    Attributes:
        name: Name of the kind.
        job: File in ``jobs/``.
        epochs: Epochs of a run, or of each trial.
        flags: All flags except those for paths.
        tolerance: Relative change of results that an interruption may cause.

    """

    name: str
    job: str
    epochs: int
    flags: tuple[str, ...]
    tolerance: float = 1e-6

    def command(self, place: Path, name: str, tracking_uri: str) -> list[str]:
        """Return the flags of one run."""
        where = ["--out", str(place), "--name", name, "--tracking-uri", tracking_uri]
        return [*self.flags, *where]

    @abstractmethod
    def trainings(self, place: Path, name: str) -> list[Path]:
        """Return the existing folders with checkpoints."""

    @abstractmethod
    def compare(self, place: Path, name: str, reference: str) -> Verdict:
        """Compare two finished runs."""

    def check(self, place: Path, name: str, reference: str, store: str) -> Verdict:
        """Compare a run with an undisturbed one, and with its record in MLflow."""
        verdict = self.compare(place, name, reference)
        lost = [*verdict.lost]
        for mine, theirs in zip(self.trainings(place, name), self.trainings(place, reference), strict=True):
            lost += different_epochs(mine, theirs)
            lost += different_metrics(mine, store, self.epochs)
        return Verdict(verdict.difference, lost)


@dataclass(frozen=True)
class Pretraining(Kind):
    """``jobs/pretrain.py``."""

    def trainings(self, place: Path, name: str) -> list[Path]:
        return [place / name]

    def compare(self, place: Path, name: str, reference: str) -> Verdict:
        mine, theirs = (read_vectors(place / run / "vectors") for run in (name, reference))
        lost = []
        if mine.symbols != theirs.symbols or not np.array_equal(mine.site_counts, theirs.site_counts):
            lost.append("other elements or sites")
        a, b = mine.vectors.astype(np.float64), theirs.vectors.astype(np.float64)
        return Verdict(float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()), lost)


@dataclass(frozen=True)
class Streaming(Pretraining):
    """``jobs/pretrain.py`` with a stream, which is redrawn: counts must be equal, the last loss approximately."""

    def compare(self, place: Path, name: str, reference: str) -> Verdict:
        mine, theirs = (pd.read_csv(place / run / "history.csv") for run in (name, reference))
        last = mine["train/loss"].iloc[-1], theirs["train/loss"].iloc[-1]
        lost = [] if abs(last[0] / last[1] - 1) < 0.05 else [f"last losses {last}"]
        verdict = super().compare(place, name, reference)
        return Verdict(float("nan"), [*verdict.lost, *lost])


@dataclass(frozen=True)
class Elastic(Pretraining):
    """``jobs/pretrain.py`` with a changing number of workers, hence order of sums: losses are compared."""

    def compare(self, place: Path, name: str, reference: str) -> Verdict:
        mine, theirs = (pd.read_csv(place / run / "history.csv")["train/loss"] for run in (name, reference))
        lost = super().compare(place, name, reference).lost
        if len(mine) != len(theirs):
            return Verdict(float("nan"), lost)  # and reported with the history
        return Verdict(float((mine / theirs - 1).abs().max()), lost)


@dataclass(frozen=True)
class Downstream(Kind):
    """``jobs/downstream.py``."""

    def trainings(self, place: Path, name: str) -> list[Path]:
        return [place / f"{name}-seed0"]

    def compare(self, place: Path, name: str, reference: str) -> Verdict:
        [mine], [theirs] = self.trainings(place, name), self.trainings(place, reference)
        tables = [pd.read_csv(folder / "predictions.csv") for folder in (mine, theirs)]
        results = [json.loads((folder / "results.json").read_text())["metrics"] for folder in (mine, theirs)]
        lost = []
        if tables[0]["material_id"].tolist() != tables[1]["material_id"].tolist():
            lost.append("other test crystals")
        if results[0]["test/mae"] != results[1]["test/mae"]:
            lost.append(f"test MAE {results[0]['test/mae']} instead of {results[1]['test/mae']}")
        a, b = (table["prediction"].to_numpy() for table in tables)
        return Verdict(float(np.abs(a / b - 1).max()), lost)


@dataclass(frozen=True)
class Sweep(Kind):
    """``jobs/tune.py``: two pretrainings, evaluated by probes."""

    def trainings(self, place: Path, name: str) -> list[Path]:
        return sorted((place / name / "trials").glob("*"))

    def compare(self, place: Path, name: str, reference: str) -> Verdict:
        mine, theirs = (pd.read_csv(place / run / "results.csv").sort_values("lr") for run in (name, reference))
        lost = []
        if mine["ended"].tolist() != ["finished"] * 2 or len(mine) != len(theirs):
            lost.append(f"trials ended so: {mine['ended'].tolist()}")
        both = list(zip(self.trainings(place, name), self.trainings(place, reference), strict=True))
        tables = [
            tuple(read_vectors(folder / "vectors").vectors.astype(np.float64) for folder in pair) for pair in both
        ]
        largest = max(float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()) for a, b in tables)
        scores = (mine["mae_over_mad"].to_numpy(), theirs["mae_over_mad"].to_numpy())
        if not np.array_equal(*scores):
            lost.append(f"scores {scores[0]} instead of {scores[1]}")
        return Verdict(largest, lost)


def different_epochs(mine: Path, theirs: Path) -> list[str]:
    """Return differences in epochs and crystals between the histories of a training and an undisturbed one."""
    histories = [pd.read_csv(folder / "history.csv") for folder in (mine, theirs)]
    epochs = [history["epoch"].astype(int).tolist() for history in histories]
    lost = [] if epochs[0] == epochs[1] else [f"epochs {epochs[0]} in the history of {mine.name}"]
    if all("crystals_per_second" in history for history in histories):
        seen = [(h["crystals_per_second"] * h["seconds"]).round().astype(int).tolist() for h in histories]
        lost += [] if seen[0] == seen[1] else [f"crystals {seen[0]} instead of {seen[1]} in {mine.name}"]
    return lost


def different_metrics(folder: Path, store: str, epochs: int) -> list[str]:
    """Return surplus and missing metrics in MLflow."""
    mlflow = client(store)
    run_id = json.loads((folder / "tracking" / "state.json").read_text())["run_id"]
    if not run_id:
        return [f"MLflow does not know {folder.name}"]
    run = mlflow.get_run(run_id)
    lost = [] if run.info.status == "FINISHED" else [f"MLflow has {folder.name} as {run.info.status}"]
    same = mlflow.search_runs([run.info.experiment_id], f"tags.mlflow.runName = '{run.info.run_name}'")
    parent = run.data.tags.get("mlflow.parentRunId", "")
    same = [other for other in same if other.data.tags.get("mlflow.parentRunId", "") == parent]
    lost += [] if len(same) == 1 else [f"{len(same)} runs {run.info.run_name} in MLflow"]
    history = pd.read_csv(folder / "history.csv")
    for name in history.columns.drop("epoch"):
        wanted = history["epoch"][history[name].notna()].astype(int).tolist()
        points = sorted((point.step, point.value) for point in mlflow.get_metric_history(run_id, name))
        if [step for step, _ in points] != wanted:
            lost.append(f"MLflow has {name} of {folder.name} for epochs {[step for step, _ in points]}")
    return lost if len(history) == epochs else [*lost, f"{len(history)} epochs in {folder.name}"]


def kinds(place: Path) -> dict[str, Kind]:
    """Return the kinds by name; write the search space of the sweep."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "space.py").write_text(SPACE)
    workers = ("--num-workers", str(NUM_WORKERS), *CARE)
    small = ("--embedding-dim", "16", "--projection-dim", "16", "--register", "")
    pretraining = (*workers, *small, "--epochs", "8", "--batch-size", "48")
    elastic = ("--num-workers", "1:3", *CARE, *small, "--epochs", "80", "--batch-size", "48")
    streaming = (*workers, *small, "--epochs", "6", "--batch-size", "48", "--loader", "streamed")
    predictor = ("--vectors", "onehot", "--width", "16", "--num-layers", "2", "--hidden-dim", "16", "--epochs", "8")
    predictor = (*workers, *predictor, "--batch-size", "24")
    sweep = ("--space", str(place / "space.py"), "--probes", "2", "--probe-epochs", "4", "--max-concurrent", "2")
    return {
        "pretraining": Pretraining("pretraining", "pretrain", 8, pretraining),
        "elastic pretraining": Elastic("elastic pretraining", "pretrain", 80, elastic, tolerance=1e-5),
        "streamed pretraining": Streaming("streamed pretraining", "pretrain", 6, streaming),
        "downstream": Downstream("downstream", "downstream", 8, predictor),
        "sweep": Sweep("sweep", "tune", 8, sweep),
    }


def epochs_done(folders: Sequence[Path]) -> int:
    """Return the full epochs in the newest checkpoint of the least advanced training; 0 without one."""
    done = []
    for folder in folders:
        names = [path.name for path in (folder / "checkpoints").glob("epoch-*")]
        done.append(max((int(name.removeprefix("epoch-")) + 1 for name in names), default=0))
    return min(done, default=0)


def newest_folder(folder: Path) -> Path | None:
    """Return the folder of the checkpoint with the most steps, damaged or not."""

    def steps(path: Path) -> int:
        try:
            state: dict[str, Any] = json.loads((path / "state.json").read_text())
        except (OSError, ValueError):
            return -1
        return int(state["step"])

    there = [path for path in (folder / "checkpoints").glob("[!.]*") if path.is_dir()]
    return max(there, key=steps, default=None)
