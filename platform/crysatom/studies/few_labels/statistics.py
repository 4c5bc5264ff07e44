"""Differences between tables, paired by draw: one formula per function.

Each draw has its own training and validation crystals, so the spread of the paired differences over draws holds the
choice of training crystals and of the seed. All draws are evaluated on the same crystals. What another choice of these
would change is in the interval of the bootstrap over them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crysatom.studies.few_labels.cells import Cell
from crysatom.studies.grid import statistics as grid
from crysatom.studies.grid.statistics import BETTER, TIE, WORSE, Verdict
from crysatom.studies.significance import ALPHA, holm
from crysatom.training.intervals import Interval, bootstrap_mean

Array = NDArray[Any]

Basis = Literal["draws", "crystals", "none"]


class Task(NamedTuple):
    """What is predicted, and with what; tables are compared within a task."""

    property: str
    labels: int
    held_out: str
    predictor: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table against the baseline, on the draws and seeds that both have.

    Attributes:
        draws: Number of these draws.
        baseline: Mean error of the baseline on them.
        difference: Mean over draws of the error minus that of the baseline, with its 95 % t interval.
        p_value: Two-sided p-value of no difference: paired t test over draws, seeds averaged. With all labels, and so
            with one draw, that of the evaluated crystals, if their errors are known. NaN if there is neither.
        basis: What interval, p-value and verdict are from.
        verdict: Whether the interval excludes 0, and on which side.
        crystals: The difference with its 95 % bootstrap interval over evaluated crystals, errors averaged over draws
            and seeds; None if errors of crystals are not at hand.
        p_holm: p-value after Holm's correction for all comparisons of the study.
        verdict_corrected: Verdict that is left after it.

    """

    draws: int
    baseline: float
    difference: Interval
    p_value: float
    basis: Basis
    verdict: Verdict
    crystals: Interval | None
    p_holm: float = float("nan")
    verdict_corrected: Verdict = TIE

    @property
    def percent(self) -> Interval:
        """The difference in percent of the baseline's error."""
        return _scaled(self.difference, 100 / self.baseline)

    @property
    def crystals_percent(self) -> Interval | None:
        """The difference over crystals in percent of the baseline's error."""
        return None if self.crystals is None else _scaled(self.crystals, 100 / self.baseline)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Errors of a table in a task.

    Attributes:
        task: What is predicted.
        table: Name of the table.
        unit: Unit of the errors.
        mean: Mean over draws of the errors, seeds averaged.
        deviation: Sample standard deviation over draws; NaN for one.
        cells: Its finished cells, by draw and seed.
        comparison: Comparison with the baseline; None for the baseline, or if nothing can be paired.

    """

    task: Task
    table: str
    unit: str
    mean: float
    deviation: float
    cells: Mapping[tuple[int, int], Cell]
    comparison: Comparison | None = None


Errors = Callable[[str], Array | None]
"""Returns the errors of the evaluated crystals of a cell by its identity, or None."""


def results_of(
    cells: Sequence[Cell], baseline: str, *, errors: Errors = lambda _: None, ids: Mapping[str, Array] | None = None
) -> list[Result]:
    """Return the result of each table in each task, in the order of the cells, corrected for all comparisons.

    Args:
        cells: Finished cells of one study.
        baseline: Name of the table that the others are compared with.
        errors: Errors of single crystals, if at hand.
        ids: Evaluated crystals by the digest in a cell's column ``crystals``; needed with ``errors``.

    Raises:
        ValueError: If a draw of a task has other crystals for another table.

    """
    grouped: dict[tuple[Task, str], dict[tuple[int, int], Cell]] = {}
    for cell in cells:
        task = Task(cell.property, cell.labels, cell.held_out, cell.predictor)
        grouped.setdefault((task, cell.table), {})[cell.draw, cell.seed] = cell
    results = []
    for (task, table), mine in grouped.items():
        means = list(_by_draw({place: cell.mae for place, cell in mine.items()}).values())
        theirs = grouped.get((task, baseline), {}) if table != baseline else {}
        results.append(
            Result(
                task=task,
                table=table,
                unit=next(iter(mine.values())).unit,
                mean=statistics.mean(means),
                deviation=statistics.stdev(means) if len(means) > 1 else float("nan"),
                cells=mine,
                comparison=_compare(mine, theirs, errors, ids or {}),
            )
        )
    return _corrected(results)


def t_interval(differences: Sequence[float]) -> tuple[Interval, float]:
    """Return the mean of paired differences with its 95 % t interval, and the two-sided p-value of mean 0.

    mean -+ t s / sqrt(n) with the 97.5 % quantile t of Student's distribution of n - 1 degrees of freedom. With one
    difference the ends and the p-value are NaN.
    """
    count, mean = len(differences), statistics.mean(differences)
    if count < 2:
        return Interval(mean, float("nan"), float("nan")), float("nan")
    error = statistics.stdev(differences) / count**0.5
    if error == 0:
        return Interval(mean, mean, mean), 1.0 if mean == 0 else 0.0
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return Interval(mean, mean - reach, mean + reach), float(2 * stats.t.sf(abs(mean) / error, count - 1))


def _compare(
    mine: Mapping[tuple[int, int], Cell],
    theirs: Mapping[tuple[int, int], Cell],
    errors: Errors,
    ids: Mapping[str, Array],
) -> Comparison | None:
    common = [place for place in mine if place in theirs]
    if not common:
        return None
    for place in common:
        if mine[place].crystals != theirs[place].crystals:
            raise ValueError(
                f"{mine[place].property}, draw {place[0]}: {mine[place].table} and {theirs[place].table} have other "
                "crystals; these cells cannot be compared"
            )
    paired = _by_draw({place: mine[place].mae - theirs[place].mae for place in common})
    base = _by_draw({place: theirs[place].mae for place in common})
    difference, p = t_interval(list(paired.values()))
    of_crystals = _crystal_differences([(mine[place], theirs[place]) for place in common], errors, ids)
    crystals = None if of_crystals is None else bootstrap_mean(of_crystals, symmetric=True)
    basis: Basis = "draws" if len(paired) > 1 else "none"
    shown = difference
    all_labels = mine[common[0]].labels == 0  # of fewer labels another draw would tell more
    if basis == "none" and all_labels and crystals is not None and of_crystals is not None:
        basis, shown, p = "crystals", crystals, grid.p_value(of_crystals)
    return Comparison(
        draws=len(paired),
        baseline=statistics.mean(base.values()),
        difference=difference,
        p_value=p,
        basis=basis,
        verdict=BETTER if shown.high < 0 else WORSE if shown.low > 0 else TIE,
        crystals=crystals,
    )


def _crystal_differences(pairs: Sequence[tuple[Cell, Cell]], errors: Errors, ids: Mapping[str, Array]) -> Array | None:
    """Return the mean difference of each evaluated crystal over the pairs that evaluate it; None if one is missing."""
    sums: dict[str, list[float]] = {}
    for mine, theirs in pairs:
        a, b, names = errors(mine.identity), errors(theirs.identity), ids.get(mine.crystals)
        if a is None or b is None or names is None:
            return None
        for name, difference in zip(names, a.astype(np.float64) - b, strict=True):
            sums.setdefault(name, []).append(float(difference))
    return np.array([statistics.fmean(values) for values in sums.values()])


def _by_draw(values: Mapping[tuple[int, int], float]) -> dict[int, float]:
    """Return the mean over seeds of each draw."""
    draws: dict[int, list[float]] = {}
    for (draw, _), value in values.items():
        draws.setdefault(draw, []).append(value)
    return {draw: statistics.fmean(of_draw) for draw, of_draw in draws.items()}


def _corrected(results: Sequence[Result]) -> list[Result]:
    """Return the results with p-values and verdicts corrected for all comparisons that have a p-value."""
    tested = [r for r in results if r.comparison is not None and np.isfinite(r.comparison.p_value)]
    adjusted = holm(np.array([r.comparison.p_value for r in tested if r.comparison is not None]))
    by_result = dict(zip(map(id, tested), adjusted.tolist(), strict=True))
    corrected = []
    for result in results:
        p = by_result.get(id(result))
        if p is None or result.comparison is None:
            corrected.append(result)
            continue
        verdict = result.comparison.verdict if p < ALPHA else TIE
        corrected.append(replace(result, comparison=replace(result.comparison, p_holm=p, verdict_corrected=verdict)))
    return corrected


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(*(value * factor for value in interval))
