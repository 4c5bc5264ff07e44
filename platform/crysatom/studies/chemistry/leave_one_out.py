"""Predict a fact about each element from the vectors of all others, by ridge and by nearest neighbors.

Both methods predict by a weighted sum of the other elements' values, with weights that depend on the vectors and on one
setting. One function therefore serves both, and thousands of relabeled values cost one matrix product.

The element left out has no part in anything: not in the standardization, not in the choice of the setting, which is
made anew for each element by leaving out each of the others in turn (nested; Varma and Simon, BMC Bioinformatics 7, 91
(2006)).
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
"""Of the ridge, in units of the mean squared singular value of the standardized vectors."""

NEIGHBORS = (1, 2, 3, 5, 7, 10)

MIN_ELEMENTS = 12
"""Fewer leave no 10 neighbors, and nothing to say."""


class Weights(NamedTuple):
    """By which values of m known elements predict, for each of K settings.

    Attributes:
        inner: ``(K, m, m)``: each known element from the other m - 1.
        outer: ``(K, m)``: the element left out from all m.

    """

    inner: Array
    outer: Array


Method = Callable[[Array, Array], Weights]


def ridge(known: Array, left_out: Array) -> Weights:
    """Return the weights of ridge regression with an intercept that is not penalized, for :data:`PENALTIES`.

    An element is predicted without itself by (prediction with it - h y) / (1 - h), h its leverage (Golub, Heath, Wahba,
    Technometrics 21, 215 (1979)).

    Args:
        known: ``(m, D)``, standardized.
        left_out: ``(D,)``, by the same shift and factors.

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

    Elements equally far share what is left of the k places: on one-hot vectors, where all are, every k gives the mean.

    Args:
        known: ``(m, D)``, m at least 11, standardized.
        left_out: ``(D,)``, by the same shift and factors.

    """
    every = np.vstack([known, left_out])
    squares = np.square(every).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares[None, :-1] - 2 * every @ known.T, 0.0))
    np.fill_diagonal(distance, np.inf)  # of the known ones to themselves
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
"""Distances of vectors of one length that are equal differ by the root of what rounding does to their squares."""


METHODS: dict[str, Method] = {"ridge": ridge, "neighbors": nearest_neighbors}


def predict_left_out(vectors: Array, values: Array, method: Method, *, standardize: bool = True) -> Array:
    """Return ``(n, P, C)``: each element's values, predicted from the vectors and values of all others.

    Args:
        vectors: ``(n, D)``.
        values: ``(n, P, C)``: P problems of C columns each (one number, or an indicator of each class), for each
            of which the setting with the least squared error of inner predictions is chosen.
        method: One of :data:`METHODS`.
        standardize: Bring each column to variance 1; else to mean 0 only.

    Raises:
        ValueError: If there are fewer than :data:`MIN_ELEMENTS` elements.

    """
    count, problems, columns = values.shape
    if count < MIN_ELEMENTS:
        raise ValueError(f"leaving elements out needs at least {MIN_ELEMENTS} of them, got {count}")
    predicted = np.empty(values.shape)
    for i in range(count):
        others = np.arange(count) != i
        known, left_out = _centered(vectors[others], vectors[i], standardize=standardize)
        weights = method(known, left_out)
        told = values[others].reshape(count - 1, problems * columns)
        errors = [np.square(inner @ told - told).sum(axis=0) for inner in weights.inner]
        of_problem = np.stack(errors).reshape(-1, problems, columns).sum(axis=2)
        best = of_problem.argmin(axis=0)
        outer = (weights.outer @ told).reshape(-1, problems, columns)
        predicted[i] = outer[best, np.arange(problems)]
    return predicted


def _centered(known: Array, left_out: Array, *, standardize: bool) -> tuple[Array, Array]:
    """Return both by mean and spread of the known ones; a column that does not vary among these becomes 0.

    No component of m standardized rows exceeds (m - 1) / sqrt(m). One of the element left out that does is brought back
    to it: it stands in a column that nearly only this element uses, and would be divided by the rounding of the others.
    """
    known, left_out = known.astype(np.float64), left_out.astype(np.float64)
    center = known.mean(axis=0)
    if not standardize:
        return known - center, left_out - center
    spread, most = column_spread(known), (len(known) - 1) / np.sqrt(len(known))
    return (known - center) / spread, np.clip((left_out - center) / spread, -most, most)


def scores(values: Array, predicted: Array) -> Array:
    """Return ``(P,)``: R2 where values are one number, else the share of elements whose class is found.

    Where classes tie for the first place, an element counts by the chance that one drawn among them is right.

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
    """Return ``(n, P)``, 1 where the class with the largest prediction is the element's own, else 0 (see scores)."""
    first = predicted >= predicted.max(axis=2, keepdims=True) - TIE
    return np.asarray((values * first).sum(axis=2) / first.sum(axis=2))
