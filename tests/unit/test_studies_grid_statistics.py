"""Statistics of a study against theory, scipy, and manual counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from crysatom.config import DownstreamConfig
from crysatom.studies.grid.design import Column, Grid, Row
from crysatom.studies.grid.finished import Identity, JudgedRun
from crysatom.studies.grid.output import _cell_text
from crysatom.studies.grid.results import Cell, Planned, judge
from crysatom.studies.grid.statistics import (
    BETTER,
    TIE,
    WORSE,
    averaged_errors,
    common_errors,
    compare,
    corrected,
    errors_of,
    mean_and_deviation,
    p_value,
    require_comparable,
)
from crysatom.studies.significance import holm


def side(values: np.ndarray) -> pd.Series:
    return pd.Series(values, index=[f"c{i}" for i in range(len(values))])


def made(folder: Path, errors: dict[str, float], **changes: str) -> JudgedRun:
    """Return a run with these absolute errors, of alternating sign."""
    folder.mkdir(parents=True)
    rows = [(name, 1.0, 1.0 + e * (-1) ** i) for i, (name, e) in enumerate(errors.items())]
    pd.DataFrame(rows, columns=["material_id", "target", "prediction"]).to_csv(folder / "predictions.csv", index=False)
    run = JudgedRun(
        folder=folder,
        config=DownstreamConfig.of(),
        identity=Identity("settings", "vectors", changes.pop("data", "data")),
        earlier=False,
        property="density",
        unit="g/cm^3",
        epochs=1,
        metrics={},
        seconds=1.0,
        split_digest="split",
        run_id="",
    )
    return replace(run, **changes)


def test_mean_and_deviation_over_seeds() -> None:
    assert mean_and_deviation([1.0, 2.0, 6.0]) == pytest.approx((3.0, np.sqrt(7.0)))
    mean, deviation = mean_and_deviation([4.0])
    assert mean == 4.0
    assert np.isnan(deviation)


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    """Errors with a common component per crystal, and means that differ by 0.1."""
    rng = np.random.default_rng(5)
    repetitions, crystals = 300, 150
    covered = resolved = 0
    for _ in range(repetitions):
        hard = rng.gamma(1.0, 2.0, size=crystals)
        theirs = hard + rng.gamma(2.0, 0.25, size=crystals)
        mine = hard + rng.gamma(2.0, 0.25, size=crystals) - 0.1
        found = compare(side(mine), side(theirs))
        covered += found.difference.low <= -0.1 <= found.difference.high
        resolved += found.verdict == BETTER
    # 95 % +- 4 standard deviations of the count, less the 1 % that a percentile interval lacks at this size
    assert covered / repetitions == pytest.approx(0.94, abs=0.05)
    # power of a z test of 0.1 with standard deviation sqrt(2 * 2) / 4 of a difference
    power = stats.norm.cdf(0.1 / (0.5 / np.sqrt(crystals)) - 1.96)
    assert resolved / repetitions == pytest.approx(power, abs=0.12)


def test_verdict_gain_and_order_of_crystals() -> None:
    theirs = side(np.linspace(1, 2, 40))
    better = compare(theirs * 0.9, theirs.iloc[::-1])
    assert (better.verdict, better.gain) == (BETTER, pytest.approx(0.1))
    estimate, low, high = better.difference
    assert estimate == pytest.approx(-0.15)
    assert high - estimate == pytest.approx(estimate - low), "a difference has a symmetric interval"
    worse = compare(theirs * 1.2, theirs)
    assert (worse.verdict, worse.gain) == (WORSE, pytest.approx(-0.2))
    same = compare(theirs, theirs)
    assert (same.verdict, same.p_value, same.gain) == (TIE, 1.0, 0.0)


SIZES = (6, 10, 10, 10, 14)
"""Number of test crystals of five folds."""


def of_folds(folder: Path, column: str, offset: float, seeds: tuple[int, ...] = (0, 1, 2)) -> list[JudgedRun]:
    """Runs on five unequal folds with increasing errors."""
    rng, runs = np.random.default_rng(len(column)), []
    for fold, size in enumerate(SIZES):
        for seed in seeds:
            errors = {f"{fold}-{i}": 1.0 + fold + offset + float(rng.random()) for i in range(size)}
            run = made(folder / f"{column}-{fold}-{seed}", errors, data=f"fold {fold}")
            metrics = {"test/mae": float(np.mean(list(errors.values()))), "test/num_crystals": float(size)}
            config = run.config.replace(vectors=column, seeds=(seed,))
            runs.append(
                replace(
                    run,
                    config=config,
                    metrics=metrics,
                    identity=run.identity._replace(settings=str(seed), vectors=column),
                )
            )
    return runs


def judged(runs: dict[str, list[JudgedRun]], row: Row) -> dict[str, Cell]:
    grid = Grid(
        title="",
        columns={"a": Column(label="", vectors="a"), "b": Column(label="", vectors="b", baseline="a")},
        properties=("density",),
    )
    planned = [
        Planned(
            row=row, column=column, fold=int(run.identity.data[-1]), config=run.config, identity=run.identity, work=1
        )
        for column, some in runs.items()
        for run in some
    ]
    found = {run.identity: run for some in runs.values() for run in some}
    return {cell.column: cell for cell in judge(grid, planned, found)}


def test_a_table_says_where_crystals_are_too_few(tmp_path: Path) -> None:
    names = ("a", "b")
    runs = {
        name: [replace(made(tmp_path / name, {"x": 1.0 + k, "y": 2.0}), metrics={"test/mae": 1.5 + k / 2})]
        for k, name in enumerate(names)
    }
    for name, [run] in runs.items():
        runs[name] = [replace(run, identity=run.identity._replace(vectors=name, data="fold 0"))]
    text = _cell_text(judged(runs, Row(property="density"))["b"])
    assert text == "2 [too few for an interval]<br>+0.5 [too few for an interval], +33.3%, not resolved"


def test_each_crystal_of_all_folds_counts_once(tmp_path: Path) -> None:
    row = Row(property="density", folds=tuple({"split": f"column:{k}"} for k in range(5)))
    runs = {"a": of_folds(tmp_path, "a", 0.0), "b": of_folds(tmp_path, "b", -0.25)}
    cells = judged(runs, row)
    pooled = [float(np.concatenate([r.errors() for r in runs["a"] if r.seed == seed]).mean()) for seed in range(3)]
    cell = cells["a"]
    assert cell.num_crystals == sum(SIZES) == 50
    assert cell.mean == pytest.approx(np.mean(pooled))
    assert cell.deviation == pytest.approx(np.std(pooled, ddof=1)), "over seeds, not over folds"
    assert cell.interval.low < cell.mean < cell.interval.high
    comparison = cells["b"].comparison
    assert comparison is not None
    assert comparison.baseline == pytest.approx(cell.mean)
    assert comparison.difference.estimate == pytest.approx(cells["b"].mean - cell.mean)

    lacking = [run for run in runs["b"] if (run.identity.data, run.seed) != ("fold 4", 0)]
    incomplete = judged({"a": runs["a"], "b": lacking}, row)["b"]
    whole = [float(np.concatenate([r.errors() for r in runs["b"] if r.seed == seed]).mean()) for seed in (1, 2)]
    assert incomplete.mean == pytest.approx(np.mean(whole)), "a seed that lacks its hardest fold is not averaged in"


def test_sides_are_compared_on_the_folds_that_both_have(tmp_path: Path) -> None:
    mine, theirs = of_folds(tmp_path, "a", 0.0), of_folds(tmp_path, "b", -0.25)
    some = [run for run in mine if run.identity.data in {"fold 1", "fold 3"}]
    first, second = common_errors(some, theirs)
    assert set(first.index) == set(second.index)
    assert len(first) == SIZES[1] + SIZES[3]
    with pytest.raises(ValueError, match="data digest"):
        common_errors(mine[:3], theirs[3:])
    with pytest.raises(ValueError, match="test crystal 0-0 is judged by runs on different data or splits"):
        errors_of([mine[0], replace(mine[1], identity=mine[1].identity._replace(data="other"))])


def test_p_value_is_that_of_a_z_test() -> None:
    values = np.random.default_rng(1).normal(0.2, 1.0, size=400)
    t = stats.ttest_1samp(values, 0.0)
    assert p_value(values) == pytest.approx(2 * stats.norm.sf(abs(t.statistic)))
    assert p_value(values) == pytest.approx(t.pvalue, rel=0.1)
    few = stats.t.ppf(0.975, 29)  # the docstring's claim for a few dozen crystals
    assert 2 * stats.norm.sf(few) == pytest.approx(0.05 * 0.82, rel=0.02)


def test_holm_has_the_known_answer() -> None:
    """Computed by hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and at least that for the last."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([])).tolist() == []
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_holm_keeps_the_probability_of_any_false_verdict() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(size=(2000, 20))
    false = np.mean([min(holm(row)) < 0.05 for row in p])
    assert false == pytest.approx(1 - (1 - 0.05 / 20) ** 20, abs=0.02)
    assert np.mean(p.min(axis=1) < 0.05) > 0.6  # the rate without correction for multiple tests


