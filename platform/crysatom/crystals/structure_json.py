"""Parse the JSON of a structure to arrays: pymatgen's ``Structure.as_dict`` and JARVIS's ``Atoms.to_dict``.

It is read directly, without MSONable decoding, which would import any module that a file names.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from crysatom.crystals import strict_json
from crysatom.crystals.elements import atomic_number
from crysatom.crystals.quarantine import Reason, Rejection, short

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def parse_structure_json(content: bytes) -> Arrays:
    """Return lattice ``(3, 3)``, fractional coordinates ``(N, 3)`` and atomic numbers ``(N,)``.

    Raises:
        Rejection: With the reason.

    """
    try:
        structure = strict_json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Rejection(Reason.UNREADABLE, f"not valid JSON ({error}); write the file again") from None
    if not isinstance(structure, dict):
        raise Rejection(
            Reason.UNREADABLE,
            f"the structure is a JSON {type(structure).__name__}, not a dictionary as of Structure.as_dict()",
        )
    try:
        return _jarvis(structure) if "lattice_mat" in structure else _pymatgen(structure)
    except Rejection:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        message = (
            f"not a pymatgen structure ({type(error).__name__}: {short(error)}); write it with Structure.as_dict()"
        )
        raise Rejection(Reason.UNREADABLE, message) from error


def _pymatgen(structure: dict[str, Any]) -> Arrays:
    if "lattice" not in structure and "sites" not in structure:
        message = "no structure: neither lattice and sites, nor a structure or atoms entry; see Structure.as_dict()"
        raise Rejection(Reason.UNREADABLE, message)
    if "lattice" not in structure:
        kind = structure.get("@class", "the record")
        raise Rejection(Reason.NO_LATTICE, f"{kind} has no lattice; a crystal needs a unit cell (a molecule has none)")
    lattice = _floats(structure["lattice"]["matrix"], 3)
    coords = _floats([site["abc"] for site in structure["sites"]], 3)
    numbers = [_site_number(row, site["species"]) for row, site in enumerate(structure["sites"], start=1)]
    return _three_rows(lattice), coords, np.array(numbers, dtype=np.int64)


def _site_number(row: int, species: list[dict[str, Any]]) -> int:
    if len(species) != 1 or abs(float(species[0]["occu"]) - 1) > 1e-6:
        content = ", ".join(f"{s['element']} {s['occu']:g}" for s in species) or "nothing"
        message = (
            f"site {row} is occupied by {content}; only ordered crystals can be used: order it (supercell), "
            "or leave it out"
        )
        raise Rejection(Reason.DISORDERED, message)
    return atomic_number(_symbol(species[0]["element"]))


def _symbol(text: str) -> str:
    """Return the symbol of a species with an optional charge, as in ``Fe3+``."""
    match = re.fullmatch(r"([A-Z][a-z]*)\d*\.?\d*[+-]?", text)
    return match.group(1) if match else text


def _jarvis(atoms: dict[str, Any]) -> Arrays:
    lattice = _three_rows(_floats(atoms["lattice_mat"], 3))
    coords = _floats(atoms["coords"], 3)
    numbers = np.array([atomic_number(str(symbol).strip()) for symbol in atoms["elements"]], dtype=np.int64)
    if len(coords) != len(numbers):
        raise ValueError(f"{len(coords)} coordinates for {len(numbers)} elements")
    if atoms.get("cartesian"):
        if abs(np.linalg.det(lattice)) == 0:
            raise Rejection(Reason.ZERO_VOLUME, "the cell has no volume; correct lattice_mat")
        coords = np.linalg.solve(lattice.T, coords.T).T
    return lattice, coords, numbers


def _floats(values: Any, width: int) -> np.ndarray:
    """Return ``(N, width)`` numbers.

    Raises:
        ValueError: If rows have another length, or a value is text, even text that looks like a number.

    """
    found = np.array(values)
    if found.dtype.kind not in "iuf" and any(isinstance(value, str | bool) for row in values for value in row):
        raise ValueError("text or booleans where numbers are expected")
    if len(found) and found.shape[1:] != (width,):
        raise ValueError(f"rows of {found.shape[1:]} numbers where {width} are expected")
    return found.astype(np.float64).reshape(-1, width)


def _three_rows(lattice: np.ndarray) -> np.ndarray:
    if lattice.shape != (3, 3):
        raise ValueError(f"a lattice of {len(lattice)} vectors")
    return lattice
