"""Cells of a study from its runs: errors with their spread, and differences with their uncertainty."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crysatom.config import DownstreamConfig
from crysatom.names import MAE, NUM_CRYSTALS, TEST, TEST_TWIN_FREE
from crysatom.studies.grid.design import Column, Grid, Row
from crysatom.studies.grid.finished import FinishedRun, Identity
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
    """A run that a study needs: one cell, seed, draw and fold.

    Attributes:
        row: Row of the cell.
        column: Key of the column.
        fold: Position in the folds of the row.
        config: Configuration of the run, with one seed.
        identity: Digests by which a finished run is found.
        work: Training crystals times epochs: its time relative to other runs.

    """

    row: Row
    column: str
    fold: int
    config: DownstreamConfig
    identity: Identity
    work: int

    @property
    def title(self) -> str:
        """Title for people."""
        fold = f", fold {self.fold + 1}" if len(self.row.folds) > 1 else ""
        return f"{self.row.key}, {self.column} ({self.config.vectors.vectors}), seed {self.config.seed}{fold}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Result of the runs of a row and a column.

    Attributes:
        row: Row of the study.
        column: Key of the column.
        runs: Finished runs.
        wanted: Number of planned runs, over seeds, draws and folds.
        mean: Test MAE over the crystals of all folds, mean over seeds and draws.
        deviation: Sample standard deviation over seeds and draws; NaN for a single one.
        interval: Bootstrap interval over test crystals of errors averaged over seeds and draws; NaN for too few
            crystals.
        num_crystals: Number of test crystals of all folds.
        twin_free: Like ``mean``, on crystals without a twin among the training crystals; NaN if there is none.
        comparison: Comparison with the cell of the baseline; None for a baseline, or if the baseline has no run.
        p_corrected: Holm's p-value over all comparisons of the study; NaN without a comparison.
        verdict_corrected: Verdict after Holm's correction; None without a comparison.
        paper: The paper's error; NaN if it has none.

    """

    row: Row
    column: str
    runs: tuple[FinishedRun, ...]
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
        """Unit of the errors."""
        return self.runs[0].unit

    @property
    def complete(self) -> bool:
        """Whether all planned runs are finished."""
        return len(self.runs) == self.wanted

    def facts(self) -> dict[str, Any]:
        """Return all numbers as JSON values, NaN as None."""
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


def evaluate(
    grid: Grid, planned: Sequence[Planned], found: Mapping[Identity, FinishedRun], baseline: str = ""
) -> list[Cell]:
    """Return the cells that have at least one finished run, in the order of rows and columns.

    Args:
        grid: The study.
        planned: All its runs.
        found: Finished runs.
        baseline: Key of the column that all others are compared with; empty: the baseline of each column.

    Raises:
        ValueError: If compared runs do not have the same data, split and test crystals.

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


def _cell(row: Row, key: str, column: Column, runs: tuple[FinishedRun, ...], wanted: int) -> Cell:
    trials: dict[tuple[str, int], list[FinishedRun]] = {}
    for run in runs:
        trials.setdefault((run.config.vectors.vectors, run.seed), []).append(run)
    complete = [trial for trial in trials.values() if len(trial) == len(row.folds)] or list(trials.values())
    mean, deviation = mean_and_deviation([_mae(trial, TEST) for trial in complete])
    twin_free = float(np.mean([_mae(trial, TEST_TWIN_FREE) for trial in complete]))
    errors = errors_of(runs).to_numpy()
    # by the key of the row, not by its property: another row of the property is not what the paper shows
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


def _mae(folds: Sequence[FinishedRun], part: str) -> float:
    """Return the mean absolute error over the crystals of all folds; NaN if a fold has no crystal in this part."""
    errors = [run.metrics.get(f"{part}/{MAE}", float("nan")) for run in folds]
    counts = [run.metrics.get(f"{part}/{NUM_CRYSTALS}", 0.0) for run in folds]
    return errors[0] if len(errors) == 1 else float(np.dot(errors, counts) / max(sum(counts), 1.0))


def _compare(mine: Cell, theirs: Cell) -> Comparison:
    return compare(*common_errors(mine.runs, theirs.runs))
