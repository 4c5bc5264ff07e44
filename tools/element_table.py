"""Write platform/crysatom/vectors/elements.csv from pymatgen's periodic table.

Run it only when the data change: ``python tools/element_table.py``. The package reads the table and does not need
pymatgen for it.

Sources, through pymatgen (pymatgen.core.periodic_table, MIT license): electronegativity after Pauling;
ionization energies from NIST ASD; electron affinities from the CRC Handbook and NIST; molar volumes
from WebElements; covalent radii after Cordero et al., Dalton Trans. 2008, 2832 (sp3 carbon, high-spin
Mn, Fe, Co, as in pymatgen.analysis.molecule_structure_comparator). Group, period and block
follow IUPAC's provisional table of 2021: the f block is La-Yb and Ac-No and has no group.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable
from pathlib import Path

from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core.periodic_table import Element

TABLE = Path(__file__).parents[1] / "platform" / "crysatom" / "vectors" / "elements.csv"
HEADER = [
    "atomic_number",
    "symbol",
    "group",
    "period",
    "block",
    "f_column",
    "family",
    "electronegativity_pauling",
    "covalent_radius_pm",
    "valence_electrons",
    "ionization_energy_ev",
    "electron_affinity_ev",
    "molar_volume_cm3",
]
COMMENT = (
    "# Facts about the elements; written by tools/element_table.py from pymatgen (MIT license), which names"
    " the sources. An empty field is a value that is not known.\n"
)


LAST_MEASURED = 103
"""Last element with numbers; those of heavier elements are estimates, or wrong (ionization energy of Ds: 65 eV)."""


def number(value: object) -> str:
    """Return a number as text; empty for NaN and None."""
    if value is None or math.isnan(float(value)):  # type: ignore[arg-type]
        return ""
    return f"{float(value):.6g}"  # type: ignore[arg-type]


def valence_electrons(element: Element) -> int | None:
    """Count electrons outside the noble-gas core, without f electrons and, in the p block, without d electrons."""
    structure = element.data.get("Electronic structure")
    if structure is None:
        return None
    shells = [shell for shell in structure["0"].split(".") if not shell.startswith("[")]
    ignored = "fd" if element.block == "p" else "f"
    return sum(int(shell[2:]) for shell in shells if shell[1] not in ignored)


def family(element: Element) -> str:
    """Return the family of an element, as in colored periodic tables."""
    return next(name for name, holds in FAMILIES.items() if holds(element))


FAMILIES: dict[str, Callable[[Element], bool]] = {
    "noble gas": lambda e: e.Z == 118 or e.is_noble_gas,
    "halogen": lambda e: e.Z == 117 or e.is_halogen,
    "lanthanide": lambda e: e.is_lanthanoid,
    "actinide": lambda e: e.is_actinoid,
    "metalloid": lambda e: e.is_metalloid,
    "nonmetal": lambda e: e.symbol in {"H", "C", "N", "O", "P", "S", "Se"},
    "alkali metal": lambda e: e.block == "s" and e.group == 1,
    "alkaline earth": lambda e: e.block == "s",
    "transition metal": lambda e: e.block == "d",
    "post-transition metal": lambda e: e.block == "p",
}
"""Conditions of the families, in order: the first that is true determines the family."""


def row(element: Element) -> list[str]:
    """Return the fields of one element in the order of HEADER."""
    z = element.Z
    f_column = {6: z - 56, 7: z - 88}[element.row] if element.block == "f" else None
    radius = CovalentRadius.radius.get(element.symbol)
    measured = [
        number(element.X),
        number(None if radius is None else 100 * radius),
        number(valence_electrons(element)),
        number(element.ionization_energy),
        number(element.data.get("Electron affinity")),
        number(element.molar_volume),
    ]
    return [
        str(z),
        element.symbol,
        "" if f_column else str(element.group),
        str(element.row),
        "s" if element.symbol == "He" else element.block,
        str(f_column or ""),
        family(element),
        *(measured if z <= LAST_MEASURED else [""] * len(measured)),
    ]


def main() -> None:
    """Write the table."""
    warnings.simplefilter("ignore")
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        file.write(COMMENT)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(row(Element.from_Z(z)) for z in range(1, 119))


if __name__ == "__main__":
    main()
