"""Kernel ridge regression on the mean vector of a crystal's atoms: what a table knows without any structure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0, float("inf"))
"""Widths of the Gaussian kernel that are tried, in units of the median distance; infinite: the linear kernel."""

PENALTIES = tuple(10.0**power for power in range(-6, 2))
"""Ridge penalties that are tried, in units of the mean diagonal of the kernel."""

MOST_LABELS = 6000
"""Most training crystals: the kernel is a square matrix, decomposed once for each width."""


class RidgeOutcome(NamedTuple):
    """Predictions of the best kernel ridge regression, and its settings.

    Attributes:
        val: ``(V,)`` predictions for the validation crystals.
        test: ``(T,)`` predictions for the crystals to evaluate.
        width: Width of its kernel, in units of the median distance.
        penalty: Its ridge penalty.

    """

    val: Array
    test: Array
    width: float
    penalty: float


def mean_vectors(counts: Array, vectors: Array) -> Array:
    """Return the mean vector of each crystal's atoms, ``(n, D)`` float64.

    Args:
        counts: ``(n, E)`` number of atoms of each of E elements.
        vectors: ``(E, D)`` vectors of the elements.

    """
    shares = counts / counts.sum(axis=1, keepdims=True)
    return np.asarray(shares @ vectors.astype(np.float64))


def kernel_ridge(x: tuple[Array, Array, Array], y: Array, y_val: Array) -> RidgeOutcome:
    """Fit the training crystals with each kernel and penalty; keep the one of the least validation MAE.

    f(x) = m + sum_i a_i k(x, x_i) with a = (K + penalty I)^-1 (y - m) and the mean m of y (Rasmussen and Williams,
    Gaussian Processes for Machine Learning, 2006, section 2.2). k(x, z) = exp(-|x - z|^2 / 2 w^2), or x z.

    Args:
        x: ``(n, D)`` features of training, validation and test crystals.
        y: ``(n,)`` training targets.
        y_val: ``(V,)`` validation targets.

    """
    train, val, test = (part - x[0].mean(axis=0) for part in x)
    squares = _squared_distances(train, train)
    unit = float(np.median(squares[np.triu_indices(len(train), 1)])) or 1.0
    mean = float(np.mean(y))
    best: tuple[float, float, float, Array, Array] | None = None
    for width in WIDTHS:
        kernel = _kernel(train, train, width, unit)
        scale = float(np.trace(kernel)) / len(kernel) or 1.0
        values, axes = np.linalg.eigh(kernel / scale)
        rotated = axes.T @ (y - mean)
        to_val = _kernel(val, train, width, unit) @ axes / scale
        for penalty in PENALTIES:
            solved = rotated / (np.maximum(values, 0) + penalty)
            error = float(np.mean(np.abs(mean + to_val @ solved - y_val)))
            if best is None or error < best[0]:
                best = error, width, penalty, mean + to_val @ solved, axes @ solved / scale
    assert best is not None, "several widths are tried"
    _, width, penalty, of_val, weights = best
    return RidgeOutcome(of_val, mean + _kernel(test, train, width, unit) @ weights, width, penalty)


def _kernel(a: Array, b: Array, width: float, unit: float) -> Array:
    if np.isinf(width):
        return np.asarray(a @ b.T)
    return np.exp(-_squared_distances(a, b) / (2 * width**2 * unit))


def _squared_distances(a: Array, b: Array) -> Array:
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0))
