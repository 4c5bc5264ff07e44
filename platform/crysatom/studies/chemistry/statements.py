"""Test the statements that the paper derives from its Figure 5: each becomes a number with a p-value.

A statement says that some distances between named elements are small, absolutely or compared with others. Its number is
a contrast, a weighted sum of distances: smaller values favor the statement. The p-value compares it with the contrasts
of other elements: of all sets of the same size if there are few enough, otherwise of random relabelings.

Source: Mukherjee et al., arXiv 2409.04737, section 4 (RQ-4) and Figure 5; the last statement is from textbooks. The
paper names no distance. Two are used here, and a statement holds if it holds by both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crysatom.studies.significance import ALPHA, TIE, holm

Array = NDArray[Any]

EXACT = 200_000
"""Largest number of sets that are enumerated."""

SUPPORTED, NOT_SUPPORTED, CONTRADICTED, NOT_TESTED = "supported", "not supported", "contradicted", "not tested"

_ALKALI = ("Li", "Na", "K", "Rb", "Cs")
_ALKALINE = ("Mg", "Ca", "Sr", "Ba")
_HALOGENS = ("F", "Cl", "Br", "I")
_NOBLE = ("Ne", "Ar", "Kr", "Xe")
_INNER = tuple("La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Yb Lu Ac Th Pa U Np Pu".split())  # noqa: SIM905 - read as a list


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A claim about distances between elements.

    Attributes:
        text: The claim in words.
        kind: ``together``: the elements of the only part are near each other. ``outside``: the single element of the
            first part is farther from the second part than its members are from each other. ``rather``: the single
            element of the first part is nearer to the second part than to the third.
        parts: Symbols of the elements.
        source: Origin of the claim.

    """

    text: str
    kind: Literal["together", "outside", "rather"]
    parts: tuple[tuple[str, ...], ...]
    source: str = "paper"

    def present(self, symbols: Sequence[str]) -> Statement | None:
        """Return the statement restricted to these elements; None if half or more of a part are missing."""
        kept = tuple(tuple(symbol for symbol in part if symbol in symbols) for part in self.parts)
        enough = all(2 * len(left) > len(part) for left, part in zip(kept, self.parts, strict=True))
        pairs = self.kind != "together" or len(kept[0]) > 1
        return Statement(text=self.text, kind=self.kind, parts=kept, source=self.source) if enough and pairs else None

    def weights(self) -> Array:
        """Return ``(m, m)`` weights of the distances between the m elements, ordered by part; upper triangle."""
        sizes = [len(part) for part in self.parts]
        weights = np.zeros((sum(sizes), sum(sizes)))
        if self.kind == "together":
            return _within(weights, 0)
        if self.kind == "outside":
            weights[0, 1:] = -1 / sizes[1]
            return _within(weights, 1)
        weights[0, 1 : 1 + sizes[1]] = 1 / sizes[1]
        weights[0, 1 + sizes[1] :] = -1 / sizes[2]
        return weights


def _within(weights: Array, start: int) -> Array:
    """Add the weights of the mean distance between the elements from ``start`` on."""
    pairs = np.triu_indices(len(weights) - start, k=1)
    weights[pairs[0] + start, pairs[1] + start] += 1 / len(pairs[0])
    return weights


def _together(text: str, *symbols: str, source: str = "paper") -> Statement:
    return Statement(text=text, kind="together", parts=(symbols,), source=source)


def _outside(text: str, symbol: str, group: tuple[str, ...]) -> Statement:
    return Statement(text=text, kind="outside", parts=((symbol,), group))


