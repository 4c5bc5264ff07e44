"""Intervals against the textbook formula and their true coverage; behavior with too few data."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from crysatom.studies.grid.statistics import TIE, compare
from crysatom.training import metrics
from crysatom.training.intervals import UNKNOWN, Interval, bootstrap_mean, bootstrap_r2, wilson
from tests.unit.test_studies_grid_statistics import side

Array = np.ndarray


@pytest.mark.parametrize("symmetric", [False, True])
def test_interval_is_that_of_the_textbook(symmetric: bool) -> None:
    """Other random resamples; ends of two runs of 20,000 differ by some hundredths of a standard error.

    The error is that of the mean. Tolerance: four times the largest difference observed for ten seeds.
    """
    values = np.random.default_rng(1).lognormal(0, 0.8, 60)
    generator = np.random.default_rng(2)
    drawn = values[generator.integers(60, size=(20_000, 60))]
    error = values.std(ddof=1) / 60**0.5
    t = (drawn.mean(axis=1) - values.mean()) / (drawn.std(axis=1, ddof=1) / 60**0.5)
    low, high = (-q, q) if symmetric and (q := np.quantile(abs(t), 0.95)) else np.quantile(t, [0.025, 0.975])
    found = bootstrap_mean(values, resamples=20_000, symmetric=symmetric)
    assert found.estimate == pytest.approx(values.mean(), rel=1e-13)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - high * error, values.mean() - low * error), abs=0.12 * error
    )


def coverage(
    draw: Callable[[np.random.Generator], Array], truth: float, interval: Callable[[Array, int], Interval]
) -> float:
    """Return the fraction of 1,000 intervals that contain the truth."""
    found = [interval(draw(np.random.default_rng(seed)), seed) for seed in range(1000)]
    return float(np.mean([low <= truth <= high for _, low, high in found]))


def percentile(values: Array, seed: int) -> Interval:
    generator = np.random.default_rng(seed)
    means = values[generator.integers(len(values), size=(400, len(values)))].mean(axis=1)
    return Interval(float(values.mean()), *np.quantile(means, [0.025, 0.975]).tolist())


def test_an_error_is_covered_as_often_as_possible() -> None:
    """Twenty lognormal errors: 0.93 of 0.95 (benchmarks/interval_coverage.py); percentiles cover 0.86.

    The limit is between these, three standard deviations (0.008 and 0.011) of 1,000 samples from either.
    """
    truth = math.exp(0.5)

    def draw(generator: np.random.Generator) -> Array:
        return generator.lognormal(0, 1, 20)

    assert coverage(draw, truth, lambda values, seed: bootstrap_mean(values, seed=seed, resamples=400)) > 0.9
    assert coverage(draw, truth, percentile) < 0.9


def test_a_difference_is_covered_as_often_as_it_says() -> None:
    """Two models, fifty crystals, larger differences where both have large errors: 0.96; with equal tails 0.90."""

    def draw(generator: np.random.Generator) -> Array:
        return generator.lognormal(0, 1, 50) * (generator.lognormal(0, 0.3, 50) - 1)

    def interval(values: Array, seed: int) -> Interval:
        return bootstrap_mean(values, seed=seed, resamples=400, symmetric=True)

    truth = math.exp(0.5) * (math.exp(0.045) - 1)
    assert 0.935 < coverage(draw, truth, interval) < 0.98
    assert coverage(draw, truth, percentile) < 0.935


def test_r2_is_covered_as_often_as_possible() -> None:
    """Twenty exponential targets, normal errors, R2 = 1 - 0.25 / 1: 0.92; percentiles cover 0.83.

    The limit is three standard deviations (0.009 and 0.012) from either.
    """

    def interval(values: Array, seed: int) -> Interval:
        return bootstrap_r2(values[0], values[1], seed=seed, resamples=400)

    def draw(generator: np.random.Generator) -> Array:
        target = generator.exponential(1, 20)
        return np.stack([target, target + 0.5 * generator.standard_normal(20)])

    def percentile_r2(values: Array, seed: int) -> Interval:
        chosen = np.random.default_rng(seed).integers(20, size=(400, 20))
        target, prediction = values[:, chosen]
        found = 1 - np.square(target - prediction).mean(axis=1) / target.var(axis=1)
        return Interval(0.0, *np.quantile(found, [0.025, 0.975]).tolist())

    assert coverage(draw, 0.75, interval) > 0.88
    assert coverage(draw, 0.75, percentile_r2) < 0.88


@pytest.mark.parametrize("count", [12, 66])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.97])
def test_a_share_is_covered_whatever_it_is(share: float, count: int) -> None:
    """The exact probability, summed over numbers of hits; Wilson's interval varies by some hundredths about 0.95."""
    hits = np.arange(count + 1)
    found = [wilson(np.arange(count) < hit) for hit in hits]
    held = [interval.low <= share <= interval.high for interval in found]
    assert 0.92 < stats.binom.pmf(hits, count, share)[held].sum() <= 1
    theirs = [stats.binomtest(int(hit), count).proportion_ci(method="wilson") for hit in hits]
    assert [interval[1:] for interval in found] == [pytest.approx((one.low, one.high), abs=1e-12) for one in theirs]


