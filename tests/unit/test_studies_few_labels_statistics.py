"""Differences paired by draw, against scipy; what cannot be compared; the correction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from crysatom.studies.few_labels.cells import Cell
from crysatom.studies.few_labels.statistics import Result, results_of, t_interval
from crysatom.studies.grid.statistics import BETTER, TIE, WORSE
from crysatom.studies.significance import holm
from crysatom.training.intervals import bootstrap_mean

CELL = Cell(
    identity="0" * 16,
    property="y",
    unit="eV",
    labels=100,
    held_out="none",
    elements="",
    predictor="cgcnn",
    table="bits",
    vectors="onehot92",
    sha256="",
    power=0.0,
    draw=0,
    seed=0,
    salt="a",
    evaluated="test",
    crystals="c0",
    num_train=100,
    num_crystals=40,
    mae=1.0,
    val_mae=1.0,
    epochs=2,
    selected_epoch=1,
    seconds=0.1,
)
DRAWS, SEEDS = 5, 2


def cells(table: str, shift: float, noise: float = 0.02, **changes: object) -> list[Cell]:
    generator = np.random.default_rng(sum(table.encode()))
    return [
        dataclasses.replace(
            CELL,
            identity=f"{table}-{draw}-{seed}",
            table=table,
            draw=draw,
            seed=seed,
            crystals=f"c{draw}",
            mae=1 + 0.3 * draw + shift + noise * generator.standard_normal(),
            **changes,  # type: ignore[arg-type]
        )
        for draw in range(DRAWS)
        for seed in range(SEEDS)
    ]


def by_table(results: list[Result]) -> dict[str, Result]:
    return {result.table: result for result in results}


def means(some: list[Cell]) -> np.ndarray:
    return np.array([np.mean([c.mae for c in some if c.draw == draw]) for draw in range(DRAWS)])


def test_differences_are_those_of_the_paired_t_test() -> None:
    bits, mine = cells("bits", 0), cells("mine", -0.05)
    result = by_table(results_of([*bits, *mine], "bits"))["mine"]
    assert result.comparison is not None
    theirs = stats.ttest_rel(means(mine), means(bits))
    ends = theirs.confidence_interval(0.95)
    assert result.comparison.p_value == pytest.approx(theirs.pvalue)
    assert result.comparison.difference == pytest.approx((np.mean(means(mine) - means(bits)), ends.low, ends.high))
    assert result.comparison.percent == pytest.approx(
        [100 * x / means(bits).mean() for x in result.comparison.difference]
    )
    assert result.comparison.draws == DRAWS
    assert result.mean == pytest.approx(means(mine).mean())
    assert result.deviation == pytest.approx(means(mine).std(ddof=1))
    assert result.comparison.crystals is None


def test_verdicts_and_the_correction_over_all_comparisons() -> None:
    some = [("bits", 0.0), ("good", -0.2), ("bad", 0.2), ("equal", 0.0), ("weak", -0.02)]
    results = results_of([cell for table, shift in some for cell in cells(table, shift)], "bits")
    compared = {r.table: r.comparison for r in results if r.comparison is not None}
    assert {table: c.verdict for table, c in compared.items() if table != "weak"} == {
        "good": BETTER,
        "bad": WORSE,
        "equal": TIE,
    }
    adjusted = holm(np.array([c.p_value for c in compared.values()]))
    assert [c.p_holm for c in compared.values()] == adjusted.tolist()
    assert [c.verdict_corrected != TIE for c in compared.values()] == (adjusted < 0.05).tolist()


def test_only_draws_and_seeds_of_both_are_paired() -> None:
    bits, mine = cells("bits", 0), cells("mine", -0.05)
    fewer = [cell for cell in mine if cell.draw < 3 and (cell.draw, cell.seed) != (0, 1)]
    comparison = by_table(results_of([*bits, *fewer], "bits"))["mine"].comparison
    assert comparison is not None
    assert comparison.draws == 3
    pairs = {(c.draw, c.seed): c.mae for c in bits}
    of_draw = [
        np.mean([c.mae - pairs[c.draw, c.seed] for c in fewer if c.draw == draw]) for draw in range(comparison.draws)
    ]
    assert comparison.difference.estimate == pytest.approx(np.mean(of_draw))


def test_tasks_are_compared_within_themselves() -> None:
    results = results_of([*cells("bits", 0), *cells("mine", 0.1, labels=500)], "bits")
    assert [r.comparison for r in results] == [None, None]


def test_other_crystals_are_refused() -> None:
    other = [dataclasses.replace(cell, crystals="other") for cell in cells("mine", 0)]
    with pytest.raises(ValueError, match="draw 0: mine and bits have other crystals"):
        results_of([*cells("bits", 0), *other], "bits")


@pytest.mark.parametrize(("labels", "basis", "verdict"), [(100, "none", TIE), (0, "crystals", BETTER)])
def test_one_draw_has_no_interval_and_only_all_labels_that_of_crystals(labels: int, basis: str, verdict: str) -> None:
    generator = np.random.default_rng(0)
    bits, mine = (cells(table, 0, labels=labels)[:1] for table in ("bits", "mine"))
    ids = {"c0": np.arange(40).astype(str)}
    errors = {"bits-0-0": generator.random(40) + 0.5, "mine-0-0": generator.random(40)}
    alone = by_table(results_of([*bits, *mine], "bits"))["mine"].comparison
    assert alone is not None
    assert (alone.basis, alone.verdict) == ("none", TIE)
    assert np.isnan([alone.p_value, alone.p_holm, alone.difference.low]).all()
    known = by_table(results_of([*bits, *mine], "bits", errors=errors.get, ids=ids))["mine"].comparison
    assert known is not None
    assert (known.basis, known.verdict_corrected) == (basis, verdict)
    assert known.crystals == bootstrap_mean(errors["mine-0-0"] - errors["bits-0-0"], symmetric=True)


def test_the_bootstrap_is_of_errors_averaged_over_draws() -> None:
    """Draws that evaluate different crystals, as with random held-out elements: each over those that have it."""
    bits, mine = (cells(table, 0)[::SEEDS][:2] for table in ("bits", "mine"))
    ids = {"c0": np.array(["a", "b", "c", "d"]), "c1": np.array(["c", "d", "e", "f"])}
    errors = {cell.identity: np.zeros(4) for cell in bits}
    errors |= {"mine-0-0": np.array([1.0, 2.0, 3.0, 4.0]), "mine-1-0": np.array([5.0, 5.0, 6.0, 7.0])}
    found = by_table(results_of([*bits, *mine], "bits", errors=errors.get, ids=ids))["mine"].comparison
    assert found is not None
    assert found.crystals == bootstrap_mean(np.array([1, 2, 4, 4.5, 6, 7]), symmetric=True)


def test_equal_differences() -> None:
    assert t_interval([0.5, 0.5, 0.5]) == ((0.5, 0.5, 0.5), 0.0)
    assert t_interval([0.0, 0.0]) == ((0.0, 0.0, 0.0), 1.0)
