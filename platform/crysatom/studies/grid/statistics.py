"""How sure a difference between two sides of a study is: one formula per function.

A side is what some runs share but for their seeds (and draws of random vectors). Errors are absolute errors of test
crystals, in the unit of the property.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from crysatom.studies.grid.finished import JudgedRun
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
        difference: Error less that of the baseline; below 0 the side is better.
        baseline: Mean error of the baseline on the crystals that both judge.
        gain: Share of the baseline's error that is saved; below 0 the side is worse.
        p_value: Two-sided, of no difference, see :func:`p_value`.
        verdict: Whether the interval of the difference is on one side of 0.

    """

    difference: Interval
    baseline: float
    gain: float
    p_value: float
    verdict: Verdict


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (n - 1); NaN for the latter of a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else float("nan")


def averaged_errors(runs: Sequence[JudgedRun]) -> pd.Series:
    """Return the error of each test crystal, mean over runs, by id in the order of the first run.

    Raises:
        ValueError: If the runs are not on the same data, split and test crystals.

    """
    require_comparable(runs)
    series = [run.errors() for run in runs]
    return pd.Series(sum(errors.loc[series[0].index] for errors in series) / len(series))


def errors_of(runs: Sequence[JudgedRun]) -> pd.Series:
    """Return the error of each test crystal, mean over the runs that judge it, by id.

    Runs on the same data and split are seeds and draws of one fold; folds judge different crystals.

    Raises:
        ValueError: If a crystal is judged in two folds, or runs of a fold are not comparable.

    """
    errors: pd.Series = pd.concat([averaged_errors(fold) for fold in _folds(runs).values()])
    if not errors.index.is_unique:
        twice = errors.index[errors.index.duplicated()][0]
        raise ValueError(f"{runs[0].folder}: test crystal {twice} is judged by runs on different data or splits")
    return errors


def common_errors(mine: Sequence[JudgedRun], theirs: Sequence[JudgedRun]) -> tuple[pd.Series, pd.Series]:
    """Return the errors of two sides, of the folds that both have: an unfinished study may lack some.

    Raises:
        ValueError: If they have none in common.

    """
    sides = [_folds(mine), _folds(theirs)]
    common = [data for data in sides[0] if data in sides[1]]
    if not common:
        require_comparable([theirs[0], mine[0]])
    for data in common:
        require_comparable([sides[1][data][0], sides[0][data][0]])
    first, second = (errors_of([run for data in common for run in side[data]]) for side in sides)
    return first, second


def _folds(runs: Sequence[JudgedRun]) -> dict[str, list[JudgedRun]]:
    folds: dict[str, list[JudgedRun]] = {}
    for run in runs:
        folds.setdefault(run.identity.data, []).append(run)
    return folds


def require_comparable(runs: Sequence[JudgedRun]) -> None:
    """Check that runs learned one property from the same data by the same split, and predicted the same crystals.

    Raises:
        ValueError: Naming the first run that differs, and in what.

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
    """Return how a side's errors differ from its baseline's, paired by crystal.

    The interval is a symmetric studentized bootstrap over crystals
    (:func:`crysatom.training.intervals.bootstrap_mean`): of the crystals, not of seeds, whose spread is beside it.
    Too few crystals for one resolve nothing.

    Args:
        mine: Errors by id, mean over runs.
        theirs: Likewise, of the same crystals.

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
    """Return the two-sided probability of so large a mean of ``(n,)`` differences if there were none.

    By the normal distribution of a mean, 2 (1 - Phi(|mean| sqrt(n) / sd)): a bootstrap with enough resamples for
    the small probabilities that a correction needs would take minutes per table. For a few dozen crystals it is
    somewhat too small (by a fifth near 0.05 at n = 30).
    """
    deviation = float(np.std(paired, ddof=1)) if len(paired) > 1 else 0.0
    mean = abs(float(np.mean(paired)))
    if deviation == 0:
        return 1.0 if mean == 0 or len(paired) == 1 else 0.0
    return 2 * statistics.NormalDist().cdf(-mean * len(paired) ** 0.5 / deviation)


def corrected(comparisons: Sequence[Comparison]) -> list[tuple[float, Verdict]]:
    """Return Holm's probability of each comparison of a table, and the verdict that is left after it."""
    adjusted = holm(np.array([comparison.p_value for comparison in comparisons])).tolist()
    return [(p, c.verdict if p < ALPHA else TIE) for p, c in zip(adjusted, comparisons, strict=True)]
