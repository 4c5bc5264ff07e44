"""POSCAR, the structure file of VASP (https://www.vasp.at/wiki/POSCAR), read strictly.

Libraries invent elements for files without symbols (VASP 4), or take them from the comment; these are rejected here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from crysatom.config import Limits
from crysatom.crystals.cif import MAX_CIF_BYTES
from crysatom.crystals.elements import ATOMIC_NUMBER, atomic_number
from crysatom.crystals.quarantine import Reason, Rejection, short

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][+-]?[0-9]+)?|[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE
)
_POTENTIAL = re.compile(r"([^_/]+)(?:_[^/]*)?(?:/.*)?")
"""A symbol, optionally with the name of its potential and, from VASP 6, its hash: ``Na_pv/f474ac0d``."""


def parse_poscar(content: bytes, limits: Limits) -> Arrays:
    """Return lattice ``(3, 3)``, fractional coordinates ``(N, 3)`` and atomic numbers ``(N,)``.

    Velocities and anything else after the positions are ignored.

    Raises:
        Rejection: With the reason.

    """
    if len(content) > MAX_CIF_BYTES:
        raise Rejection(Reason.TOO_LARGE, f"the file has more than {MAX_CIF_BYTES // 1_000_000} MB; is it a POSCAR?")
    lines = _Lines(content.decode(errors="replace").replace("\r\n", "\n").split("\n"))
    lines.next("the comment")
    scale = _scale(lines)
    lattice = np.array([lines.numbers("a cell vector") for _ in range(3)])
    factors = _factors(scale, lattice)
    lattice *= factors
    symbols, counts = _composition(lines)
    if sum(counts) > limits.max_atoms:
        message = f"the cell has {sum(counts)} atoms, more than {limits.max_atoms}"
        raise Rejection(Reason.TOO_LARGE, f"{message}; use its primitive cell, or raise --max-atoms")
    cartesian = _is_cartesian(lines)
    numbers = [atomic_number(symbol) for symbol in symbols]
    per_atom = [symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count)]
    positions = np.array([_position(lines, symbol) for symbol in per_atom]).reshape(-1, 3)
    _require_end(lines, len(per_atom))
    if cartesian:
        positions = _fractional(positions * factors, lattice)
    return lattice, positions, np.repeat(np.array(numbers, dtype=np.int64), counts)


@dataclass
class _Lines:
    """Iterator over the lines of a file."""

    text: list[str]
    taken: int = 0

    def next(self, what: str) -> list[str]:
        """Return the words of the next line, without a comment after ``!`` or ``#``."""
        if self.taken >= len(self.text):
            raise Rejection(Reason.UNREADABLE, f"the file ends after line {self.taken}, before {what}; restore it")
        self.taken += 1
        return re.split("[!#]", self.text[self.taken - 1], maxsplit=1)[0].split()

    def numbers(self, what: str) -> list[float]:
        """Return the three numbers of the next line, which has nothing else."""
        words = self.next(what)
        if len(words) != 3:
            raise self.wrong(f"{len(words)} words where {what} of three numbers was expected")
        return self.floats(words)

    def floats(self, words: list[str]) -> list[float]:
        """Parse numbers in Fortran notation."""
        for word in words:
            if not _NUMBER.fullmatch(word):
                raise self.wrong(f"{short(word)!r} is not a number")
        return [float(word.lower().replace("d", "e")) for word in words]

    def wrong(self, what: str) -> Rejection:
        return Rejection(Reason.UNREADABLE, f"not a POSCAR: line {self.taken}: {what}; correct the file")


def _scale(lines: _Lines) -> list[float]:
    words = lines.next("the scale")
    if len(words) not in {1, 3}:
        raise lines.wrong(f"{len(words)} words where one scale, or one for each axis, was expected")
    scale = lines.floats(words)
    if not np.isfinite(scale).all() or 0 in scale or (len(scale) == 3 and min(scale) < 0):
        raise lines.wrong(f"{' '.join(words)} is not a scale; give a factor, or minus the volume of the cell")
    return scale


def _factors(scale: list[float], lattice: np.ndarray) -> np.ndarray:
    """Return the factors of x, y and z, ``(3,)``; a negative scale is minus the volume of the cell."""
    if scale[0] > 0:
        return np.array(scale * (3 // len(scale)))
    volume = abs(float(np.linalg.det(lattice))) if np.isfinite(lattice).all() else 0.0
    if volume == 0:
        raise Rejection(Reason.ZERO_VOLUME, "the cell vectors have no volume that could be scaled; correct them")
    return np.full(3, np.cbrt(-scale[0] / volume))


def _composition(lines: _Lines) -> tuple[list[str], list[int]]:
    """Return the symbols and their numbers of atoms; VASP wraps long lines of either."""
    symbols: list[str] = []
    while not (words := lines.next("the counts of atoms")) or not words[0].isdecimal():
        if not words or not all(word[0].isalpha() for word in words):
            raise lines.wrong("element symbols, then counts of atoms were expected")
        symbols += [_POTENTIAL.sub(r"\1", word) for word in words]
    if not symbols:
        raise Rejection(
            Reason.UNKNOWN_SPECIES,
            f"line {lines.taken} has counts of atoms and no line before it names the elements (VASP 4); insert a "
            "line of element symbols",
        )
    while len(words) < len(symbols) and (more := lines.next("the counts of atoms")) and more[0].isdecimal():
        words += more
    counts = [int(word) for word in words if re.fullmatch(r"[0-9]{1,9}", word)]
    if len(counts) != len(words) or len(words) != len(symbols):
        raise lines.wrong(f"{len(symbols)} elements and counts of atoms '{short(' '.join(words))}' do not match")
    return symbols, counts


def _is_cartesian(lines: _Lines) -> bool:
    words = lines.next("Direct or Cartesian")
    if words and words[0][0] in "sS":
        words = lines.next("Direct or Cartesian")
    mode = words[0][0].lower() if words else ""
    if mode not in {"c", "k", "d", "f"}:
        raise lines.wrong(f"{short(' '.join(words))!r} where Direct or Cartesian was expected")
    return mode in {"c", "k"}


def _position(lines: _Lines, symbol: str) -> list[float]:
    words = lines.next("the position of every atom")
    if len(words) < 3:
        raise lines.wrong(f"{len(words)} words where the position of an atom ({symbol}) was expected")
    for label in words[3:]:
        if ATOMIC_NUMBER.get(label, 0) not in {0, ATOMIC_NUMBER.get(symbol)} and label not in {"T", "F"}:
            raise lines.wrong(f"the atom is labeled {label}, and by the count of atoms it is {symbol}")
    return lines.floats(words[:3])


def _require_end(lines: _Lines, num_atoms: int) -> None:
    """Raise on a surplus position; velocities come after an empty line or a heading."""
    if lines.taken < len(lines.text):
        words = lines.next("the end")
        if words and _NUMBER.fullmatch(words[0]):
            raise lines.wrong(f"a further position, after those of {num_atoms} atoms")


def _fractional(positions: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    if not np.isfinite(lattice).all() or np.linalg.det(lattice) == 0:
        raise Rejection(Reason.ZERO_VOLUME, "the cell has no volume; correct its vectors")
    fractional: np.ndarray = np.linalg.solve(lattice.T, positions.T).T
    return fractional
