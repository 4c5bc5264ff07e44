"""Metrics against scikit-learn; intervals of means and R2 are in test_training_intervals.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from crysatom import names
from crysatom.training import metrics


@pytest.fixture
def target() -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, size=500)


@pytest.fixture
def prediction(target: np.ndarray) -> np.ndarray:
    return target + np.random.default_rng(1).standard_t(4, size=len(target)) * 0.2


def test_parity_with_scikit_learn(target: np.ndarray, prediction: np.ndarray) -> None:
    assert metrics.mae(target, prediction) == pytest.approx(
        sklearn_metrics.mean_absolute_error(target, prediction), rel=1e-13
    )
    assert metrics.rmse(target, prediction) == pytest.approx(
        sklearn_metrics.root_mean_squared_error(target, prediction), rel=1e-13
    )
    assert metrics.r2(target, prediction) == pytest.approx(sklearn_metrics.r2_score(target, prediction), rel=1e-13)
    mean = np.full_like(target, target.mean())
    assert metrics.mad(target) == pytest.approx(sklearn_metrics.mean_absolute_error(target, mean), rel=1e-13)


def test_r2_of_worse_than_the_mean_is_negative(target: np.ndarray) -> None:
    assert metrics.r2(target, -target) == pytest.approx(sklearn_metrics.r2_score(target, -target), rel=1e-13)
    assert metrics.r2(target, -target) < 0


def test_mean_as_prediction_has_an_mae_over_mad_of_one(target: np.ndarray) -> None:
    assert metrics.mae_over_mad(target, np.full_like(target, target.mean())) == pytest.approx(1, rel=1e-13)
    assert metrics.mae_over_mad(target, target) == 0


def test_single_precision_is_summed_in_double(target: np.ndarray) -> None:
    """A million errors of 0.1 in float32 would add up to too little."""
    zeros = np.zeros(2**20, dtype=np.float32)
    assert metrics.rmse(zeros, zeros + np.float32(0.1)) == pytest.approx(np.float32(0.1), rel=1e-12)
    assert metrics.mae(target.astype(np.float32), target) < 1e-6


def test_undefined_is_nan() -> None:
    flat = np.full(3, 2.0)
    assert math.isnan(metrics.r2(flat, np.array([1.0, 2, 3])))
    assert math.isnan(metrics.mae_over_mad(flat, np.array([1.0, 2, 3])))
    assert math.isnan(metrics.mae_metals(flat, flat))
    assert math.isnan(metrics.mae_gapped(np.zeros(3), flat))


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([1.0, 2.0], [1.0], r"targets \(2,\) and predictions \(1,\)"),
        ([[1.0]], [[1.0]], r"targets \(1, 1\)"),
        ([], [], r"targets \(0,\)"),
        ([1.0, math.nan], [1.0, 2.0], "1 of 2 targets are NaN or infinite, the first at position 1; leave out"),
        ([1.0, 2.0], [math.inf, math.nan], "2 of 2 predictions are NaN or infinite, the first at position 0"),
    ],
)
def test_bad_arrays_are_refused(target: list[float], prediction: list[float], message: str) -> None:
    for function in (metrics.mae, metrics.rmse, metrics.r2, metrics.gap_accuracy, metrics.mae_interval):
        with pytest.raises(ValueError, match=message):
            function(np.array(target), np.array(prediction))


def test_gaps() -> None:
    target = np.array([0.0, 0.0, 0.0, 1.0, 2.0])
    prediction = np.array([0.0, 0.3, -0.3, 0.05, 2.5])
    assert metrics.mae_metals(target, prediction) == pytest.approx(0.2)
    assert metrics.mae_gapped(target, prediction) == pytest.approx(0.725)
    assert metrics.gap_accuracy(target, prediction) == 3 / 5
    assert metrics.gap_accuracy(target, prediction, threshold=0.01) == 4 / 5
    assert metrics.gap_accuracy(target, prediction, threshold=0.31) == 4 / 5
    shares = np.array([3, 2]) / 5
    parts = [metrics.mae_metals(target, prediction), metrics.mae_gapped(target, prediction)]
    assert shares @ parts == pytest.approx(metrics.mae(target, prediction))


def test_gap_accuracy_is_scikit_learns(target: np.ndarray, prediction: np.ndarray) -> None:
    target = np.maximum(target - 1, 0)
    expected = sklearn_metrics.accuracy_score(target > 0, prediction - 1 >= 0.1)
    assert metrics.gap_accuracy(target, prediction - 1) == pytest.approx(expected)


def test_wider_level_wider_interval(target: np.ndarray, prediction: np.ndarray) -> None:
    narrow, wide = (metrics.mae_interval(target, prediction, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


def test_seeds_decide(target: np.ndarray, prediction: np.ndarray) -> None:
    first, again, other = (metrics.mae_interval(target, prediction, seed=s, resamples=100) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_summary(target: np.ndarray, prediction: np.ndarray) -> None:
    found = metrics.summary(target, prediction, "ehull", seed=4)
    interval = metrics.mae_interval(target, prediction, seed=4)
    assert found == {
        names.NUM_CRYSTALS: 500,
        names.MAE: interval.estimate,
        names.MAE_LOW: interval.low,
        names.MAE_HIGH: interval.high,
        names.RMSE: metrics.rmse(target, prediction),
        names.R2: metrics.r2(target, prediction),
        names.MAD: metrics.mad(target),
        names.MAE_OVER_MAD: metrics.mae(target, prediction) / metrics.mad(target),
    }
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("name", sorted(names.BAND_GAPS))
def test_summary_of_gaps(name: str, target: np.ndarray, prediction: np.ndarray) -> None:
    target = np.maximum(target - 1, 0)
    found = metrics.summary(target, prediction, name)
    assert found[names.NUM_METALS] == np.count_nonzero(target == 0) > 100
    assert found[names.MAE_METALS] == metrics.mae_metals(target, prediction)
    assert found[names.MAE_GAPPED] == metrics.mae_gapped(target, prediction)
    assert found[names.GAP_ACCURACY] == metrics.gap_accuracy(target, prediction)
    assert set(found) - set(metrics.summary(target, prediction, "ehull")) == {
        names.NUM_METALS,
        names.MAE_METALS,
        names.MAE_GAPPED,
        names.GAP_ACCURACY,
    }
    assert name in names.PROPERTIES


def test_an_element_has_the_error_of_the_crystals_that_hold_it() -> None:
    holds = np.zeros((3, 118), dtype=bool)
    holds[[0, 1], 25] = True  # Fe
    holds[[1, 2], 7] = True  # O
    found = metrics.mae_by_element(np.array([0.0, 0.0, 0.0]), np.array([1.0, -3.0, 5.0]), holds)
    assert found == {26: (2, 2.0), 8: (2, 4.0)}
