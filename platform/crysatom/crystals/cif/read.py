"""Read the crystal of a CIF, with consistency checks, or give the reason why it is not determined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice

from crysatom.config import Limits
from crysatom.crystals.checks import MAX_VOLUME_PER_ATOM, check_volume
from crysatom.crystals.cif.content import LARGEST_DENSITY, Content, stated_content
from crysatom.crystals.cif.numbers import number
from crysatom.crystals.cif.operations import IDENTITY, METRIC_TOLERANCE, Operations, listed_operations
from crysatom.crystals.cif.orbits import Atoms, all_atoms
from crysatom.crystals.cif.sites import Sites, read_sites
from crysatom.crystals.cif.spacegroups import Setting, named_settings
from crysatom.crystals.cif.text import (
    ANGLES,
    FORMULA_TAG,
    LENGTHS,
    MODULATION_TAG,
    UNITS_TAG,
    Block,
    decode,
    spelled,
    structure_block,
)
from crysatom.crystals.closest_pair import closest_pair
from crysatom.crystals.derived_columns import GRAMS_PER_CM3, atomic_masses
from crysatom.crystals.quarantine import Reason, Rejection, short

SPECIAL_POSITIONS = 20
"""Largest ratio of symmetry operations to distinct positions of a site, averaged over a crystal's sites."""

COINCIDENT = 0.01
"""In angstrom: two sites closer than this are one site listed twice."""

SAME_DISTANCE = 1e-3
"""Largest difference, in angstrom, between distances in two readings of a CIF that are the same crystal."""

