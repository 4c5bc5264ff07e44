"""From the text of a CIF to arrays, with pymatgen; what pymatgen would guess, merge or drop is rejected instead."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np
from pymatgen.core import Structure
from pymatgen.io.cif import CifBlock, CifFile, CifParser, str2float

from crysatom.crystals.checks import Limits, check_volume
from crysatom.crystals.cif_formula import require_formula
from crysatom.crystals.elements import ATOMIC_NUMBER, atomic_number
from crysatom.crystals.quarantine import Reason, Rejection, short

MAX_CIF_BYTES = 5_000_000
"""Reading is linear in the file up to here; larger CIFs hold reflections or trajectories, not a crystal."""

_LENGTHS = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
_ANGLES = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")
_COORDINATES = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
_STRUCTURE_START = re.compile(r"^\s*_atom_site_fract_x\b", re.MULTILINE)
_MOST_OPERATIONS = 192
_OPERATIONS = (
    *("_symmetry_equiv_pos_as_xyz", "_symmetry_equiv_pos_as_xyz_", "_space_group_symop_operation_xyz"),
    "_space_group_symop_operation_xyz_",
)
_LONGEST_OPERATION = 100
"""Characters: pymatgen takes their cube where they are digits. 'x-y+1/3, -y+2/3, z+1/6' has 24."""

_MOST_BLOCKS = 1000
_MOST_QUOTED = 100_000_000
"""Largest sum over lines of their length times the quotes in them: pymatgen looks for the end of each to the line's."""

_SPECIAL_POSITIONS = 20
"""Largest ratio of symmetry operations to distinct positions of a site, averaged over a crystal's sites."""

