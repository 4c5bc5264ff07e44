"""Choose the power of a table's spectrum by the errors of a model that takes seconds.

The model is kernel ridge regression on the mean vector of a crystal's atoms: it sees the composition and no structure.
Each training crystal is predicted from the other training crystals, each validation crystal from all of them. Training
crystals count because validation crystals alone are often too few to compare powers.

The kernel is wide and its penalty small, both the same for all powers: like a network of given size and epochs, it
cannot make up for a spectrum by its own smoothness. With width and penalty tuned for each power it can, and then its
choices agree less with those of CGCNN (docs/vectors.md, "The spectrum of a table").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysatom.vectors.table import AtomVectors

POWERS = (0.0, -0.5, -1.0, -2.0, -3.0)
"""Powers to choose from, from plain to steep. Flatter spectra made CGCNN worse wherever they were tried."""

MOST = 2000
"""Number of training and of validation crystals that the choice uses at most, for some seconds of one core; others are
left out at random."""

WIDTH = 8.0
"""Squared length of the kernel, in units of the median squared distance between training crystals."""

PENALTY = 5e-4
"""Ridge penalty, in units of the kernel of a crystal with itself."""

TOLERANCE = 0.005
"""Relative differences of errors below this one do not decide: the power nearest to 0 is chosen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compositions:
    """Compositions and targets of B crystals.

    Attributes:
        shares: ``(B, 119)``, share of each element among the atoms, by atomic number.
        target: ``(B,)``, property in its unit.

    """

    shares: NDArray[np.float64]
    target: NDArray[np.float64]


def sample(crystals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return at most :data:`MOST` of some crystals, in their order; always the same."""
    kept = np.sort(np.random.default_rng(0).permutation(len(crystals))[:MOST])
    return crystals[kept]


def errors_by_power(
    read: Callable[[float], AtomVectors], train: Compositions, val: Compositions
) -> Mapping[float, float]:
    """Return the error of each power of :data:`POWERS`, relative to predicting the median of the training crystals.

    Args:
        read: Returns the vectors as a predictor reads them, for a power of the spectrum.
        train: Training crystals.
        val: Validation crystals.

    """
    plain = np.abs(np.concatenate([train.target, val.target]) - np.median(train.target)).mean()
    return {power: float(_error(read(power), train, val) / plain) if plain > 0 else 1.0 for power in POWERS}


def best_power(errors: Mapping[float, float]) -> float:
    """Return the power with the least error; of those that are as good, the one nearest to 0."""
    least = min(errors.values())
    return min((p for p, e in errors.items() if e <= least * (1 + TOLERANCE)), key=abs)


def _error(table: AtomVectors, train: Compositions, val: Compositions) -> float:
    """Return the mean absolute error of the training crystals, each left out, and of the validation crystals.

    With the inverse P of the kernel matrix and the weights w = P y, the error of crystal i predicted from the others is
    w_i / P_ii (Rasmussen, Williams, Gaussian Processes for Machine Learning (2006), eq. 5.12).
    """
    rows = np.zeros((train.shares.shape[1], table.dim))
    rows[table.atomic_numbers] = table.vectors
    known, new = train.shares @ rows, val.shares @ rows
    between = _squares(known, known)
    unit = WIDTH * (np.median(between) or 1.0)
    mean = train.target.mean()
    inverse = np.linalg.inv(np.exp(-between / unit) + PENALTY * np.eye(len(known)))
    weights = inverse @ (train.target - mean)
    left_out = weights / np.diag(inverse)
    error = mean + np.exp(-_squares(new, known) / unit) @ weights - val.target
    return float(np.abs(np.concatenate([left_out, error])).mean())


def _squares(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared distances of rows, ``(len(a), len(b))``."""
    return np.asarray(np.clip((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0, None))
