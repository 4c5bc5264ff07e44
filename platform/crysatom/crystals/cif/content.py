"""Stated content of a CIF (formula, Z, volume, density), and its comparison with the atoms that were read."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition

from crysatom.crystals.cif.numbers import number
from crysatom.crystals.cif.text import DENSITY_TAG, FORMULA_TAG, UNITS_TAG, VOLUME_TAG, Block, spelled
from crysatom.crystals.derived_columns import GRAMS_PER_CM3, atomic_masses
from crysatom.crystals.elements import ATOMIC_NUMBER
from crysatom.crystals.quarantine import Reason, Rejection, short
from crysatom.names import SYMBOLS

SHARE_TOLERANCE = 0.01
"""Largest absolute difference in an element's fraction of atoms; formulas of crystals are rounded."""

ATOM_TOLERANCE = 0.25
"""Largest difference in an element's number of atoms in the cell; one missing atom exceeds it."""

VOLUME_TOLERANCE = 0.01
"""Largest relative difference between the stated volume and that of the cell."""

DENSITY_TOLERANCE = 0.15
"""Largest relative difference; deuterium, which counts as hydrogen here, makes ice 11 % denser."""

LARGEST_DENSITY = 30.0
"""Largest density, in g/cm^3. Osmium has 22.6; atoms multiplied by a wrong symmetry exceed the limit."""

_FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:\d+\.?\d*|\.\d+)?\s*)+", re.ASCII)
_ELEMENT = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?", re.ASCII)

Formula = dict[int, float]


@dataclass(frozen=True)
class Content:
    """Stated content of a cell.

    Attributes:
        declared: ``_chemical_formula_sum`` as written.
        formula: Atoms of each element in a formula unit, by atomic number; None if missing or unreadable.
        units: Z, the number of formula units in a cell; None if missing.
        volume: In cubic angstrom; None if missing.
        density: In g/cm^3; None if missing.

    """

    declared: str
    formula: Formula | None
    units: float | None
    volume: float | None
    density: float | None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on content that could not be compared."""
        unread = self.declared and self.formula is None
        return (f"the formula could not be read and was not compared: {short(self.declared, 60)!r}",) if unread else ()

    def require_volume(self, volume: float) -> None:
        """Raise if the volume of the cell differs from the stated one.

        Raises:
            Rejection: ``contradiction``.

        """
        if self.volume is not None and abs(self.volume - volume) > VOLUME_TOLERANCE * volume:
            message = (
                f"{VOLUME_TAG} is {self.volume:g}, the lengths and angles of the cell give {volume:g}; correct the cell"
            )
            raise Rejection(Reason.CONTRADICTION, message)

    def confirm(self, atomic_numbers: NDArray[np.int64], volume: float) -> bool:
        """Return whether formula and Z are both stated and agree with the atoms of the cell.

        Raises:
            Rejection: If the atoms contradict the stated content.

        """
        density = GRAMS_PER_CM3 * float(atomic_masses()[atomic_numbers - 1].sum()) / volume
        if self.formula is not None:
            self._require_formula(self.formula, Counter(atomic_numbers.tolist()))
        if self.density is not None and abs(self.density - density) > DENSITY_TOLERANCE * density:
            message = (
                f"{DENSITY_TAG} is {self.density:g} g/cm^3, the atoms of the cell give {density:.4g}; sites or "
                "symmetry operations are missing or too many: add or correct them"
            )
            raise Rejection(Reason.CONTRADICTION, message)
        return self.formula is not None and self.units is not None

    def _require_formula(self, formula: Formula, counts: Counter[int]) -> None:
        total, num_atoms = sum(formula.values()), counts.total()
        for z in sorted(formula.keys() | counts.keys()):
            share, present = formula.get(z, 0.0) / total, counts[z] / num_atoms
            if abs(share - present) > SHARE_TOLERANCE or (share > 0) != (present > 0):
                message = (
                    f"the formula {short(self.declared)!r} has {share:.1%} {SYMBOLS[z - 1]}, the listed atoms "
                    f"{present:.1%}; add the missing sites or symmetry operations, or correct {FORMULA_TAG}"
                )
                raise Rejection(Reason.FORMULA_MISMATCH, message)
        if self.units is None:
            return
        expected = [self.units] + [1.0] * (_units_by_pymatgen(self.declared) == self.units)
        if not any(all(abs(n * formula[z] - counts[z]) <= ATOM_TOLERANCE for z in formula) for n in expected):
            message = (
                f"{spelled(UNITS_TAG)} {self.units:g} and the formula {short(self.declared)!r} mean "
                f"{self.units * total:g} atoms, the sites and their symmetry operations give {num_atoms}; "
                "add the missing operations, or correct them"
            )
            raise Rejection(Reason.FORMULA_MISMATCH, message)


def stated_content(block: Block) -> Content:
    """Return the stated content of a block.

    Raises:
        Rejection: If Z, volume or density is not a positive number.

    """
    declared = block.text(FORMULA_TAG) or ""
    units, volume, density = (_positive(block, tag) for tag in (UNITS_TAG, VOLUME_TAG, DENSITY_TAG))
    return Content(declared=declared, formula=parse_formula(declared), units=units, volume=volume, density=density)


def _positive(block: Block, tag: str) -> float | None:
    text = block.text(tag)
    if text is None:
        return None
    value = number(text, spelled(tag)).value
    if value == 0 and tag == UNITS_TAG:  # pymatgen truncates one half, for cells of one atom of H, N, O, F or Cl
        return None
    if value <= 0:
        raise Rejection(Reason.CONTRADICTION, f"{spelled(tag)} is {short(text)}; correct it, or remove it")
    return value


@lru_cache(maxsize=4096)
def parse_formula(text: str) -> Formula | None:
    """Return the atoms of each element in a formula, by atomic number; None if it cannot be read."""
    try:
        if _FORMULA.fullmatch(text):
            amounts = [(symbol, float(amount or 1)) for symbol, amount in _ELEMENT.findall(text)]
        else:  # with parentheses
            amounts = list(Composition(text).get_el_amt_dict().items()) if text else []
        formula: Formula = {}
        for symbol, amount in amounts:
            formula[ATOMIC_NUMBER[symbol]] = formula.get(ATOMIC_NUMBER[symbol], 0.0) + amount
    except (ValueError, KeyError, TypeError):
        return None
    formula = {z: amount for z, amount in formula.items() if amount > 0}
    return formula or None


@lru_cache(maxsize=4096)
def _units_by_pymatgen(formula: str) -> float:
    """Return the Z that pymatgen writes; its ``_chemical_formula_sum`` is the formula of the whole cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases have no electronegativity to sort by
        return float(Composition(formula).get_reduced_composition_and_factor()[1])
