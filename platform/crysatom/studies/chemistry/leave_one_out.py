"""Predict a property of each element from the vectors of all others, by ridge regression and by nearest neighbors.

Both methods predict a weighted sum of the other elements' values. The weights depend on the vectors and one setting,
not on the values. One function therefore serves both, and thousands of relabeled values cost one matrix product.

The element left out is used neither for the standardization nor for the choice of the setting. The setting is chosen
for each element by a second leave-one-out among the others (nested; Varma and Simon, BMC Bioinformatics 7, 91 (2006)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysatom.studies.significance import TIE
from crysatom.vectors.scale import column_spread

Array = NDArray[Any]

PENALTIES = np.logspace(-3, 3, 7)
"""Penalties of the ridge regression, in units of the mean squared singular value of the standardized vectors."""

NEIGHBORS = (1, 2, 3, 5, 7, 10)

MIN_ELEMENTS = 12
"""Fewer elements leave no 10 neighbors."""


class Weights(NamedTuple):
    """Weights of the values of m known elements in a prediction, for each of K settings.

    Attributes:
        inner: ``(K, m, m)``: prediction of each known element from the other m - 1.
        outer: ``(K, m)``: prediction of the element left out from all m.

    """

    inner: Array
    outer: Array


Method = Callable[[Array, Array], Weights]


def ridge(known: Array, left_out: Array) -> Weights:
    """Return the weights of ridge regression with an unpenalized intercept, for :data:`PENALTIES`.

    The prediction without the element itself is (prediction with it - h y) / (1 - h), where h is its leverage (Golub,
    Heath, Wahba, Technometrics 21, 215 (1979)).

    Args:
        known: ``(m, D)``, standardized.
        left_out: ``(D,)``, with the same shift and factors.

    """
    u, s, vt = np.linalg.svd(known, full_matrices=False)
    unit = max(float(np.mean(s**2)), np.finfo(float).tiny)
    damped = s**2 + PENALTIES[:, None] * unit
    hat = u * (s**2 / damped)[:, None] @ u.T + 1 / len(known)
    leverage = np.einsum("kii->ki", hat)[:, :, None].copy()
    np.einsum("kii->ki", hat)[:] = 0.0
    outer = ((vt @ left_out) * s / damped) @ u.T + 1 / len(known)
    return Weights(hat / (1 - leverage), outer)


def nearest_neighbors(known: Array, left_out: Array) -> Weights:
    """Return the weights of the mean of the k nearest elements (Euclidean), for k of :data:`NEIGHBORS`.

    Elements at equal distance share the remaining places of the k: on one-hot vectors, where all distances are equal,
    every k gives the mean.

    Args:
        known: ``(m, D)``, standardized; m is at least 11.
        left_out: ``(D,)``, with the same shift and factors.

    """
    every = np.vstack([known, left_out])
    squares = np.square(every).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares[None, :-1] - 2 * every @ known.T, 0.0))
    np.fill_diagonal(distance, np.inf)  # of known elements to themselves
    weights = np.stack([_shares(distance, k, float(np.sqrt(squares.max()))) for k in NEIGHBORS])
    return Weights(weights[:, :-1], weights[:, -1])


def _shares(distance: Array, k: int, size: float) -> Array:
    """Return ``(r, m)`` weights that sum to 1 in each row and are 0 beyond the k-th smallest distance."""
    last = np.sort(distance, axis=1)[:, k - 1 : k]
    nearer = distance < last - _DISTANCE_TIE * size
    level = ~nearer & (distance <= last + _DISTANCE_TIE * size)
    places = k - nearer.sum(axis=1, keepdims=True)
    shares: Array = (nearer + level * places / level.sum(axis=1, keepdims=True)) / k
    return shares


_DISTANCE_TIE = 1e-6
"""Tolerance for equal distances: they differ by the square root of the rounding error of their squares."""


METHODS: dict[str, Method] = {"ridge": ridge, "neighbors": nearest_neighbors}


def predict_left_out(vectors: Array, values: Array, method: Method, *, standardize: bool = True) -> Array:
    """Return ``(n, P, C)``: the values of each element, predicted from the vectors and values of all others.

    Each problem uses the setting with the least squared error of the inner predictions.

    Args:
        vectors: ``(n, D)``.
        values: ``(n, P, C)``: P problems of C columns each (one number, or an indicator of each class).
        method: One of :data:`METHODS`.
        standardize: Scale each column to variance 1; otherwise it is only centered.

    Raises:
        ValueError: If there are fewer than :data:`MIN_ELEMENTS` elements.

    """
    count, problems, columns = values.shape
    if count < MIN_ELEMENTS:
        raise ValueError(f"leave-one-out predictions need at least {MIN_ELEMENTS} elements, got {count}")
    predicted = np.empty(values.shape)
    for i in range(count):
        others = np.arange(count) != i
        known, left_out = _centered(vectors[others], vectors[i], standardize=standardize)
        weights = method(known, left_out)
        given = values[others].reshape(count - 1, problems * columns)
        errors = [np.square(inner @ given - given).sum(axis=0) for inner in weights.inner]
        of_problem = np.stack(errors).reshape(-1, problems, columns).sum(axis=2)
        best = of_problem.argmin(axis=0)
        outer = (weights.outer @ given).reshape(-1, problems, columns)
        predicted[i] = outer[best, np.arange(problems)]
    return predicted


def _centered(known: Array, left_out: Array, *, standardize: bool) -> tuple[Array, Array]:
    """Return both, centered and scaled by the known elements; a column that is constant among these becomes 0.

    No component of m standardized rows exceeds (m - 1) / sqrt(m). Components of the element left out are clipped to
    this bound: a column that almost only this element uses would be divided by the rounding errors of the others.
    """
    known, left_out = known.astype(np.float64), left_out.astype(np.float64)
    center = known.mean(axis=0)
    if not standardize:
        return known - center, left_out - center
    spread, most = column_spread(known), (len(known) - 1) / np.sqrt(len(known))
    return (known - center) / spread, np.clip((left_out - center) / spread, -most, most)


def scores(values: Array, predicted: Array) -> Array:
    """Return ``(P,)``: R2 for numbers (C = 1), otherwise the share of elements whose class is predicted correctly.

    If classes tie for the first place, an element counts with the probability that a random one of them is right.

    Args:
        values: ``(n, P, C)``.
        predicted: ``(n, P, C)``.

    """
    if values.shape[2] > 1:
        return np.asarray(hits(values, predicted).mean(axis=0))
    residual = np.square(values - predicted).sum(axis=(0, 2))
    total = np.square(values - values.mean(axis=0)).sum(axis=(0, 2))
    share = np.divide(residual, total, out=np.full_like(total, np.nan), where=total > 0)
    return np.asarray(1 - share)


def hits(values: Array, predicted: Array) -> Array:
    """Return ``(n, P)``: 1 if the class with the largest prediction is correct, otherwise 0; ties as in scores."""
    first = predicted >= predicted.max(axis=2, keepdims=True) - TIE
    return np.asarray((values * first).sum(axis=2) / first.sum(axis=2))
