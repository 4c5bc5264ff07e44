"""What the paper reads off its Figure 5, statement by statement, as numbers with a chance of their own.

Each statement says that some distances between named elements are small, as such or beside others. The number is a
contrast, weighted distances summed up: the smaller, the more the statement holds. Its chance is that of the same number
when the names are given to other elements: to all sets of that size where these can be counted, else to as many
relabelings as asked for.

Source: Mukherjee et al., arXiv 2409.04737, section 4 (RQ-4) and Figure 5; the last statement is a textbook's. The paper
names no distance. Two are used here, and a statement holds if it holds by both.
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
"""Sets of elements up to which all are counted."""

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
        text: As people say it.
        kind: ``together``: the elements of the one part are near each other. ``outside``: the first, a single element,
            is farther from the second part than its members are from each other. ``rather``: the first, a single
            element, is nearer to the second part than to the third.
        parts: Symbols.
        source: Who says so.

    """

    text: str
    kind: Literal["together", "outside", "rather"]
    parts: tuple[tuple[str, ...], ...]
    source: str = "paper"

    def present(self, symbols: Sequence[str]) -> Statement | None:
        """Return the statement on the elements that a table has; None if half of a part or more are missing."""
        kept = tuple(tuple(symbol for symbol in part if symbol in symbols) for part in self.parts)
        enough = all(2 * len(left) > len(part) for left, part in zip(kept, self.parts, strict=True))
        pairs = self.kind != "together" or len(kept[0]) > 1
        return Statement(text=self.text, kind=self.kind, parts=kept, source=self.source) if enough and pairs else None

    def weights(self) -> Array:
        """Return ``(m, m)`` weights of the distances between the m elements, part after part; upper triangle."""
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
    """Add the mean distance between the elements from ``start`` on."""
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
"""In the order of the text. The 20 lanthanides and actinides are those that it names."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a table's distances say about a statement.

    Attributes:
        statement: On the elements that are there.
        missing: Symbols that are not.
        contrast: The number; the smaller, the more it holds.
        at_most: Share of relabelings whose number is at most that: the one-sided chance.
        at_least: Share of relabelings whose number is at least that: the chance in the opposite direction.
        sets: Relabelings that were counted.
        exact: Whether these are all there are.

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
        """Two-sided."""
        return min(1.0, 2 * min(self.at_most, self.at_least))

    @property
    def for_it(self) -> bool:
        """Whether the distances lean to the statement."""
        return self.at_most < self.at_least


def examine(statement: Statement, symbols: Sequence[str], distance: Array, orders: Array) -> Finding | None:
    """Measure a statement; None if too few of its elements are there.

    Args:
        statement: The claim.
        symbols: M elements.
        distance: ``(M, M)``.
        orders: ``(draws, M)`` relabelings, as of :func:`crysatom.studies.significance.relabelings`.

    """
    present = statement.present(symbols)
    if present is None:
        return None
    members = [symbols.index(symbol) for part in present.parts for symbol in part]
    weights = present.weights()
    contrast = float(_contrasts(weights, distance, np.array([members]))[0])
    size, count = len(members), len(symbols)
    exact = statement.kind == "together" and math.comb(count, size) <= EXACT
    if exact:  # of a set without order, all
        flat = itertools.chain.from_iterable(itertools.combinations(range(count), size))
        others = np.fromiter(flat, dtype=np.int64).reshape(-1, size)
    else:  # as drawn, and the true one as one of them
        others = np.vstack([members, orders[:, :size]])
    null = _contrasts(weights, distance, others)
    margin = TIE * float(np.abs(distance).max())
    said = {symbol for part in statement.parts for symbol in part}
    return Finding(
        statement=present,
        missing=tuple(sorted(said - set(symbols))),
        contrast=contrast,
        at_most=float(np.mean(null <= contrast + margin)),
        at_least=float(np.mean(null >= contrast - margin)),
        sets=len(null),
        exact=exact,
    )


def _contrasts(weights: Array, distance: Array, members: Array) -> Array:
    """Return ``(S,)`` weighted sums of distances for ``(S, m)`` members."""
    total = np.zeros(len(members))
    for a, b in zip(*np.nonzero(weights), strict=True):
        total += weights[a, b] * distance[members[:, a], members[:, b]]
    return total


def verdicts(findings: Mapping[str, Sequence[Finding | None]]) -> tuple[list[str], dict[str, list[float]]]:
    """Return the verdict on each statement, and its p-values after Holm's correction by distance (NaN: not tested).

    A statement is supported, or contradicted, if it is by every distance: two-sided p-value at most 0.05 after the
    correction over all statements that were tested.

    Args:
        findings: By distance, each of the same statements in the same order.

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
