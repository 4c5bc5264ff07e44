"""How long an element's bonds are and how much space its atoms take, by small linear models with ridges.

Shapes: M elements; Z = 119, so that arrays are indexed by atomic number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from crysatom.vectors.structure.keyed import Keyed, real, starts
from crysatom.vectors.structure.tally import ELEMENTS, GROUPS, MOST_BONDS, Tally

BOND_RIDGE, PAIR_WEIGHT = 1.0, 5.0
VOLUME_RIDGE, VOLUME_PAIR_RIDGE = 0.3, 0.5
SPREAD_WEIGHT = 1.0
"""Weight of the mean over elements in an element's spread, in crystals."""
COORDINATION_WEIGHT = 10.0
"""Weight of the mean histogram of coordination numbers in an element's, in crystals."""
SPREAD_FLOOR = 1e-4
"""Added to a variance of logarithms before its logarithm is taken."""
MOST_ELEMENTS = 6
"""Compounds with more elements do not enter the pair terms of the volume."""
COORDINATION_COMPONENTS, PAIR_COMPONENTS = 5, 8

_SHELLS = MOST_BONDS + 1

Array = NDArray[Any]


class Fit(NamedTuple):
    """What a linear model of logarithms says of elements.

    Attributes:
        coefficient: ``(Z,)`` effect of the element.
        spread: ``(Z,)`` variance that the model does not explain.
        pairs: ``(Z, Z)`` symmetric, further effect of two elements together.
        explained: Share of the variance of the logarithms that the elements explain, without pairs.

    """

    coefficient: Array
    spread: Array
    pairs: Array
    explained: float


def geometry_columns(counts: Tally, numbers: Array) -> Array:
    """Return ``(M, 25)`` columns of elements, fewer for fewer elements.

    Four standardized scalars (bond length, logarithm of its spread, volume, logarithm of its spread), five principal
    components of coordination numbers, and eight components each of the pair effects on bond lengths and volumes.

    Args:
        counts: Counts over crystals.
        numbers: ``(M,)`` atomic numbers.

    """
    bonds, volumes = bond_fit(counts.bonds), volume_fit(counts.compounds)
    scalars = [bonds.coefficient, _log_spread(bonds), volumes.coefficient, _log_spread(volumes)]
    blocks = [
        np.stack([standardized(scalar[numbers]) for scalar in scalars], axis=1),
        leading_components(np.sqrt(coordination_histogram(counts.coordination)[numbers]), COORDINATION_COMPONENTS),
        *(leading_eigenvectors(fit.pairs[np.ix_(numbers, numbers)], PAIR_COMPONENTS) for fit in (bonds, volumes)),
    ]
    return np.concatenate(blocks, axis=1)


def _log_spread(fit: Fit) -> Array:
    return np.log(fit.spread + SPREAD_FLOOR)


def bond_fit(bonds: Keyed) -> Fit:
    """Fit ln d = mu + b_i + b_j + c(n_i) + c(n_j), with elements i, j and coordination numbers n_i, n_j.

    A bond weighs 1 / (n_i atoms), a ridge of 1 draws b and c to zero. The effect of a pair is its mean residual,
    shrunk by W / (W + 5) where W is the weight of the pair: five crystals' worth of zeros.
    """
    label, sums = over_groups(bonds)
    label, sums = label[sums[:, 0] > 0], sums[sums[:, 0] > 0]
    weight, one, two = sums.T
    pair, around = np.divmod(label, _SHELLS**2)
    i, j = np.divmod(pair, ELEMENTS)
    n_i, n_j = np.divmod(around, _SHELLS)
    mean, square = one / weight, two / weight
    mu = np.average(mean, weights=weight) if len(weight) else 0.0
    terms = (i, j, ELEMENTS + n_i, ELEMENTS + n_j)
    rows = np.tile(np.arange(len(i)), len(terms))
    design = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, np.concatenate(terms))), shape=(len(i), ELEMENTS + _SHELLS)
    )  # a bond between equal elements has an entry of 2
    effects = ridge(design, mean - mu, weight, BOND_RIDGE)
    residual = mean - mu - sum(effects[term] for term in terms)
    within = np.maximum(square - mean**2, 0)
    unexplained = within + residual**2
    total, shifted = np.zeros((2, ELEMENTS, ELEMENTS))
    np.add.at(total, (i, j), weight)
    np.add.at(shifted, (i, j), weight * residual)
    return Fit(
        coefficient=effects[:ELEMENTS],
        spread=shrunk_mean(i, weight, unexplained),
        pairs=(shifted + shifted.T) / (total + total.T + PAIR_WEIGHT),
        explained=explained(within + (mean - mu) ** 2, unexplained, weight),
    )


