"""Which elements replace each other: counts of elements in equal contexts, as positive pointwise mutual information.

Hautier, Fischer, Ehrlacher, Jain & Ceder, Inorg. Chem. 50, 656 (2011) learn from pairs of compounds of one prototype
which ions replace each other. Here a context is what is left of a crystal without an element; elements in equal
contexts replace each other.

Shapes: M elements, R rows of contexts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.vectors.structure.contexts import KINDS, formula_contexts
from crysatom.vectors.structure.keyed import Keyed, starts
from crysatom.vectors.structure.tally import ELEMENTS, GROUPS, Tally

SMOOTHING = 0.05
"""Share of the counts expected by chance that is added to the counts: limits the information of rare elements."""

FLATTENING = 0.75
"""Power of the frequencies of contexts (Levy, Goldberg & Dagan, TACL 3, 211 (2015), of word vectors)."""

SMALLEST = 1e-6
"""Eigenvalues below this are dropped, with all negative ones."""

_ROWS = 65_536
"""Contexts that are multiplied at a time; fixed, so that sums always have the same order."""

Array = NDArray[Any]


def substitution_columns(counts: Tally, numbers: Array) -> Array:
    """Return ``(M, K)`` columns; inner products of rows approximate the mean information of the five contexts.

    An element that shares no context with another has a row of zeros.

    Args:
        counts: Counts over crystals.
        numbers: ``(M,)`` atomic numbers.

    """
    information = [positive_information(shared[np.ix_(numbers, numbers)]) for shared in shared_contexts(counts)]
    return factors(np.mean(information, axis=0))


def shared_contexts(counts: Tally) -> list[Array]:
    """Return a ``(119, 119)`` matrix of :func:`shared` for each kind of context, formulas last."""
    found = []
    number = counts.contexts.labels // (ELEMENTS * GROUPS)
    for kind, name in enumerate(KINDS):
        rows = counts.contexts.at(number == kind)
        context, element, crystals = _pairs(rows, rows.labels // GROUPS % ELEMENTS)
        found.append(
            shared(context, element, np.log1p(crystals) if name.endswith("prototype") else np.ones(len(element)))
        )
    compounds = counts.compounds
    compound = np.cumsum(np.bincount(starts(compounds.hashes), minlength=len(compounds.hashes))) - 1
    element, atoms = np.divmod(compounds.labels // GROUPS, 2**16)
    rows = Keyed.of(formula_contexts(compound, element, atoms), element, compounds.sums[:, :1])
    context, element, _ = _pairs(rows, rows.labels)
    return [*found, shared(context, element, np.ones(len(element)))]


def _pairs(rows: Keyed, element: Array) -> tuple[Array, Array, Array]:
    """Return the index of the context, the element, and the crystals, of each context and element."""
    first = starts(rows.hashes, element)
    crystals = np.add.reduceat(rows.sums[:, 0], first) if len(first) else np.zeros(0, np.int64)
    context = np.zeros(len(first), np.int64)
    new = starts(rows.hashes[first])
    context[new[1:]] = 1
    return np.cumsum(context), element[first], crystals


def shared(context: Array, element: Array, count: Array) -> Array:
    """Return the ``(119, 119)`` matrix S = N^T diag(1/n) N of contexts that at least two elements have.

    N_ke is the count of element e in context k, and n_k the sum of its row: a context with n elements spreads n counts
    over n^2 pairs.

    Args:
        context: ``(R,)`` index of the context, ascending from 0.
        element: ``(R,)`` atomic number; each pair of context and element occurs once.
        count: ``(R,)`` entry of N.

    """
    elements_of = np.bincount(context)
    several = elements_of[context] >= 2
    context, element, count = context[several], element[several], count[several]
    context = np.cumsum(np.bincount(starts(context), minlength=len(context))) - 1 if len(context) else context
    sums = np.zeros((ELEMENTS, ELEMENTS))
    number = int(context.max(initial=-1)) + 1
    for start in range(0, number, _ROWS):
        these = slice(*np.searchsorted(context, (start, start + _ROWS)))
        rows = np.zeros((min(_ROWS, number - start), ELEMENTS))
        rows[context[these] - start, element[these]] = count[these]
        sums += rows.T @ (rows / rows.sum(axis=1, keepdims=True))
    return sums


def positive_information(shared_counts: Array) -> Array:
    """Return the ``(M, M)`` positive pointwise mutual information of elements in contexts, symmetric.

        max(0, sym ln((S_ij + 0.05 s_i s_j / s) / (s_i q_j))),  s_i = sum_j S_ij,  s = sum_i s_i,  q_j ~ s_j^0.75

    Church & Hanks, Comput. Linguist. 16, 22 (1990); the positive part: Bullinaria & Levy, Behav. Res. Methods 39, 510
    (2007). Rows without counts are zero.

    """
    totals = shared_counts.sum(axis=1)
    result = np.zeros_like(shared_counts)
    seen = np.flatnonzero(totals)
    if not len(seen):
        return result
    s = totals[seen]
    q = s**FLATTENING / (s**FLATTENING).sum()
    smoothed = shared_counts[np.ix_(seen, seen)] + SMOOTHING * np.outer(s, s) / s.sum()
    information = np.log(smoothed / np.outer(s, q))
    result[np.ix_(seen, seen)] = np.maximum(0, (information + information.T) / 2)
    return result


def factors(matrix: Array) -> Array:
    """Return ``(M, K)`` U sqrt(lambda) of a symmetric matrix, its K positive eigenvalues in descending order."""
    values, vectors = np.linalg.eigh(matrix)
    kept = np.flatnonzero(values > SMALLEST)[::-1]
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))