def test_r2_of_a_sample_is_that_of_the_metric() -> None:
    target = np.random.default_rng(0).normal(size=80)
    prediction = target + np.random.default_rng(1).normal(scale=0.5, size=80)
    found = bootstrap_r2(target, prediction)
    assert found.estimate == pytest.approx(metrics.r2(target, prediction), rel=1e-12)
    assert found.low < found.estimate < found.high < 1


@pytest.mark.parametrize("symmetric", [False, True])
def test_values_that_do_not_vary_have_an_interval_without_width(symmetric: bool) -> None:
    for value in (0.0, 0.1, -3.0):  # a mean of 0.1 differs from 0.1 by rounding
        assert bootstrap_mean(np.full(4, value), symmetric=symmetric) == pytest.approx((value,) * 3, abs=1e-15)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "values",
    [[1.0], [1.0, 2.0], [1.0, 2.0, 4.0], [1.0] * 3, [*[0.0] * 30, 1.0]],
    ids=["one", "two", "three", "three equal ones", "all but one equal"],
)
def test_too_few_values_tell_no_ends_and_say_so(values: list[float], symmetric: bool) -> None:
    found = bootstrap_mean(np.array(values), symmetric=symmetric)
    assert found.estimate == pytest.approx(np.mean(values))
    assert np.isnan(found[1:]).all()
    assert found.ends() == UNKNOWN == "[too few for an interval]"


def test_what_has_no_ends_resolves_nothing() -> None:
    found = compare(side(np.array([1.0, 2.0])), side(np.array([5.0, 7.0])))
    assert found.verdict == TIE
    assert found.difference.estimate == -4.5
    alone = metrics.summary(np.array([1.0]), np.array([3.0]), "ehull")
    assert alone[metrics.MAE] == 2
    assert np.isnan(alone[metrics.MAE_LOW])


def test_degenerate_r2() -> None:
    flat, some = np.ones(20), np.arange(20.0)
    assert np.isnan(bootstrap_r2(flat, some)).all()
    exact = bootstrap_r2(some, some)
    assert exact.estimate == 1
    assert np.isnan(exact[1:]).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_unit_does_not_matter_and_no_error_is_below_zero(scale: float) -> None:
    values = np.random.default_rng(3).lognormal(0, 2, 6)
    one, other = bootstrap_mean(values), bootstrap_mean(values * scale)
    assert tuple(other) == pytest.approx(tuple(scale * end for end in one), rel=1e-9)
    assert 0 <= one.low < one.estimate < one.high
    assert bootstrap_mean(values, symmetric=True).low < 0, "the same as a difference may be"
    assert bootstrap_mean(np.array([1.0, 1.1, 5.0, 9.0]) - 4).low < -4, "not an error: it is cut by no bound"


def test_ends_as_text() -> None:
    assert Interval(0.25, 0.1234567, 0.5).ends() == "[0.1235, 0.5]"
    assert Interval(0.25, -0.1, 0.5).ends("+.2f") == "[-0.10, +0.50]"


def test_memory_of_a_bootstrap_is_bounded() -> None:
    """5,572 test crystals and 5,000 resamples would be 223 MB of indices at once."""
    values = np.random.default_rng(0).gamma(1.0, size=5572)
    tracemalloc.start()
    bootstrap_mean(values, resamples=5000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6


@pytest.mark.parametrize(("size", "level", "resamples"), [(0, 0.95, 10), (3, 1.0, 10), (3, 0.95, 0)])
def test_impossible_bootstraps_are_refused(size: int, level: float, resamples: int) -> None:
    with pytest.raises(ValueError, match="a bootstrap needs values"):
        bootstrap_mean(np.ones(size), level=level, resamples=resamples)