def volume_fit(compounds: Keyed) -> Fit:
    """Fit ln(V/n) = mu + sum_i x_i v_i, then its residual = sum_(i<j) x_i x_j v_ij, with fractions x of the elements.

    Crystals weigh 1; ridges of 0.3 and 0.5 draw v_i and v_ij to zero.
    """
    first = starts(compounds.hashes)
    compound = np.repeat(np.arange(len(first)), np.diff([*first, len(compounds.hashes)]))
    crystals = compounds.sums[first, 0].astype(np.float64)
    one, two = real(compounds.sums[first, 1:]).T
    mean = one / crystals
    element, atoms = np.divmod(compounds.labels // GROUPS, 2**16)
    share = atoms / np.bincount(compound, atoms)[compound]
    mu = np.average(mean, weights=crystals)
    design = sparse.csr_matrix((share, (compound, element)), shape=(len(first), ELEMENTS))
    effect = ridge(design, mean - mu, crystals, VOLUME_RIDGE)
    residual = mean - mu - design @ effect
    pairs, row, product = _pairs_of(compound, element, share)
    different, column = np.unique(pairs, return_inverse=True)
    terms = sparse.csr_matrix((product, (row, column)), shape=(len(first), len(different)))
    pair_effect = ridge(terms, residual, crystals, VOLUME_PAIR_RIDGE)
    within = np.maximum(two / crystals - mean**2, 0)
    unexplained = within + (residual - terms @ pair_effect) ** 2
    matrix = np.zeros((ELEMENTS, ELEMENTS))
    matrix[np.divmod(different, ELEMENTS)] = pair_effect
    return Fit(
        coefficient=effect,
        spread=shrunk_mean(element, share * crystals[compound], unexplained[compound]),
        pairs=matrix + matrix.T,
        explained=explained(within + (mean - mu) ** 2, within + residual**2, crystals),
    )


def _pairs_of(compound: Array, element: Array, share: Array) -> tuple[Array, Array, Array]:
    """Return the pair of elements, the compound and x_i x_j, of each two elements of a compound; rows are in order."""
    first = np.flatnonzero(np.diff(compound, prepend=-1))
    size = np.diff([*first, len(compound)])
    pairs, rows, products = [], [], []
    for number in range(2, MOST_ELEMENTS + 1):
        start = first[size == number]
        for a in range(number):
            for b in range(a + 1, number):
                pairs.append(element[start + a] * ELEMENTS + element[start + b])
                rows.append(compound[start])
                products.append(share[start + a] * share[start + b])
    return np.concatenate(pairs), np.concatenate(rows), np.concatenate(products)


def coordination_histogram(coordination: Keyed) -> Array:
    """Return ``(Z, 13)`` shares of coordination numbers 0 to 12, drawn to the mean as by 10 crystals."""
    label, sums = over_groups(coordination)
    histogram = np.zeros((ELEMENTS, _SHELLS))
    histogram[np.divmod(label, _SHELLS)] = sums[:, 0]
    overall = histogram.sum(axis=0) / max(histogram.sum(), np.finfo(float).tiny)
    crystals = histogram.sum(axis=1, keepdims=True)
    return np.asarray((histogram + COORDINATION_WEIGHT * overall) / (crystals + COORDINATION_WEIGHT))


def over_groups(counts: Keyed) -> tuple[Array, Array]:
    """Return labels without groups, and their real sums ``(n, C)``."""
    label = counts.labels // GROUPS
    first = starts(label)
    return label[first], real(np.add.reduceat(counts.sums, first, axis=0) if len(first) else counts.sums)


def ridge(design: Any, target: Array, weight: Array, penalty: float) -> Array:
    """Return the coefficients that minimize sum w (y - X b)^2 + penalty |b|^2, for sparse X."""
    weighted = sparse.diags_array(weight) @ design
    normal = (design.T @ weighted + penalty * sparse.eye_array(design.shape[1])).tocsr()
    found, failed = cg(normal, weighted.T @ target, rtol=1e-12, maxiter=10_000)
    assert not failed
    return np.asarray(found)


def explained(before: Array, after: Array, weight: Array) -> float:
    """Return one minus the ratio of weighted sums of squared deviations; 1 if there are none to explain."""
    total = float((weight * before).sum())
    return 1 - float((weight * after).sum()) / total if total > 0 else 1.0


def shrunk_mean(index: Array, weight: Array, values: Array) -> Array:
    """Return ``(Z,)`` weighted means of values by index, drawn to the mean of all as by a weight of 1."""
    overall = float((weight * values).sum() / max(weight.sum(), np.finfo(float).tiny))
    total = np.bincount(index, weight, minlength=ELEMENTS)
    return np.asarray(
        (np.bincount(index, weight * values, minlength=ELEMENTS) + SPREAD_WEIGHT * overall) / (total + SPREAD_WEIGHT)
    )


def standardized(values: Array) -> Array:
    """Return values minus their mean, over their standard deviation; zeros if all are equal."""
    spread = values.std()
    return np.asarray((values - values.mean()) / spread if spread > 0 else np.zeros_like(values))


def leading_components(rows: Array, number: int) -> Array:
    """Return principal components of rows; the first has unit variance, and the others are in proportion to it."""
    left, size, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return np.asarray(left[:, :number] * size[:number] / max(size[0], np.finfo(float).tiny) * np.sqrt(len(rows)))


def leading_eigenvectors(matrix: Array, number: int) -> Array:
    """Return the eigenvectors of the largest |lambda|, times sqrt(|lambda / lambda_1| M)."""
    values, vectors = np.linalg.eigh(matrix)
    kept = np.argsort(-np.abs(values), kind="stable")[:number]
    scale = np.abs(values[kept]) / max(float(np.abs(values).max()), np.finfo(float).tiny)
    return np.asarray(vectors[:, kept] * np.sqrt(scale * len(matrix)))
