"""Errors of predictions with confidence intervals: one formula per function, on ``(n,)`` arrays.

Errors have the unit of the property. A formula that is undefined (equal targets, no metals) gives NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.names import (
    BAND_GAPS,
    GAP_ACCURACY,
    MAD,
    MAE,
    MAE_GAPPED,
    MAE_HIGH,
    MAE_LOW,
    MAE_METALS,
    MAE_OVER_MAD,
    NUM_CRYSTALS,
    NUM_METALS,
    R2,
    RMSE,
)
from crysatom.training.intervals import RESAMPLES, Interval, bootstrap_mean

Array = NDArray[Any]

GAP_THRESHOLD = 0.1
"""Predicted gap in eV from which a crystal counts as having one. Regression does not reach zero: the best model on the
JARVIS-Leaderboard (kgcnn_coGN) errs by 0.05 eV on metals, so a smaller threshold would count its noise as gaps."""


def summary(target: Array, prediction: Array, name: str, *, seed: int = 0) -> dict[str, float]:
    """Return all metrics of a property's predictions, named as in :mod:`crysatom.names`.

    Band gaps have additional metrics for metals and for crystals with a gap.

    Raises:
        ValueError: If the arrays differ in length, or hold NaN or infinity.

    """
    error = mae_interval(target, prediction, seed=seed)
    metrics = {
        NUM_CRYSTALS: float(len(target)),
        MAE: error.estimate,
        MAE_LOW: error.low,
        MAE_HIGH: error.high,
        RMSE: rmse(target, prediction),
        R2: r2(target, prediction),
        MAD: mad(target),
        MAE_OVER_MAD: mae_over_mad(target, prediction),
    }
    if name in BAND_GAPS:
        metrics |= {
            NUM_METALS: float(np.count_nonzero(target == 0)),
            MAE_METALS: mae_metals(target, prediction),
            MAE_GAPPED: mae_gapped(target, prediction),
            GAP_ACCURACY: gap_accuracy(target, prediction),
        }
    return metrics


def mae(target: Array, prediction: Array) -> float:
    """Return the mean absolute error, mean |y - p|."""
    return float(np.abs(errors(target, prediction)).mean())


def rmse(target: Array, prediction: Array) -> float:
    """Return the root mean square error, sqrt(mean (y - p)^2)."""
    return float(np.sqrt(np.square(errors(target, prediction)).mean()))


def r2(target: Array, prediction: Array) -> float:
    """Return the coefficient of determination, 1 - sum (y - p)^2 / sum (y - mean y)^2."""
    residual = np.square(errors(target, prediction)).sum()
    target = np.asarray(target, dtype=np.float64)
    total = np.square(target - target.mean()).sum()
    return float(1 - residual / total) if total > 0 else float("nan")


def mad(target: Array) -> float:
    """Return the mean absolute deviation of these targets about their own mean, mean |y - mean y|.

    This is the error of predicting the mean. The leaderboard's ``random_guessing_performance`` is the mean absolute
    deviation of the training targets instead.
    """
    target = np.asarray(target, dtype=np.float64)
    return float(np.abs(target - target.mean()).mean())


def mae_over_mad(target: Array, prediction: Array) -> float:
    """Return MAE over :func:`mad`: 0 is perfect, 1 no better than the mean.

    The inverse of the MAD:MAE of Choudhary and DeCost, npj Computational Materials 7, 185 (2021).
    """
    deviation = mad(target)
    return mae(target, prediction) / deviation if deviation > 0 else float("nan")


def mae_metals(target: Array, prediction: Array) -> float:
    """Return the MAE on the crystals whose gap is exactly zero."""
    return _mae_where(target, prediction, np.asarray(target) == 0)


def mae_gapped(target: Array, prediction: Array) -> float:
    """Return the MAE on the crystals with a gap."""
    return _mae_where(target, prediction, np.asarray(target) != 0)


def gap_accuracy(target: Array, prediction: Array, *, threshold: float = GAP_THRESHOLD) -> float:
    """Return the share classified correctly: metals (gap zero) below the threshold in eV, the others at or above it."""
    errors(target, prediction)
    return float(((np.asarray(target) > 0) == (np.asarray(prediction) >= threshold)).mean())


def mae_interval(
    target: Array, prediction: Array, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> Interval:
    """Return the MAE with an interval over the crystals, see :func:`crysatom.training.intervals.bootstrap_mean`."""
    return bootstrap_mean(np.abs(errors(target, prediction)), seed=seed, resamples=resamples, level=level)


def mae_by_element(target: Array, prediction: Array, holds: Array) -> dict[int, tuple[int, float]]:
    """Return, by atomic number, the number and MAE of the crystals that contain an element.

    A crystal counts for each of its elements, so the values do not add up to the overall MAE.

    Args:
        target: ``(n,)``.
        prediction: ``(n,)``.
        holds: ``(n, 118)`` bool: column Z - 1.

    """
    absolute = np.abs(errors(target, prediction))
    counts = holds.sum(axis=0)
    return {
        int(column) + 1: (int(counts[column]), float(absolute[holds[:, column]].mean()))
        for column in np.flatnonzero(counts)
    }


def errors(target: Array, prediction: Array) -> Array:
    """Return ``(n,)`` float64 errors, prediction minus target.

    Raises:
        ValueError: If the arrays differ in length, are empty, or hold NaN or infinity.

    """
    target, prediction = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if target.ndim != 1 or target.shape != prediction.shape or not len(target):
        raise ValueError(
            f"targets {target.shape} and predictions {prediction.shape} must be equally many, at least one"
        )
    for what, values in (("targets", target), ("predictions", prediction)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(values)} {what} are NaN or infinite, the first at position {bad[0]}; "
                + ("leave out crystals without a label" if what == "targets" else "the predictor has diverged")
            )
    return prediction - target


def _mae_where(target: Array, prediction: Array, chosen: Array) -> float:
    absolute = np.abs(errors(target, prediction))[chosen]
    return float(absolute.mean()) if len(absolute) else float("nan")
