"""The report from beginning to end: read MLflow, put runs in order, make the page."""

from __future__ import annotations

import importlib.util
import logging
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from crysatom.config import ReportConfig
from crysatom.crystals.csv_files import read_written
from crysatom.names import (
    ALL_LOSS_TERMS,
    ELEMENT,
    ELEMENT_ERRORS_CSV,
    HELD_OUT,
    MAE,
    MATERIAL_ID,
    NUM_CRYSTALS,
    PREDICTION,
    PREDICTIONS_CSV,
    PROBE,
    TARGET,
    TRAIN,
    VAL,
    __version__,
)
from crysatom.report.overview import TEST_MAE, Group, Overview, arranged
from crysatom.report.page_data import About, Details, GroupDetails, History, StudyDetails
from crysatom.runs.paths import resolve
from crysatom.studies.grid.output import FIGURE_PNG, TABLE_CSV
from crysatom.tracking.fields import VECTORS
from crysatom.tracking.reading import Store, TrackedRun, UnreadableStoreError
from crysatom.vectors.files import VECTORS_SAFETENSORS, read_vectors
from crysatom.vectors.table import AtomVectors
from crysatom.writing import write_text

logger = logging.getLogger(__name__)

LOCAL_UI = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` shows a database, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class FinishedReport:
    """What was made.

    Attributes:
        path: Of the page.
        runs: That it is about.
        problems: What could not be read.

    """

    path: Path
    runs: int
    problems: tuple[str, ...]


def run(config: ReportConfig) -> FinishedReport:
    """Make the page.

    Raises:
        ValueError: If the store or an experiment is not there, or jinja2 is not installed.
        UnreadableStoreError: If the store does not answer.

    """
    if importlib.util.find_spec("jinja2") is None:
        raise ValueError("the report needs jinja2: pip install 'crysatom[report]'")
    from crysatom.report.page import page

    store = Store.at(config.tracking.tracking_uri)
    runs = store.runs(config.experiment)
    logger.info("%d runs of %s", len(runs), ", ".join(config.experiment))
    overview = arranged(runs)
    with tempfile.TemporaryDirectory() as folder:
        details = _Reader(store, Path(folder)).details(overview, config.figures)
    about = About(
        title=config.title,
        experiments=config.experiment,
        store=store.shown,
        address=store.address or LOCAL_UI,
        command="" if store.address else shlex.join(["mlflow", "ui", "--backend-store-uri", store.shown]),
        made=datetime.now(UTC),
        version=__version__,
    )
    path = resolve(config.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(about, runs, overview, details, config.figures))
    return FinishedReport(path=path, runs=len(runs), problems=tuple(details.problems))


def describe(finished: FinishedReport) -> str:
    """Return what a user wants to know at the end."""
    lines = [f"could not be read: {problem}" for problem in finished.problems]
    size = finished.path.stat().st_size / 1e6
    return "\n".join([*lines, f"report on {finished.runs} runs: {finished.path} ({size:.1f} MB)"])


class _Reader:
    """Reads what is drawn; what cannot be read is a problem that the page names.

    Args:
        store: To read from.
        folder: For copies of artifacts.

    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.problems: list[str] = []

    def details(self, overview: Overview, figures: int) -> Details:
        """Return what is drawn of the first groups, pretrainings and sweeps."""
        groups = _first_groups(overview, figures)
        pretrainings = overview.pretrainings[:figures]
        tables = {run.run_id: self._vectors(run) for run in pretrainings}
        losses = [f"{split}/{term}" for split in (TRAIN, HELD_OUT) for term in ALL_LOSS_TERMS]
        return Details(
            groups={group.runs[0].run_id: self._group(group) for group in groups},
            losses={run.run_id: self._histories(run, losses) for run in pretrainings},
            vectors={run_id: table for run_id, table in tables.items() if table is not None},
            probes={
                trial.run_id: self.store.history(trial.run_id, PROBE)
                for sweep in overview.sweeps
                for trial in sweep.trials
                if PROBE in trial.metrics
            },
            studies={run.run_id: self._study(run) for run in overview.studies[:figures]},
            problems=tuple(self.problems),
        )

    def _study(self, run: TrackedRun) -> StudyDetails:
        figure = self._artifact(run, FIGURE_PNG)
        return StudyDetails(
            table=self._csv(run, TABLE_CSV, set()), figure=None if figure is None else figure.read_bytes()
        )

    def _group(self, group: Group) -> GroupDetails:
        kept = [self.store.history(run.run_id, TEST_MAE) for run in group.runs]  # logged with the epoch that was kept
        errors = [self._csv(run, ELEMENT_ERRORS_CSV, {ELEMENT, NUM_CRYSTALS, MAE}) for run in group.runs]
        return GroupDetails(
            predictions=self._csv(group.runs[0], PREDICTIONS_CSV, {MATERIAL_ID, TARGET, PREDICTION}),
            histories=[self._histories(run, [f"{TRAIN}/{MAE}", f"{VAL}/{MAE}"]) for run in group.runs],
            selected=[history[-1][0] if history else None for history in kept],
            element_errors=[found for found in errors if found is not None],
        )

    def _histories(self, run: TrackedRun, metrics: list[str]) -> Mapping[str, History]:
        return {name: self.store.history(run.run_id, name) for name in metrics if name in run.metrics}

    def _vectors(self, run: TrackedRun) -> AtomVectors | None:
        path = self._artifact(run, f"{VECTORS}/{VECTORS_SAFETENSORS}")
        try:
            return None if path is None else read_vectors(path)
        except ValueError as error:
            self._note(run, VECTORS, error)
            return None

    def _csv(self, run: TrackedRun, name: str, columns: set[str]) -> pd.DataFrame | None:
        path = self._artifact(run, name)
        try:
            frame = None if path is None else read_written(path)
            if frame is not None and (lacking := columns - set(frame.columns)):
                raise ValueError(f"it has no column {', '.join(sorted(lacking))}")  # noqa: TRY301 - as any other damage
        except ValueError as error:
            self._note(run, name, error)
            return None
        return frame

    def _artifact(self, run: TrackedRun, path: str) -> Path | None:
        try:
            return self.store.artifact(run.run_id, path, self.folder)
        except UnreadableStoreError as error:
            self._note(run, path, error)
            return None

    def _note(self, run: TrackedRun, what: str, error: Exception) -> None:
        self.problems.append(f"{what} of {run.name} ({run.run_id}): {error}")


def _first_groups(overview: Overview, figures: int) -> list[Group]:
    """Return as many groups as get figures: the first of each table, then the second of each, and so on."""
    ranks = [(rank, number, group) for number, t in enumerate(overview.tables) for rank, group in enumerate(t.groups)]
    return [group for _, _, group in sorted(ranks, key=lambda item: item[:2])[:figures]]
