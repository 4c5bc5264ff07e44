"""The sites that a CIF lists: elements and positions; nothing is guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysatom.crystals.cif.numbers import number
from crysatom.crystals.cif.text import COORDINATES, NULL, Block
from crysatom.crystals.elements import ATOMIC_NUMBER, atomic_number
from crysatom.crystals.quarantine import Reason, Rejection, short

_SYMBOL = re.compile(
    r"(?:\d{1,3})?(?P<element>[A-Za-z]{1,2})(?:\d{0,2}|(?:\d+\.?\d*)?[+-]\d*\.?\d*|[+-]{1,4}|va|val)", re.ASCII
)
"""Type symbol: isotope (2H), element, charge (3+, +3, 0+), or valence form factors of International Tables (Cval)."""

_LETTERS = re.compile(r"[A-Za-z]*", re.ASCII)
_IMPLICIT_HYDROGENS = re.compile(r"^(Wat|wat|WAT|O-H|OH|HOH|H2O)")
_HEAVY_HYDROGEN = frozenset({"D", "T"})


@dataclass(frozen=True, eq=False)
class Sites:
    """The M sites of a CIF.

    Attributes:
        labels: Names of the sites in messages.
        atomic_numbers: ``(M,)`` int64.
        frac_coords: ``(M, 3)`` float64.
        last_digits: ``(M, 3)`` float64, unit of each coordinate's last decimal; 0 for a whole number.
        unknown_occupancy: Whether an occupancy is ``?``, so that formula and Z must confirm that it is 1.
        heavy_labels: Whether only a label identifies a site as deuterium or tritium.
        notes: Omissions.

    """

    labels: list[str]
    atomic_numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    last_digits: NDArray[np.float64]
    unknown_occupancy: bool
    heavy_labels: bool
    notes: tuple[str, ...]


def read_sites(block: Block, max_atoms: int) -> Sites:
    """Return the sites of a block.

    Raises:
        Rejection: If there are too many, or one is not exactly one whole atom of one element at one position.

    """
    table = _SiteTable(block)
    if table.length > max_atoms:
        message = (
            f"the CIF lists {table.length} sites, more than {max_atoms} atoms; use a primitive cell, or "
            "raise --max-atoms"
        )
        raise Rejection(Reason.TOO_LARGE, message)
    dummies = [row for row, flag in enumerate(table.texts("calc_flag")) if flag.lower() == "dum"]
    rows = [row for row in range(table.length) if row not in dummies]
    if not rows:
        raise Rejection(Reason.EMPTY, "no atoms: the CIF lists only dummy atoms; add the atoms")
    symbols = table.symbols(rows)
    coordinates = np.array([table.coordinates(row) for row in rows])
    table.require_no_alternatives(rows)
    occupancies = [table.occupancy(row) for row in rows]
    labels = [table.texts("label")[row] for row in rows]
    return Sites(
        labels=[label if label not in NULL else f"{row + 1}" for row, label in zip(rows, labels, strict=True)],
        atomic_numbers=np.array([z for z, _ in symbols], dtype=np.int64),
        frac_coords=coordinates[:, :, 0],
        last_digits=coordinates[:, :, 1],
        unknown_occupancy=not all(occupancies),
        heavy_labels=any(heavy for _, heavy in symbols),
        notes=(f"dummy atoms (calc_flag dum) were left out: {len(dummies)}",) if dummies else (),
    )


class _SiteTable:
    """Columns of the loop with the coordinates."""

    def __init__(self, block: Block) -> None:
        columns = [block.column(name) for name in COORDINATES]
        missing = [name for name, column in zip(COORDINATES, columns, strict=True) if column is None]
        if missing:
            raise Rejection(Reason.EMPTY, f"no atoms: the CIF lacks {', '.join(missing)}; export it with coordinates")
        self._block = block
        self._loop = columns[0].loop if columns[0] else None
        self.length = len(columns[0].values) if columns[0] else 0
        self._coordinates = [self._values(name) for name in COORDINATES]
        if not self.length:
            raise Rejection(Reason.EMPTY, "no atoms: the CIF lists none; export it with fractional coordinates")

    def _values(self, name: str) -> list[str]:
        column = self._block.column(name)
        if column is None:
            return ["."] * self.length
        if column.loop != self._loop or len(column.values) != self.length:
            raise Rejection(Reason.UNREADABLE, f"{name} is not in one loop with {COORDINATES[0]}; write the file again")
        return column.values

    def texts(self, name: str) -> list[str]:
        """Return the values of ``_atom_site_<name>``; ``.`` if it is missing."""
        return self._values(f"_atom_site_{name}")

    def coordinates(self, row: int) -> list[tuple[float, float]]:
        """Return value and last digit of each coordinate of a site."""
        names = [f"{name} of site {row + 1}" for name in COORDINATES]
        return [
            number(values[row], name, Reason.NAN_COORDINATES)
            for values, name in zip(self._coordinates, names, strict=True)
        ]

    def symbols(self, rows: list[int]) -> list[tuple[int, bool]]:
        """Return the atomic number of each site, and whether only a label identifies it as deuterium or tritium."""
        types, labels = self.texts("type_symbol"), self.texts("label")
        return [
            (_of_type(types[row]), False) if types[row] not in NULL else _of_label(labels[row], row + 1) for row in rows
        ]

    def require_no_alternatives(self, rows: list[int]) -> None:
        """Raise if a site is one of several alternatives, or has implicit hydrogens."""
        attached = self.texts("attached_hydrogens")
        alternatives = [self.texts("disorder_group"), self.texts("label_alt_id")]
        for row in rows:
            if attached[row] not in NULL and number(attached[row], f"attached hydrogens of site {row + 1}").value != 0:
                message = (
                    f"site {row + 1} has {short(attached[row])} hydrogens attached that are not listed as sites; "
                    "give them positions"
                )
                raise Rejection(Reason.IMPLICIT_HYDROGENS, message)
            if group := next((names[row] for names in alternatives if names[row] not in (*NULL, "0")), None):
                message = (
                    f"site {row + 1} is in disorder group {short(group)}, one of several alternatives; only "
                    "ordered crystals can be used: keep one alternative, without its group"
                )
                raise Rejection(Reason.DISORDERED, message)

    def occupancy(self, row: int) -> bool:
        """Return whether the occupancy of a site is known to be 1; ``.`` means the default, 1.

        Raises:
            Rejection: If it is not 1.

        """
        text = self.texts("occupancy")[row]
        if text == "?":
            return False
        if text not in NULL and abs(number(text, f"the occupancy of site {row + 1}").value - 1) > 1e-6:
            message = (
                f"site {row + 1} has occupancy {short(text)}; only ordered crystals can be used: order it "
                "(supercell), or leave it out"
            )
            raise Rejection(Reason.DISORDERED, message)
        return True


def _of_type(symbol: str) -> int:
    """Return the atomic number of a type symbol: an element in any case, with isotope or charge."""
    _require_no_water(symbol)
    match = _SYMBOL.fullmatch(symbol.strip())
    return atomic_number(match["element"].title() if match else short(symbol))


def _of_label(label: str, row: int) -> tuple[int, bool]:
    """Return the atomic number of a site from the element at the start of its label, and whether it is D or T."""
    if label in NULL:
        message = f"site {row} has neither _atom_site_type_symbol nor _atom_site_label; say which element it is"
        raise Rejection(Reason.UNKNOWN_SPECIES, message)
    _require_no_water(label)
    match = _LETTERS.match(label)
    letters = match.group() if match else ""
    if letters not in ATOMIC_NUMBER:
        message = f"site label {short(label)!r} does not say which element it is; add _atom_site_type_symbol"
        raise Rejection(Reason.UNKNOWN_SPECIES, message)
    return ATOMIC_NUMBER[letters], letters in _HEAVY_HYDROGEN


def _require_no_water(name: str) -> None:
    if _IMPLICIT_HYDROGENS.match(name):
        message = f"site {short(name)!r} stands for atoms without positions (hydrogens of water or hydroxyl); add them"
        raise Rejection(Reason.IMPLICIT_HYDROGENS, message)