def test_correction_takes_back_what_one_of_many_shows() -> None:
    rng = np.random.default_rng(4)
    theirs = side(rng.gamma(2.0, size=300))
    clear, weak = theirs + rng.normal(-0.5, 0.5, 300), theirs + rng.normal(-0.14, 1.0, 300)
    ties = [theirs + rng.normal(0, 1.0, 300) for _ in range(6)]
    comparisons = [compare(mine, theirs) for mine in (clear, weak, *ties)]
    assert [c.verdict for c in comparisons[:2]] == [BETTER, BETTER]
    after = corrected(comparisons)
    assert [verdict for _, verdict in after[:2]] == [BETTER, TIE]
    assert [p for p, _ in after] == holm(np.array([c.p_value for c in comparisons])).tolist()


def test_errors_are_averaged_by_crystal(tmp_path: Path) -> None:
    first = made(tmp_path / "first", {"a": 1.0, "b": 2.0, "c": 3.0})
    second = made(tmp_path / "second", {"c": 5.0, "a": 2.0, "b": 4.0})
    averaged = averaged_errors([first, second])
    assert averaged.to_dict() == pytest.approx({"a": 1.5, "b": 3.0, "c": 4.0})


@pytest.mark.parametrize(
    ("changes", "ids", "message"),
    [
        ({"data": "other"}, "ab", "data digest data there, other here"),
        ({"split_digest": "other"}, "ab", "split digest split there, other here"),
        ({"property": "ehull"}, "ab", "property density there, ehull here"),
        ({}, "ac", "2 test crystals are of one of them only"),
        ({}, "abb", "test crystals are of one of them only"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    tmp_path: Path, changes: dict[str, str], ids: str, message: str
) -> None:
    mine = made(tmp_path / "mine", {"a": 1.0, "b": 2.0})
    other = made(tmp_path / "other", dict.fromkeys("ab", 1.0), **changes)
    rows = pd.DataFrame({"material_id": list(ids), "target": 1.0, "prediction": 2.0})
    rows.to_csv(other.folder / "predictions.csv", index=False)
    with pytest.raises(ValueError, match=message):
        require_comparable([mine, other])
