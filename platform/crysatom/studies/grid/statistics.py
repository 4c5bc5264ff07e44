"""Uncertainty of a difference between two sides of a study: one formula per function.

A side is a set of runs that differ only in their seeds (and draws of random vectors). Errors are absolute errors of
test crystals, in the unit of the property.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from crysatom.studies.grid.finished import FinishedRun
from crysatom.studies.significance import ALPHA, holm
from crysatom.training.intervals import Interval, bootstrap_mean

Verdict = Literal["resolved better", "not resolved", "resolved worse"]
BETTER: Verdict = "resolved better"
TIE: Verdict = "not resolved"
WORSE: Verdict = "resolved worse"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A side against its baseline.

    Attributes:
        difference: Error minus that of the baseline; below 0 the side is better.
        baseline: Mean error of the baseline on the crystals that both evaluate.
        gain: Relative reduction of the baseline's error; below 0 the side is worse.
        p_value: Two-sided p-value of no difference, see :func:`p_value`.
        verdict: Whether the interval of the difference excludes 0, and on which side.

    """

    difference: Interval
    baseline: float
    gain: float
    p_value: float
    verdict: Verdict


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (n - 1); NaN for the latter of a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else float("nan")


def averaged_errors(runs: Sequence[FinishedRun]) -> pd.Series:
    """Return the error of each test crystal, mean over runs, by id in the order of the first run.

    Raises:
        ValueError: If the runs are not on the same data, split and test crystals.

    """
    require_comparable(runs)
    series = [run.errors() for run in runs]
    return pd.Series(sum(errors.loc[series[0].index] for errors in series) / len(series))


def errors_of(runs: Sequence[FinishedRun]) -> pd.Series:
    """Return the error of each test crystal, mean over the runs that evaluate it, by id.

    Runs on the same data and split are seeds and draws of one fold; folds evaluate different crystals.

    Raises:
        ValueError: If a crystal is evaluated in two folds, or runs of a fold are not comparable.

    """
    errors: pd.Series = pd.concat([averaged_errors(fold) for fold in _folds(runs).values()])
    if not errors.index.is_unique:
        twice = errors.index[errors.index.duplicated()][0]
        raise ValueError(f"{runs[0].folder}: test crystal {twice} is evaluated by runs on different data or splits")
    return errors


def common_errors(mine: Sequence[FinishedRun], theirs: Sequence[FinishedRun]) -> tuple[pd.Series, pd.Series]:
    """Return the errors of two sides on the folds that both have; an unfinished study may lack some.

    Raises:
        ValueError: If they have no fold in common.

    """
    sides = [_folds(mine), _folds(theirs)]
    common = [data for data in sides[0] if data in sides[1]]
    if not common:
        require_comparable([theirs[0], mine[0]])
    for data in common:
        require_comparable([sides[1][data][0], sides[0][data][0]])
    first, second = (errors_of([run for data in common for run in side[data]]) for side in sides)
    return first, second


def _folds(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    folds: dict[str, list[FinishedRun]] = {}
    for run in runs:
        folds.setdefault(run.identity.data, []).append(run)
    return folds


def require_comparable(runs: Sequence[FinishedRun]) -> None:
    """Check that runs have the same property, data, split and test crystals.

    Raises:
        ValueError: Naming the first run that differs, and the difference.

    """
    first, *others = runs
    ids = first.errors().index
    if not ids.is_unique:
        raise ValueError(f"{first.folder}: a test crystal was predicted twice ({ids[ids.duplicated()][0]})")
    for run in others:
        facts = {
            "property": (first.property, run.property),
            "data digest": (first.identity.data, run.identity.data),
            "split digest": (first.split_digest, run.split_digest),
        }
        differing = [f"{what} {mine} there, {theirs} here" for what, (mine, theirs) in facts.items() if mine != theirs]
        theirs = run.errors().index
        if not differing and (len(theirs) != len(ids) or set(theirs) != set(ids)):
            differing = [f"{len(set(ids) ^ set(theirs))} test crystals are of one of them only"]
        if differing:
            raise ValueError(f"{run.folder} cannot be compared with {first.folder}: {'; '.join(differing)}")


def compare(mine: pd.Series, theirs: pd.Series) -> Comparison:
    """Compare the errors of a side with those of its baseline, paired by crystal.

    The interval is a symmetric studentized bootstrap over crystals
    (:func:`crysatom.training.intervals.bootstrap_mean`). It does not include the effect of seeds. With too few
    crystals for an interval the difference is not resolved.

    Args:
        mine: Errors by id, mean over runs.
        theirs: Errors of the baseline on the same crystals.

    """
    assert set(mine.index) == set(theirs.index), "sides are checked to have the same crystals"
    paired = (mine - theirs.loc[mine.index]).to_numpy()
    difference = bootstrap_mean(paired, symmetric=True)
    verdict = BETTER if difference.high < 0 else WORSE if difference.low > 0 else TIE
    gain = 1 - float(mine.mean()) / float(theirs.mean()) if theirs.mean() > 0 else float("nan")
    return Comparison(
        difference=difference, baseline=float(theirs.mean()), gain=gain, p_value=p_value(paired), verdict=verdict
    )


def p_value(paired: np.ndarray) -> float:
    """Return the two-sided p-value of the mean of ``(n,)`` differences under no difference.

    It uses the normal distribution of a mean, 2 (1 - Phi(|mean| sqrt(n) / sd)), since a bootstrap with enough resamples
    for the small p-values of a correction takes minutes per table. For a few dozen crystals it is too small (by a
    fifth near 0.05 at n = 30).
    """
    deviation = float(np.std(paired, ddof=1)) if len(paired) > 1 else 0.0
    mean = abs(float(np.mean(paired)))
    if deviation == 0:
        return 1.0 if mean == 0 or len(paired) == 1 else 0.0
    return 2 * statistics.NormalDist().cdf(-mean * len(paired) ** 0.5 / deviation)


def corrected(comparisons: Sequence[Comparison]) -> list[tuple[float, Verdict]]:
    """Return Holm's p-value and the verdict after the correction, for each comparison of a table."""
    adjusted = holm(np.array([comparison.p_value for comparison in comparisons])).tolist()
    return [(p, c.verdict if p < ALPHA else TIE) for p, c in zip(adjusted, comparisons, strict=True)]