_IMPLICIT_HYDROGENS = re.compile(r"^(Wat|wat|O-H|OH)")

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def parse_cif(content: bytes, limits: Limits) -> Arrays:
    """Return lattice ``(3, 3)``, fractional coordinates ``(N, 3)`` and atomic numbers ``(N,)`` of a CIF.

    The cell is the one in the file. Coordinates within 1e-4 of 1/3 and 2/3 are taken to mean these, and a
    file without symmetry operations is taken to list all atoms (P1), both as pymatgen does.

    Raises:
        Rejection: With the reason; every other error of the parser becomes ``unreadable``.

    """
    text = _decode(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            block = _block(text)
            _require_ordered_sites(block.data, limits)
            _require_cell(block.data)
            _require_short_operations(block.data)
            parser = CifParser.from_str(text, occupancy_tolerance=1.0, check_cif=False)
            _require_few_positions(parser, block, limits)
            structure = parser.parse_structures(primitive=False, on_error="raise")[0]
        except Rejection:
            raise
        except Exception as error:  # pymatgen raises about everything on broken text
            raise _as_rejection(error) from error
    arrays = _arrays(structure)
    require_formula(block.data.get("_chemical_formula_sum"), arrays[2])
    return arrays


def _decode(content: bytes) -> str:
    if len(content) > MAX_CIF_BYTES:
        message = (
            f"the file has more than {MAX_CIF_BYTES // 1_000_000} MB, the limit for a CIF; remove "
            "reflection data, or use JSON or Parquet"
        )
        raise Rejection(Reason.TOO_LARGE, message)
    if not content.strip():
        raise Rejection(Reason.UNREADABLE, "the file is empty; download or write it again")
    if b"\0" in content:
        raise Rejection(Reason.UNREADABLE, "the file is binary, not the text of a CIF; was it compressed or renamed?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Blank lines mean nothing, and to look for a beginning of a line behind white space takes the square of them.
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if sum(len(line) * (line.count("'") + line.count('"')) for line in lines) > _MOST_QUOTED:
        raise Rejection(Reason.UNREADABLE, "a line holds too many quotes to be one of a CIF; write the file again")
    if sum(line.lstrip()[:5].lower() == "data_" for line in lines) > _MOST_BLOCKS:
        raise Rejection(
            Reason.SEVERAL_STRUCTURES, f"the file has more than {_MOST_BLOCKS} data_ blocks; write each to its own file"
        )
    return "\n".join(lines)


def _block(text: str) -> CifBlock:
    """Return the data block of the one structure in the file."""
    starts = len(_STRUCTURE_START.findall(text))
    if starts > 1:
        raise Rejection(
            Reason.SEVERAL_STRUCTURES, f"the file holds {starts} structures; write each to a file of its own"
        )
    blocks = list(CifFile.from_str(text).data.values())
    if not blocks:
        raise Rejection(Reason.UNREADABLE, "not a CIF, it has no data_ block; is it a web page or another format?")
    for block in blocks:
        if all(name in block.data for name in _COORDINATES):
            return block
    raise Rejection(
        Reason.EMPTY, f"no atoms: the CIF lacks {', '.join(_COORDINATES)}; export it with fractional coordinates"
    )


def _require_ordered_sites(block: dict[str, Any], limits: Limits) -> None:
    """Reject what the parser would drop or turn into something else without saying so."""
    num_sites = len(block[_COORDINATES[0]])
    if num_sites > limits.max_atoms:
        message = (
            f"the CIF lists {num_sites} sites, more than {limits.max_atoms} atoms; use a primitive cell, or "
            "raise --max-atoms"
        )
        raise Rejection(Reason.TOO_LARGE, message)
    symbols = block.get("_atom_site_type_symbol")
    for label in symbols or block.get("_atom_site_label", []):
        _require_element(label, is_symbol=symbols is not None)
    for name in _COORDINATES:
        for row, value in enumerate(block[name], start=1):
            if not math.isfinite(_number(value, f"{name} of site {row}")):
                raise Rejection(
                    Reason.NAN_COORDINATES, f"{name} of site {row} is {value!r}; write the file again from its source"
                )
    for row, value in enumerate(block.get("_atom_site_occupancy", []), start=1):
        _require_full_occupancy(row, value)


def _require_short_operations(block: dict[str, Any]) -> None:
    for name in _OPERATIONS:
        listed = block.get(name, ())
        for operation in [listed] if isinstance(listed, str) else listed:
            if len(operation) > _LONGEST_OPERATION:
                raise Rejection(
                    Reason.UNREADABLE, f"{name} has {short(operation)}, no symmetry operation; write the file again"
                )


def _require_few_positions(parser: CifParser, block: CifBlock, limits: Limits) -> None:
    """Raise if expanding the symmetry, which takes the square of the atoms, could take minutes."""
    num_sites = len(block.data[_COORDINATES[0]])
    listed = max(len(block.data.get(name, ())) for name in _OPERATIONS)
    if num_sites * max(listed, _MOST_OPERATIONS) <= _SPECIAL_POSITIONS * limits.max_atoms:
        return
    num_operations = len(parser.get_symops(block))
    if num_sites * num_operations > _SPECIAL_POSITIONS * limits.max_atoms:
        message = (
            f"{num_sites} sites under {num_operations} symmetry operations are more than {_SPECIAL_POSITIONS} times "
            f"{limits.max_atoms} positions; use a primitive cell, or raise --max-atoms"
        )
        raise Rejection(Reason.TOO_LARGE, message)


def _require_full_occupancy(row: int, value: str) -> None:
    occupancy = 1.0 if value == "?" else _number(value, f"the occupancy of site {row}")
    if abs(occupancy - 1) > 1e-6:
        message = (
            f"site {row} has occupancy {value}; only ordered crystals can be used: order it (supercell), or "
            "leave it out"
        )
        raise Rejection(Reason.DISORDERED, message)


def _require_element(label: str, *, is_symbol: bool) -> None:
    """Raise unless a type symbol (Fe, Fe3+), or a label (Fe1, O2A) in its absence, begins with an element."""
    if _IMPLICIT_HYDROGENS.match(label):
        message = f"site {label!r} stands for atoms without positions (hydrogens of water or hydroxyl); add them"
        raise Rejection(Reason.IMPLICIT_HYDROGENS, message)
    letters = re.match(r"[A-Za-z]*", label).group()  # type: ignore[union-attr]
    if is_symbol:
        atomic_number(letters.title())
    elif letters not in ATOMIC_NUMBER:
        message = f"site label {label!r} does not say which element it is; add _atom_site_type_symbol"
        raise Rejection(Reason.UNKNOWN_SPECIES, message)


def _number(value: str, what: str) -> float:
    try:
        return float(str2float(value))
    except ValueError:
        raise Rejection(Reason.UNREADABLE, f"{what} is {value!r}, not a number; complete the file") from None


def _require_cell(block: dict[str, Any]) -> None:
    """Raise unless the six cell parameters span a volume; the parser would make complex numbers of them."""
    missing = [name for name in (*_LENGTHS, *_ANGLES) if name not in block]
    if missing:
        raise Rejection(Reason.NO_LATTICE, f"no unit cell: the CIF lacks {', '.join(missing)}; add them")
    lengths = [_number(block[name], name) for name in _LENGTHS]
    cosines = [
        math.cos(math.radians(_number(block[name], name)))
        for name in _ANGLES
        if math.isfinite(_number(block[name], name))
    ]
    if len(cosines) < 3 or not all(map(math.isfinite, lengths)):
        raise Rejection(
            Reason.NAN_LATTICE, "a cell length or angle is NaN or infinity; write the file again from its source"
        )
    squared = 1 - sum(c * c for c in cosines) + 2 * math.prod(cosines)
    if min(lengths) <= 0 or squared <= 1e-9:
        values = " ".join(str(block[name]) for name in (*_LENGTHS, *_ANGLES))
        raise Rejection(
            Reason.ZERO_VOLUME, f"the cell {values} (lengths, angles) has no volume; correct its parameters"
        )
    check_volume(math.prod(lengths) * math.sqrt(squared))


def _as_rejection(error: Exception) -> Rejection:
    if "ccupancy" in str(error):  # all sites are full, so that two of them coincide
        message = (
            "two sites of the CIF coincide, as listed or after its symmetry operations; remove the duplicate, "
            "or the symmetry operations if all atoms are listed"
        )
        return Rejection(Reason.OVERLAPPING_ATOMS, message)
    return Rejection(
        Reason.UNREADABLE,
        f"pymatgen cannot read the CIF ({type(error).__name__}: {short(error)}); check it with a CIF validator",
    )


def _arrays(structure: Structure) -> Arrays:
    if "implicit_hydrogens" in structure.site_properties:
        raise Rejection(
            Reason.IMPLICIT_HYDROGENS, "an oxygen site stands for O and H at one position; give the hydrogens their own"
        )
    if not structure.is_ordered:
        raise Rejection(
            Reason.DISORDERED, "a site holds several species or a vacancy; only ordered crystals can be used"
        )
    numbers = [atomic_number(_symbol(site.specie)) for site in structure]
    return np.array(structure.lattice.matrix), np.array(structure.frac_coords), np.array(numbers, dtype=np.int64)


def _symbol(species: Any) -> str:
    return str(getattr(species, "element", species).symbol if hasattr(species, "element") else species.symbol)
