"""Symmetry operations: exact integers and fractions, and the check that they form a group."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from crysatom.crystals.cif.text import MAGNETIC_CENTERINGS, MAGNETIC_OPERATIONS, NULL, OPERATION_TAGS, Block
from crysatom.crystals.quarantine import Reason, Rejection, short

MOST_OPERATIONS = 768
"""Limit on listed operations: four times those of the largest space group."""

METRIC_TOLERANCE = 0.02
"""Tolerance of lengths (relative) and angles (radians); measured cells obey their symmetry to about a thousandth."""

_TERM = re.compile(r"([+-]?)(?:(?:(\d{1,2})\*?)?([xyz])|(\d{1,3})/(\d{1,3})|(\d{1,3}\.?\d{0,12}|\.\d{1,12}))", re.ASCII)
_LONGEST_OPERATION = 100
"""Limit in characters; 'x-y+1/3, -y+2/3, z+1/6' has 24."""

LARGEST_DENOMINATOR = 24
"""For translations. Space groups have no larger one; symmetry found within a tolerance gives e.g. 123/662."""

_DENOMINATORS = (2, 3, 4, 6, 8, 12)
"""Denominators of translations of space groups, to which decimals such as 0.3333 are converted."""


@dataclass(frozen=True, eq=False)
class Operations:
    """A group of operations ``x -> R x + t``.

    Attributes:
        rotations: ``(n, 3, 3)`` int64, R, acting on columns of fractional coordinates.
        translations: ``(n, 3)`` float64, t.

    """

    rotations: NDArray[np.int64]
    translations: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rotations)

    def fit(self, lattice: NDArray[np.float64]) -> bool:
        """Return whether all operations preserve lengths and angles of a cell, ``(3, 3)`` with rows a, b, c."""
        metric = lattice @ lattice.T
        turned = np.einsum("nki,kl,nlj->nij", self.rotations, metric, self.rotations)
        lengths = np.sqrt(np.diag(metric))
        return bool((np.abs(turned - metric) <= 2 * METRIC_TOLERANCE * np.outer(lengths, lengths)).all())


IDENTITY = Operations(np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)))


def listed_operations(block: Block) -> Operations | None:
    """Return the operations that a CIF lists; None if it lists none.

    Raises:
        Rejection: If an operation is invalid, they do not form a group, or two lists differ.

    """
    found = {tag: values for tag in OPERATION_TAGS if (values := _given(block, tag)) is not None}
    groups = {tag: parse_operations(values) for tag, values in found.items()}
    if magnetic := _given(block, MAGNETIC_OPERATIONS):
        groups[MAGNETIC_OPERATIONS] = _magnetic(magnetic, _given(block, MAGNETIC_CENTERINGS) or ("x,y,z,+1",))
    if len(groups) > 1 and len({_as_set(group) for group in groups.values()}) > 1:
        raise Rejection(Reason.CONTRADICTION, f"{' and '.join(groups)} list different operations; keep the right list")
    return next(iter(groups.values()), None)


def _given(block: Block, tag: str) -> tuple[str, ...] | None:
    column = block.column(tag)
    if column is None or all(value in NULL for value in column.values):
        return None
    return tuple(column.values)


def _magnetic(operations: tuple[str, ...], centerings: tuple[str, ...]) -> Operations:
    """Return the operations of a magnetic space group on positions, without time reversal, the fourth component."""
    plain = [_exact(text, parts=4) for text in operations]
    shifts = [_exact(text, parts=4)[1] for text in centerings]
    shifted = [(r, tuple(a + b for a, b in zip(t, shift, strict=True))) for r, t in plain for shift in shifts]
    return _group(shifted)


def _as_set(group: Operations) -> frozenset[tuple[int, ...]]:
    shifts = np.rint(group.translations * 5040).astype(np.int64)
    return frozenset(map(tuple, np.hstack([group.rotations.reshape(-1, 9), shifts % 5040]).tolist()))


@lru_cache(maxsize=4096)
def parse_operations(texts: tuple[str, ...]) -> Operations:
    """Return the group of operations written as ``x+1/2, -y, z``.

    Raises:
        Rejection: If one cannot be read or is not a rotation of a lattice, or if they do not form a group.

    """
    return _group([_exact(text) for text in texts])


Exact = tuple[tuple[int, ...], tuple[Fraction, ...]]


def _exact(text: str, parts: int = 3) -> Exact:
    """Parse an operation: the nine integers of R, row by row, and t in [0, 1)."""
    components = text.lower().replace(" ", "").replace("\t", "").replace("\n", "").split(",")
    if parts == 4 and len(components) == 4 and components.pop() not in {"+1", "-1", "1"}:
        components = []
    if len(components) != 3 or len(text) > _LONGEST_OPERATION:
        raise _no_operation(text)
    rows = [_component(component, text) for component in components]
    rotation = tuple(coefficient for row, _ in rows for coefficient in row)
    if abs(round(float(np.linalg.det(np.array(rotation).reshape(3, 3))))) != 1:
        raise _no_operation(text)
    if any(shift.denominator > LARGEST_DENOMINATOR for _, shift in rows):
        message = (
            f"{short(text)!r} has a translation that no space group has; was the symmetry found within a tolerance? "
            "Write the file again with a smaller tolerance, or with all atoms (P 1)"
        )
        raise Rejection(Reason.SYMMETRY, message)
    return rotation, tuple(shift % 1 for _, shift in rows)


def _component(component: str, text: str) -> tuple[list[int], Fraction]:
    row, shift, position = [0, 0, 0], Fraction(0), 0
    while position < len(component):
        match = _TERM.match(component, position)
        if match is None or (position and not match[1]):
            raise _no_operation(text)
        sign = -1 if match[1] == "-" else 1
        if match[3]:
            row["xyz".index(match[3])] += sign * int(match[2] or 1)
        elif match[4]:
            shift += sign * _fraction(int(match[4]), int(match[5]), text)
        else:
            shift += sign * _decimal(match[6])
        position = match.end()
    return row, shift


def _fraction(numerator: int, denominator: int, text: str) -> Fraction:
    if denominator == 0:
        raise _no_operation(text)
    return Fraction(numerator, denominator)


def _decimal(digits: str) -> Fraction:
    """Return the fraction of a space group that rounds to a decimal, or else the decimal."""
    exact = Fraction(digits if digits[-1] != "." else digits[:-1])
    last_digit = Fraction(1, 10 ** len(digits.partition(".")[2]))
    near = [Fraction(round(exact * d), d) for d in _DENOMINATORS]
    close = [f for f in near if abs(f - exact) < last_digit]
    return min(close, key=lambda f: abs(f - exact), default=exact)


def _no_operation(text: str) -> Rejection:
    message = f"{short(text)!r} is not a symmetry operation such as 'x+1/2, -y, z'; correct it, or write the file again"
    return Rejection(Reason.SYMMETRY, message)


def _group(operations: list[Exact]) -> Operations:
    """Return distinct operations as arrays, the identity first.

    Raises:
        Rejection: Unless they are closed: a finite set that is closed under products is a group.

    """
    identity = ((1, 0, 0, 0, 1, 0, 0, 0, 1), (Fraction(0),) * 3)
    distinct = list(dict.fromkeys(operations))
    if len(distinct) > MOST_OPERATIONS:
        raise Rejection(Reason.TOO_LARGE, f"{len(distinct)} symmetry operations are more than {MOST_OPERATIONS}")
    denominator = math.lcm(*(shift.denominator for _, shifts in distinct for shift in shifts))
    if identity not in distinct or not _is_closed(distinct, denominator):
        message = (
            f"the {len(distinct)} symmetry operations do not form a group, so some are wrong or missing; "
            "write the file again from its source"
        )
        raise Rejection(Reason.SYMMETRY, message)
    distinct.sort(key=lambda operation: operation != identity)
    rotations = np.array([r for r, _ in distinct], dtype=np.int64).reshape(-1, 3, 3)
    return Operations(rotations, np.array([[float(s) for s in t] for _, t in distinct]).reshape(-1, 3))


def _is_closed(operations: list[Exact], denominator: int) -> bool:
    r = np.array([rotation for rotation, _ in operations], dtype=np.int64).reshape(-1, 3, 3)
    t = np.array([[int(s * denominator) for s in shifts] for _, shifts in operations], dtype=np.int64)
    products = np.einsum("iab,jbc->ijac", r, r).reshape(-1, 9)
    shifts = (np.einsum("iab,jb->ija", r, t) + t[:, None]).reshape(-1, 3) % denominator
    keys = _hashes(np.hstack([r.reshape(-1, 9), t % denominator]))
    return bool(np.isin(_hashes(np.hstack([products, shifts])), keys).all())


def _hashes(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a hash of each row of 12 integers; collisions are improbable."""
    weights = np.random.default_rng(0).integers(1, 2**62, size=12, dtype=np.int64) | 1
    return rows @ weights  # overflow is harmless