STATEMENTS: tuple[Statement, ...] = (
    _together("Alkali metals are a cluster", *_ALKALI),
    _together("Alkaline earth metals are a cluster", *_ALKALINE),
    _outside("Be is outside the alkaline earth metals", "Be", _ALKALINE),
    _together("Be is near Al (diagonal)", "Be", "Al"),
    _together("Reactive nonmetals are a cluster", "C", "N", "O", "F", "Cl", "Br", "I", "P", "Se", "S"),
    _together("O is near P", "O", "P"),
    _together("C is near P (diagonal)", "C", "P"),
    _together("Metalloids are a cluster", "Si", "Ge", "B", "Sb", "Te"),
    _together("B is near Si (diagonal)", "B", "Si"),
    _together("Pb, Sn and Tl are a cluster", "Pb", "Sn", "Tl"),
    _together("Pb is near Sn", "Pb", "Sn"),
    _together("Noble gases but He are a cluster", *_NOBLE),
    _together("Transition metals V to Cu are a cluster", "V", "Cr", "Fe", "Co", "Ni", "Cu"),
    _together("Lanthanides and actinides are a cluster", *_INNER),
    _outside("H is outside the alkali metals", "H", _ALKALI),
    _outside("H is outside the halogens", "H", _HALOGENS),
    Statement(
        text="He is nearer to the alkaline earths than to the noble gases",
        kind="rather",
        parts=(("He",), _ALKALINE, _NOBLE),
    ),
    _together("Li is near Mg (diagonal)", "Li", "Mg", source="textbook"),
)
"""Statements in the order of the paper, with the 20 lanthanides and actinides that it names."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Test of a statement by the distances of a table.

    Attributes:
        statement: The statement, restricted to the elements of the table.
        missing: Symbols that the table lacks.
        contrast: The contrast; smaller values favor the statement.
        at_most: Share of relabelings with a contrast of at most this: the one-sided p-value.
        at_least: Share of relabelings with a contrast of at least this: the p-value of the opposite.
        sets: Number of relabelings.
        exact: Whether these are all sets.

    """

    statement: Statement
    missing: tuple[str, ...]
    contrast: float
    at_most: float
    at_least: float
    sets: int
    exact: bool

    @property
    def p(self) -> float:
        """Two-sided p-value."""
        return min(1.0, 2 * min(self.at_most, self.at_least))

    @property
    def for_it(self) -> bool:
        """Whether the distances favor the statement."""
        return self.at_most < self.at_least


def examine(statement: Statement, symbols: Sequence[str], distance: Array, orders: Array) -> Finding | None:
    """Test a statement; None if too many of its elements are missing.

    Args:
        statement: The claim.
        symbols: M elements.
        distance: ``(M, M)``.
        orders: ``(draws, M)`` relabelings, from :func:`crysatom.studies.significance.relabelings`.

    """
    present = statement.present(symbols)
    if present is None:
        return None
    members = [symbols.index(symbol) for part in present.parts for symbol in part]
    weights = present.weights()
    contrast = float(_contrasts(weights, distance, np.array([members]))[0])
    size, count = len(members), len(symbols)
    exact = statement.kind == "together" and math.comb(count, size) <= EXACT
    if exact:  # all sets; the order of their elements does not matter
        flat = itertools.chain.from_iterable(itertools.combinations(range(count), size))
        others = np.fromiter(flat, dtype=np.int64).reshape(-1, size)
    else:  # random relabelings, and the true labels
        others = np.vstack([members, orders[:, :size]])
    null = _contrasts(weights, distance, others)
    margin = TIE * float(np.abs(distance).max())
    named = {symbol for part in statement.parts for symbol in part}
    return Finding(
        statement=present,
        missing=tuple(sorted(named - set(symbols))),
        contrast=contrast,
        at_most=float(np.mean(null <= contrast + margin)),
        at_least=float(np.mean(null >= contrast - margin)),
        sets=len(null),
        exact=exact,
    )


def _contrasts(weights: Array, distance: Array, members: Array) -> Array:
    """Return ``(S,)`` contrasts of the sets ``(S, m)`` of elements."""
    total = np.zeros(len(members))
    for a, b in zip(*np.nonzero(weights), strict=True):
        total += weights[a, b] * distance[members[:, a], members[:, b]]
    return total


def verdicts(findings: Mapping[str, Sequence[Finding | None]]) -> tuple[list[str], dict[str, list[float]]]:
    """Return the verdict on each statement, and its p-values after Holm's correction by distance (NaN: not tested).

    A statement is supported or contradicted only if all distances agree, each with a two-sided p-value of at most 0.05
    after the correction over all tested statements.

    Args:
        findings: Findings by distance, for the same statements in the same order.

    """
    adjusted = {kind: _adjusted(found) for kind, found in findings.items()}
    columns = [list(zip(found, adjusted[kind], strict=True)) for kind, found in findings.items()]
    return [_verdict(row) for row in zip(*columns, strict=True)], adjusted


def _adjusted(findings: Sequence[Finding | None]) -> list[float]:
    p_values = np.array([math.nan if finding is None else finding.p for finding in findings])
    tested = ~np.isnan(p_values)
    p_values[tested] = holm(p_values[tested])
    return [float(p) for p in p_values]


def _verdict(row: Sequence[tuple[Finding | None, float]]) -> str:
    sides = set()
    for finding, p in row:
        if finding is None:
            return NOT_TESTED
        sides.add((SUPPORTED if finding.for_it else CONTRADICTED) if p <= ALPHA else NOT_SUPPORTED)
    return sides.pop() if len(sides) == 1 else NOT_SUPPORTED