BY_CONTENT = (Reason.FORMULA_MISMATCH, Reason.CONTRADICTION)
"""Reasons of rejections by Z, formula or density."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class CifCrystal:
    """The crystal of a CIF.

    Attributes:
        lattice: ``(3, 3)``, rows a, b, c in angstrom.
        frac_coords: ``(N, 3)``.
        atomic_numbers: ``(N,)`` int64.
        notes: Decisions, omissions and rounding, for the user.

    """

    lattice: Array
    frac_coords: Array
    atomic_numbers: NDArray[np.int64]
    notes: tuple[str, ...]


def parse_cif(content: bytes, limits: Limits) -> CifCrystal:
    """Return the crystal of a CIF with one structure.

    The cell is that of the file. Listed operations take precedence. Without them, the space group's name is used if Z
    and formula decide between its possible settings. Without either, all atoms are listed (P 1).

    Args:
        content: Content of the file, uncompressed.
        limits: Limits on atoms.

    Raises:
        Rejection: With the reason.

    """
    block, notes = structure_block(decode(content))
    _require_three_dimensions(block)
    lattice = _cell(block)
    sites = read_sites(block, limits.max_atoms)
    reading = _Reading(lattice, sites, stated_content(block), limits)
    reading.content.require_volume(reading.volume)
    operations = listed_operations(block)
    if operations is None:
        settings = named_settings(block, lattice)
        atoms, notes_read = reading.unsymmetric() if settings is None else reading.one_of(settings)
    else:
        atoms, notes_read = reading.under(operations), ()
    _require_apart(lattice, atoms)
    if atoms.num_shifted:
        note = f"{atoms.num_shifted} sites, moved by at most {atoms.largest_shift:.4f} angstrom"
        notes_read += (f"rounded coordinates were taken for special positions: {note}",)
    return CifCrystal(
        lattice=lattice,
        frac_coords=atoms.frac_coords,
        atomic_numbers=atoms.atomic_numbers,
        notes=(*notes, *sites.notes, *reading.content.notes, *notes_read),
    )


@dataclass(frozen=True, eq=False)
class _Reading:
    """Cell, sites and stated content of a CIF, to be joined with a symmetry."""

    lattice: Array
    sites: Sites
    content: Content
    limits: Limits

    @property
    def volume(self) -> float:
        return abs(float(np.linalg.det(self.lattice)))

    def under(self, operations: Operations) -> Atoms:
        """Return the atoms under the operations of the file."""
        if not operations.fit(self.lattice):
            message = (
                "the symmetry operations do not keep the lengths and angles of the cell, by more than "
                f"{METRIC_TOLERANCE:.0%}; correct the cell, or the operations"
            )
            raise Rejection(Reason.CONTRADICTION, message)
        return self._confirmed(operations)[0]

    def unsymmetric(self) -> tuple[Atoms, tuple[str, ...]]:
        """Return the atoms of a file without symmetry information."""
        atoms, is_confirmed = self._confirmed(IDENTITY)
        return atoms, () if is_confirmed else ("no symmetry is given: the sites were taken for all atoms (P 1)",)

    def one_of(self, settings: list[Setting]) -> tuple[Atoms, tuple[str, ...]]:
        """Return the atoms under the one setting that agrees with Z and formula."""
        agreeing: list[tuple[Setting, Atoms, bool]] = []
        refused: list[tuple[Setting, Rejection]] = []
        for setting in settings:
            try:
                agreeing.append((setting, *self._confirmed(setting.operations, is_named=True)))
            except Rejection as rejection:
                refused.append((setting, rejection))
        if not agreeing:
            raise refused[0][1]
        chosen, atoms, is_confirmed = agreeing[0]
        others = [setting.name for setting, other, _ in agreeing[1:] if not self._are_one_crystal(atoms, other)]
        if not is_confirmed:  # other errors of another setting do not confirm this one
            others += [setting.name for setting, rejection in refused if rejection.reason not in BY_CONTENT]
        if others:
            message = (
                f"the space group may be {' or '.join([chosen.name, *others[:5]])}, and {spelled(UNITS_TAG)} and "
                f"{FORMULA_TAG} do not decide; add the symmetry operations, or the setting to the name"
            )
            raise Rejection(Reason.SYMMETRY, message)
        return atoms, (f"Z and formula decided the setting of the space group: {chosen.name}",) if refused else ()

    def _confirmed(self, operations: Operations, *, is_named: bool = False) -> tuple[Atoms, bool]:
        """Return the atoms under operations, and whether Z and formula confirm them."""
        self._require_few_positions(operations)
        atoms = all_atoms(self.sites, operations, self.lattice)
        is_confirmed = self.content.confirm(atoms.atomic_numbers, self.volume)
        if self.sites.unknown_occupancy and not is_confirmed:
            message = (
                f"an occupancy is unknown ('?'), and {spelled(UNITS_TAG)} and {FORMULA_TAG} do not confirm that it "
                "is 1; complete the file"
            )
            raise Rejection(Reason.DISORDERED, message)
        if self.sites.heavy_labels and 1 not in (self.content.formula or {}):
            message = "a site is called D or T, and no formula confirms that it is hydrogen; add _atom_site_type_symbol"
            raise Rejection(Reason.UNKNOWN_SPECIES, message)
        if is_named and not is_confirmed:
            self._require_possible_density(atoms)
        return atoms, is_confirmed

    def _require_few_positions(self, operations: Operations) -> None:
        positions = len(self.sites.labels) * len(operations)
        if positions > max(SPECIAL_POSITIONS * self.limits.max_atoms, len(operations)):
            message = (
                f"{len(self.sites.labels)} sites under {len(operations)} symmetry operations are more than "
                f"{SPECIAL_POSITIONS} times {self.limits.max_atoms} positions; use a primitive cell, or raise "
                "--max-atoms"
            )
            raise Rejection(Reason.TOO_LARGE, message)

    def _require_possible_density(self, atoms: Atoms) -> None:
        density = GRAMS_PER_CM3 * float(atomic_masses()[atoms.atomic_numbers - 1].sum()) / self.volume
        if density > LARGEST_DENSITY:
            message = (
                f"under the operations of the space group that is named the density is {density:.0f} g/cm^3, more than "
                "matter has; correct the name or the sites, or add the symmetry operations"
            )
            raise Rejection(Reason.CONTRADICTION, message)

    def _are_one_crystal(self, first: Atoms, second: Atoms) -> bool:
        if sorted(first.atomic_numbers.tolist()) != sorted(second.atomic_numbers.tolist()):
            return False
        if len(first.atomic_numbers) > self.limits.max_atoms:
            return False
        one, other = (_distances(self.lattice, atoms) for atoms in (first, second))
        return bool(np.array_equal(one[0], other[0]) and np.abs(one[1] - other[1]).max() < SAME_DISTANCE)


def _distances(lattice: Array, atoms: Atoms) -> tuple[NDArray[np.int64], Array]:
    """Return the element pairs and distances of all pairs, in an order independent of origin and site order."""
    offsets = atoms.frac_coords[:, None] - atoms.frac_coords[None]
    distances = np.linalg.norm((offsets - np.rint(offsets)) @ lattice, axis=2)
    z = atoms.atomic_numbers
    pairs = np.minimum(z[:, None], z[None]) * 1000 + np.maximum(z[:, None], z[None])
    order = np.lexsort((distances.ravel(), pairs.ravel()))
    return pairs.ravel()[order], distances.ravel()[order]


def _require_apart(lattice: Array, atoms: Atoms) -> None:
    pair = closest_pair(lattice, atoms.frac_coords, below=COINCIDENT) if len(atoms.frac_coords) > 1 else None
    if pair is not None:
        message = (
            "two sites of the CIF coincide, as listed or after its symmetry operations; remove the duplicate, "
            "or the symmetry operations if all atoms are listed"
        )
        raise Rejection(Reason.OVERLAPPING_ATOMS, message)


def _require_three_dimensions(block: Block) -> None:
    dimensions = block.text(MODULATION_TAG)
    if dimensions not in {None, "0"}:
        message = (
            f"the crystal is modulated ({MODULATION_TAG} {short(dimensions, 20)}); only its average has a unit cell"
        )
        raise Rejection(Reason.NOT_PERIODIC, message)


def _cell(block: Block) -> Array:
    """Return the lattice of six cell parameters with positive volume, rows a, b, c."""
    texts = block.first((*LENGTHS, *ANGLES))
    missing = [name for name in (*LENGTHS, *ANGLES) if name not in texts]
    if missing:
        raise Rejection(Reason.NO_LATTICE, f"no unit cell: the CIF lacks {', '.join(missing)}; add them")
    values = [number(texts[name], name, Reason.NAN_LATTICE).value for name in (*LENGTHS, *ANGLES)]
    cosines = [math.cos(math.radians(angle)) for angle in values[3:]]
    squared = 1 - sum(c * c for c in cosines) + 2 * math.prod(cosines)
    if min(values[:3]) <= 0 or squared <= 1e-9:
        message = f"the cell {' '.join(texts.values())} (lengths, angles) has no volume; correct its parameters"
        raise Rejection(Reason.ZERO_VOLUME, message)
    check_volume(min(math.prod(values[:3]) * math.sqrt(squared), MAX_VOLUME_PER_ATOM))  # a large cell has many atoms
    return np.array(Lattice.from_parameters(*values).matrix)
