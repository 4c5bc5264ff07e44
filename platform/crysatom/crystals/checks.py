"""What a crystal must satisfy to be used: a real cell, real coordinates, atoms apart.

Each rule stands here once, for B crystals in flat arrays. Ingest checks one crystal at a time (:func:`check`),
:mod:`crysatom.graphs.checks` checks batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysatom.config import Limits
from crysatom.crystals.closest_pair import closest_pair
from crysatom.crystals.quarantine import Reason, Rejection
from crysatom.crystals.table import Crystal, Structures
from crysatom.names import MAX_ATOMIC_NUMBER, SYMBOLS

MIN_VOLUME_PER_ATOM = 0.1
"""Cubic angstrom. Metallic hydrogen at terapascals takes about 1; the usual cause is a cell in nanometers."""

MAX_VOLUME_PER_ATOM = 1e6
"""Cubic angstrom: one atom in a box of 100 angstrom. The usual cause is a cell in picometers."""

MAX_CELL_LENGTH = 1e4
"""Angstrom."""

MAX_FRACTIONAL = 1e3
"""Fractional coordinates beyond this lose their digits when wrapped; the usual cause is Cartesian values."""

Array = NDArray[Any]

DEFAULT_LIMITS = Limits()


class Rule(NamedTuple):
    """One check of B crystals.

    Attributes:
        reason: Why a crystal that fails it is rejected.
        broken: ``(B,)`` bool, which crystals fail it.
        message: Given the position of one that fails, says what is wrong and what to do.

    """

    reason: Reason
    broken: NDArray[np.bool_]
    message: Callable[[int], str]


def check(crystal: Crystal, limits: Limits = DEFAULT_LIMITS) -> None:
    """Return if the crystal can be used.

    A left-handed cell (negative determinant) is a legal description and passes.

    Raises:
        Rejection: With the first defect found.

    """
    num_atoms = np.array([len(crystal.atomic_numbers)])
    _require(size_rules(num_atoms, limits))
    one = Structures(
        material_ids=[crystal.material_id],
        lattices=crystal.lattice[None],
        frac_coords=crystal.frac_coords,
        atomic_numbers=crystal.atomic_numbers,
        atom_ptr=np.array([0, num_atoms[0]]),
    )
    _require(structure_rules(one))
    if message := overlap(one, 0, limits):
        raise Rejection(Reason.OVERLAPPING_ATOMS, message)


def check_volume(volume_per_atom: float) -> None:
    """Return if a volume, in cubic angstrom per atom, is one that matter can have."""
    _require(_volume_rules(np.array([volume_per_atom])))


def _require(rules: Iterable[Rule]) -> None:
    for rule in rules:
        if rule.broken[0]:
            raise Rejection(rule.reason, rule.message(0))


def size_rules(num_atoms: Array, limits: Limits) -> Iterator[Rule]:
    """Yield the rules on the numbers of atoms of B crystals, ``(B,)``."""
    yield Rule(Reason.EMPTY, num_atoms == 0, lambda _: "the structure has no atoms")
    yield Rule(
        Reason.TOO_LARGE,
        num_atoms > limits.max_atoms,
        lambda k: (
            f"the cell has {num_atoms[k]} atoms, more than {limits.max_atoms}; use its primitive cell, or "
            "raise --max-atoms"
        ),
    )


def structure_rules(crystals: Structures) -> Iterator[Rule]:
    """Yield the rules on the contents of crystals, each with an atom or more; :func:`overlap` comes after them.

    The first rule that a crystal breaks decides; later rules are not meaningful for it.
    """
    yield from _species_rules(crystals)
    yield from _cell_rules(crystals)
    yield from _coordinate_rules(crystals)


def _species_rules(crystals: Structures) -> Iterator[Rule]:
    numbers = crystals.atomic_numbers
    unknown = ~((numbers >= 1) & (numbers <= MAX_ATOMIC_NUMBER))
    if not unknown.any():
        return

    def message(k: int) -> str:
        number = numbers[crystals.atoms(k)][unknown[crystals.atoms(k)]][0]
        if np.isnan(number):
            return "an atomic number is missing; complete the row"
        return f"atomic number {number:.0f} is no element; it must lie in 1 to {MAX_ATOMIC_NUMBER}"

    yield Rule(Reason.UNKNOWN_SPECIES, _any(unknown, crystals), message)


def _cell_rules(crystals: Structures) -> Iterator[Rule]:
    lattices = crystals.lattices
    with np.errstate(all="ignore"):  # squares overflow, and LAPACK divides by tiny numbers
        longest = np.sqrt((lattices * lattices).sum(axis=2).max(axis=1))
        volumes = np.abs(np.linalg.det(lattices)) / (crystals.atom_ptr[1:] - crystals.atom_ptr[:-1])
    if not (longest <= MAX_CELL_LENGTH).all():  # NaN and infinity, too
        yield Rule(
            Reason.NAN_LATTICE,
            ~np.isfinite(lattices).all(axis=(1, 2)),
            lambda _: "the lattice holds NaN or infinity; write the cell again from its source",
        )
        yield Rule(
            Reason.ABSURD_VOLUME,
            longest > MAX_CELL_LENGTH,
            lambda k: f"a cell vector is {longest[k]:.4g} angstrom long; is the cell in another unit?",
        )
    yield from _volume_rules(volumes)


def _volume_rules(volumes: Array) -> Iterator[Rule]:
    if ((volumes > MIN_VOLUME_PER_ATOM) & (volumes <= MAX_VOLUME_PER_ATOM)).all():
        return
    yield Rule(
        Reason.ZERO_VOLUME,
        ~(volumes > MIN_VOLUME_PER_ATOM),
        lambda k: (
            f"the cell has {volumes[k]:.3g} cubic angstrom per atom; its vectors lie in a plane, or are not in angstrom"
        ),
    )
    yield Rule(
        Reason.ABSURD_VOLUME,
        volumes > MAX_VOLUME_PER_ATOM,
        lambda k: f"the cell has {volumes[k]:.3g} cubic angstrom per atom; is the cell in another unit than angstrom?",
    )


def _coordinate_rules(crystals: Structures) -> Iterator[Rule]:
    coords = crystals.frac_coords
    far = ~(np.abs(coords) <= MAX_FRACTIONAL).all(axis=1)  # NaN too
    if not far.any():
        return
    infinite = ~np.isfinite(coords).all(axis=1)

    def infinite_message(k: int) -> str:
        bad = np.flatnonzero(infinite[crystals.atoms(k)])
        return (
            f"the coordinates of atom {bad[0] + 1} hold NaN or infinity ({len(bad)} such atoms); write the "
            "file again from its source"
        )

    def far_message(k: int) -> str:
        largest = np.abs(coords[crystals.atoms(k)]).max()
        return f"a fractional coordinate is {largest:.4g}; are the coordinates Cartesian? Divide them by the lattice"

    yield Rule(Reason.NAN_COORDINATES, _any(infinite, crystals), infinite_message)
    yield Rule(Reason.ABSURD_COORDINATES, _any(far, crystals), far_message)


def _any(atoms: NDArray[np.bool_], crystals: Structures) -> NDArray[np.bool_]:
    """Return which crystals hold an atom of those."""
    return np.logical_or.reduceat(atoms, crystals.atom_ptr[:-1])


def overlap(crystals: Structures, k: int, limits: Limits) -> str:
    """Return which atoms of crystal ``k``, which breaks no other rule, are too close; empty if none are."""
    atoms = crystals.atoms(k)
    pair = closest_pair(crystals.lattices[k], crystals.frac_coords[atoms], below=limits.min_distance)
    if pair is None:
        return ""
    numbers = crystals.atomic_numbers[atoms]
    names = [f"atom {i + 1} ({SYMBOLS[int(numbers[i]) - 1]})" for i in (pair.first, pair.second)]
    who = f"{names[0]} and {names[1]} are" if pair.first != pair.second else f"{names[0]} and its periodic image are"
    return (
        f"{who} {pair.distance:.3f} angstrom apart, closer than {limits.min_distance:g}; "
        "remove the duplicate site or alternative position, or lower --min-distance"
    )
