"""From the runs of a study to its cells: errors with their spread, and how sure each difference is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crysatom.config import DownstreamConfig
from crysatom.names import MAE, NUM_CRYSTALS, TEST, TEST_TWIN_FREE
from crysatom.studies.grid.design import Column, Grid, Row
from crysatom.studies.grid.finished import Identity, JudgedRun
from crysatom.studies.grid.statistics import (
    Comparison,
    Verdict,
    common_errors,
    compare,
    corrected,
    errors_of,
    mean_and_deviation,
)
from crysatom.training.intervals import Interval, bootstrap_mean


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run that a study needs: of one cell, one seed and one draw.

    Attributes:
        row: Of the cell.
        column: Key of its column.
        fold: Position among the row's folds.
        config: Of the run, with one seed.
        identity: What to find it by.
        work: Training crystals times epochs: how long it takes, beside others.

    """

    row: Row
    column: str
    fold: int
    config: DownstreamConfig
    identity: Identity
    work: int

    @property
    def title(self) -> str:
        """What a person calls the run."""
        fold = f", fold {self.fold + 1}" if len(self.row.folds) > 1 else ""
        return f"{self.row.key}, {self.column} ({self.config.vectors.vectors}), seed {self.config.seed}{fold}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What the runs of a row and a column say.

    Attributes:
        row: Of the study.
        column: Key.
        runs: Those that are finished.
        wanted: How many there are to be, over seeds, draws and folds.
        mean: Test MAE, mean over seeds and draws; of folds together, each crystal counted once.
        deviation: Sample standard deviation over seeds and draws; NaN for a single one.
        interval: Bootstrap over test crystals of the errors averaged over seeds and draws; NaN for too few crystals.
        num_crystals: Test crystals of all folds.
        twin_free: Test MAE on crystals without a twin among the training crystals, likewise; NaN if there is none.
        comparison: With the baseline's cell; None: it is the baseline, or the baseline has no run.
        p_corrected: Holm's, over all comparisons of the study; NaN without a comparison.
        verdict_corrected: What is left of the verdict by it; None without a comparison.
        paper: The paper's figure; NaN if it has none.

    """

    row: Row
    column: str
    runs: tuple[JudgedRun, ...]
    wanted: int
    mean: float
    deviation: float
    interval: Interval
    num_crystals: int
    twin_free: float
    paper: float
    comparison: Comparison | None = None
    p_corrected: float = float("nan")
    verdict_corrected: Verdict | None = None

    @property
    def unit(self) -> str:
        """Of the errors."""
        return self.runs[0].unit

    @property
    def complete(self) -> bool:
        """Whether no run is missing."""
        return len(self.runs) == self.wanted

    def facts(self) -> dict[str, Any]:
        """Return everything as JSON values, NaN as None."""
        difference = self.comparison.difference if self.comparison else None
        values = {
            "property": self.row.property,
            "row": self.row.label,
            "column": self.column,
            "unit": self.unit,
            "runs": len(self.runs),
            "runs_wanted": self.wanted,
            "epochs": self.runs[0].epochs,
            "test_crystals": self.num_crystals,
            "test_mae": self.mean,
            "test_mae_sd": self.deviation,
            "test_mae_low": self.interval.low,
            "test_mae_high": self.interval.high,
            "test_mae_without_twins": self.twin_free,
            "difference": difference.estimate if difference else None,
            "difference_low": difference.low if difference else None,
            "difference_high": difference.high if difference else None,
            "relative_gain": self.comparison.gain if self.comparison else None,
            "p": self.comparison.p_value if self.comparison else None,
            "verdict": self.comparison.verdict if self.comparison else None,
            "p_holm": self.p_corrected,
            "verdict_holm": self.verdict_corrected,
            "paper": self.paper,
        }
        return {name: None if value != value else value for name, value in values.items()}  # noqa: PLR0124 - NaN


def judge(
    grid: Grid, planned: Sequence[Planned], found: Mapping[Identity, JudgedRun], baseline: str = ""
) -> list[Cell]:
    """Return the cells that have at least one finished run, in the order of rows and columns.

    Args:
        grid: The study.
        planned: All its runs.
        found: The finished ones.
        baseline: Key of the column that all others are compared with; empty: each column's own.

    Raises:
        ValueError: If runs that stand side by side are not of the same data, split and test crystals.

    """
    cells: dict[tuple[str, str], Cell] = {}
    for run in planned:
        key = (run.row.key, run.column)
        if key not in cells:
            of_cell = [p for p in planned if (p.row.key, p.column) == key]
            runs = tuple(found[p.identity] for p in of_cell if p.identity in found)
            if runs:
                cells[key] = _cell(run.row, run.column, grid.columns[run.column], runs, len(of_cell))
    compared = {}
    for (row, column), cell in cells.items():
        other = baseline or grid.columns[column].baseline
        if other and other != column and (row, other) in cells:
            compared[row, column] = _compare(cell, cells[row, other])
    for (key, comparison), (p, verdict) in zip(compared.items(), corrected(list(compared.values())), strict=True):
        cells[key] = dataclasses.replace(cells[key], comparison=comparison, p_corrected=p, verdict_corrected=verdict)
    return list(cells.values())


def _cell(row: Row, key: str, column: Column, runs: tuple[JudgedRun, ...], wanted: int) -> Cell:
    trials: dict[tuple[str, int], list[JudgedRun]] = {}
    for run in runs:
        trials.setdefault((run.config.vectors.vectors, run.seed), []).append(run)
    complete = [trial for trial in trials.values() if len(trial) == len(row.folds)] or list(trials.values())
    mean, deviation = mean_and_deviation([_mae(trial, TEST) for trial in complete])
    twin_free = float(np.mean([_mae(trial, TEST_TWIN_FREE) for trial in complete]))
    errors = errors_of(runs).to_numpy()
    # where a row is one of several of its property, the paper's figure of the property is none of this row
    paper = column.paper.get(row.key, float("nan"))
    return Cell(
        row=row,
        column=key,
        runs=runs,
        wanted=wanted,
        mean=mean,
        deviation=deviation,
        interval=bootstrap_mean(errors),
        num_crystals=len(errors),
        twin_free=twin_free,
        paper=paper,
    )


def _mae(folds: Sequence[JudgedRun], part: str) -> float:
    """Return the mean absolute error over the crystals of all folds; NaN if a fold has none in this part."""
    errors = [run.metrics.get(f"{part}/{MAE}", float("nan")) for run in folds]
    counts = [run.metrics.get(f"{part}/{NUM_CRYSTALS}", 0.0) for run in folds]
    return errors[0] if len(errors) == 1 else float(np.dot(errors, counts) / max(sum(counts), 1.0))


def _compare(mine: Cell, theirs: Cell) -> Comparison:
    return compare(*common_errors(mine.runs, theirs.runs))
