"""What a crystal must satisfy to enter a crystal table: a real cell, real coordinates, atoms apart."""

from __future__ import annotations

import numpy as np

from crysatom.config import Limits
from crysatom.crystals.closest_pair import closest_pair
from crysatom.crystals.quarantine import Reason, Rejection
from crysatom.crystals.table import Crystal
from crysatom.names import MAX_ATOMIC_NUMBER, SYMBOLS

MIN_VOLUME_PER_ATOM = 0.1
"""Cubic angstrom. Metallic hydrogen at terapascals takes about 1; the usual cause is a cell in nanometers."""

MAX_VOLUME_PER_ATOM = 1e6
"""Cubic angstrom: one atom in a box of 100 angstrom. The usual cause is a cell in picometers."""

MAX_CELL_LENGTH = 1e4
"""Angstrom."""

MAX_FRACTIONAL = 1e3
"""Fractional coordinates beyond this lose their digits when wrapped; the usual cause is Cartesian values."""


DEFAULT_LIMITS = Limits()


def check(crystal: Crystal, limits: Limits = DEFAULT_LIMITS) -> None:
    """Return if the crystal can be used.

    A left-handed cell (negative determinant) is a legal description and passes.

    Raises:
        Rejection: With the first defect found.

    """
    _check_atoms(crystal, limits)
    _check_cell(crystal)
    _check_coordinates(crystal)
    _check_distances(crystal, limits)


def _check_atoms(crystal: Crystal, limits: Limits) -> None:
    num_atoms = len(crystal.atomic_numbers)
    if num_atoms == 0:
        raise Rejection(Reason.EMPTY, "the structure has no atoms")
    if num_atoms > limits.max_atoms:
        message = (
            f"the cell has {num_atoms} atoms, more than {limits.max_atoms}; use its primitive cell, or "
            "raise --max-atoms"
        )
        raise Rejection(Reason.TOO_LARGE, message)
    numbers = np.asarray(crystal.atomic_numbers, dtype=np.int64)
    for number in numbers[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)][:1]:
        raise Rejection(
            Reason.UNKNOWN_SPECIES, f"atomic number {number} is no element; it must lie in 1 to {MAX_ATOMIC_NUMBER}"
        )


def _check_cell(crystal: Crystal) -> None:
    if not np.isfinite(crystal.lattice).all():
        raise Rejection(Reason.NAN_LATTICE, "the lattice holds NaN or infinity; write the cell again from its source")
    with np.errstate(over="ignore", divide="ignore"):  # an infinite length is absurd, too; LAPACK divides by tiny ones
        volume = abs(float(np.linalg.det(crystal.lattice)))
        longest = float(np.linalg.norm(crystal.lattice, axis=1).max())
    if longest > MAX_CELL_LENGTH:
        raise Rejection(
            Reason.ABSURD_VOLUME, f"a cell vector is {longest:.4g} angstrom long; is the cell in another unit?"
        )
    check_volume(volume / len(crystal.atomic_numbers))


def check_volume(volume_per_atom: float) -> None:
    """Return if a volume, in cubic angstrom per atom, is one that matter can have."""
    if not volume_per_atom > MIN_VOLUME_PER_ATOM:
        message = (
            f"the cell has {volume_per_atom:.3g} cubic angstrom per atom; its vectors lie in a plane, or "
            "are not in angstrom"
        )
        raise Rejection(Reason.ZERO_VOLUME, message)
    if volume_per_atom > MAX_VOLUME_PER_ATOM:
        message = (
            f"the cell has {volume_per_atom:.3g} cubic angstrom per atom; is the cell in another unit than angstrom?"
        )
        raise Rejection(Reason.ABSURD_VOLUME, message)


def _check_coordinates(crystal: Crystal) -> None:
    bad = np.flatnonzero(~np.isfinite(crystal.frac_coords).all(axis=1))
    if len(bad):
        message = (
            f"the coordinates of atom {bad[0] + 1} hold NaN or infinity ({len(bad)} such atoms); write the "
            "file again from its source"
        )
        raise Rejection(Reason.NAN_COORDINATES, message)
    largest = float(np.abs(crystal.frac_coords).max())
    if largest > MAX_FRACTIONAL:
        message = f"a fractional coordinate is {largest:.4g}; are the coordinates Cartesian? Divide them by the lattice"
        raise Rejection(Reason.ABSURD_COORDINATES, message)


def _check_distances(crystal: Crystal, limits: Limits) -> None:
    pair = closest_pair(crystal.lattice, crystal.frac_coords, below=limits.min_distance)
    if pair is None:
        return
    names = [f"atom {i + 1} ({SYMBOLS[int(crystal.atomic_numbers[i]) - 1]})" for i in (pair.first, pair.second)]
    who = f"{names[0]} and {names[1]} are" if pair.first != pair.second else f"{names[0]} and its periodic image are"
    message = (
        f"{who} {pair.distance:.3f} angstrom apart, closer than {limits.min_distance:g}; "
        "remove the duplicate site or alternative position, or lower --min-distance"
    )
    raise Rejection(Reason.OVERLAPPING_ATOMS, message)
