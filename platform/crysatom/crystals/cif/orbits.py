"""All atoms of a cell: the distinct images of the listed sites under the symmetry operations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysatom.crystals.cif.operations import Operations
from crysatom.crystals.cif.sites import Sites
from crysatom.crystals.quarantine import Reason, Rejection, short

LEAST_TOLERANCE, LARGEST_TOLERANCE = 1e-3, 0.1
"""Bounds, in angstrom, of the rounding within which images are one atom: no two atoms are this close."""

NEAR = 0.3
"""In angstrom: no two atoms are this close; images that are, but are not one atom, contradict the operations."""

LAST_DIGITS = 4
"""Largest rounding error between images of a site, in units of its last digit: 2/3 may be truncated to 0.666."""

_EXACT = 1e-6
"""In fractional coordinates: images of a site on its special position agree better than this."""

_GRID = 1 << 15
_OFFSET = 0.2718281828
"""Positions are compared on an integer grid; this offset keeps its boundaries away from usual coordinates."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Atoms:
    """Atoms of a cell.

    Attributes:
        frac_coords: ``(N, 3)``; the first atom of each site as listed, the others in [0, 1).
        atomic_numbers: ``(N,)`` int64.
        largest_shift: Largest shift of a site to its special position, in angstrom.
        num_shifted: Number of shifted sites.

    """

    frac_coords: Array
    atomic_numbers: NDArray[np.int64]
    largest_shift: float
    num_shifted: int


def all_atoms(sites: Sites, operations: Operations, lattice: Array) -> Atoms:
    """Return the atoms of a cell.

    A site whose images coincide up to rounding is moved to where they coincide exactly: the mean of its images under
    the operations that keep it (the projection on its site symmetry).

    Args:
        sites: Listed sites.
        operations: A group that fits the cell.
        lattice: ``(3, 3)``, rows a, b, c in angstrom.

    Raises:
        Rejection: If images are too close to be two atoms, and too far apart to be one.

    """
    if len(operations) == 1:
        return Atoms(sites.frac_coords, sites.atomic_numbers, 0.0, 0)
    lengths = np.linalg.norm(lattice, axis=1)
    tolerances = LAST_DIGITS * (sites.last_digits * lengths).max(axis=1)
    tolerances = np.clip(tolerances, LEAST_TOLERANCE, LARGEST_TOLERANCE)
    special, kept = _special_positions(sites, operations, lattice, tolerances)
    images = _images(special, operations)
    first, sizes = _distinct(images)
    if (sizes * kept != len(operations)).any():
        raise _nearly_special(sites.labels[int(np.flatnonzero(sizes * kept != len(operations))[0])])
    frac_coords = images.reshape(-1, 3)[first]
    frac_coords -= np.floor(frac_coords + _EXACT)
    frac_coords[np.cumsum(sizes) - sizes] = special
    shifts = np.linalg.norm((special - sites.frac_coords) @ lattice, axis=1)
    num_shifted = int((shifts > LEAST_TOLERANCE / 10).sum())
    return Atoms(frac_coords, np.repeat(sites.atomic_numbers, sizes), float(shifts.max()), num_shifted)


def _special_positions(
    sites: Sites, operations: Operations, lattice: Array, tolerances: Array
) -> tuple[Array, NDArray[np.int64]]:
    """Return ``(M, 3)`` sites moved to special positions, and the number of operations that keep each."""
    offsets = _offsets(sites.frac_coords, operations)
    distances = np.linalg.norm(offsets @ lattice, axis=2)
    kept = distances < tolerances[:, None]
    number = kept.sum(axis=1)
    special = sites.frac_coords + (offsets * kept[..., None]).sum(axis=1) / number[:, None]
    agree = ((np.abs(_offsets(special, operations)).max(axis=2) < _EXACT) == kept).all(axis=1)
    agree &= (kept == (distances < NEAR)).all(axis=1)
    if not agree.all():
        raise _nearly_special(sites.labels[int(np.flatnonzero(~agree)[0])])
    return special, number


def _images(x: Array, operations: Operations) -> Array:
    """Return ``(M, n, 3)`` images of M positions."""
    return np.asarray(np.einsum("nij,mj->mni", operations.rotations, x) + operations.translations)


def _offsets(x: Array, operations: Operations) -> Array:
    """Return ``(M, n, 3)`` fractional vectors from each position to the nearest periodic copy of each image."""
    offsets = _images(x, operations) - x[:, None]
    return np.asarray(offsets - np.rint(offsets))


def _distinct(images: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of distinct images among all ``M * n``, site by site, and their number per site."""
    num_sites, num_images = images.shape[:2]
    cells = np.floor((images - np.floor(images)) * _GRID + _OFFSET).astype(np.int64) % _GRID
    keys = ((np.arange(num_sites)[:, None] * _GRID + cells[..., 0]) * _GRID + cells[..., 1]) * _GRID + cells[..., 2]
    first = np.sort(np.unique(keys, return_index=True)[1])
    return first, np.bincount(first // num_images, minlength=num_sites)


def _nearly_special(label: str) -> Rejection:
    message = (
        f"images of site {short(label, 40)} are nearly at one place, nearer than atoms can be, which rounding of "
        "its digits does not explain; correct its coordinates, or the symmetry operations"
    )
    return Rejection(Reason.OVERLAPPING_ATOMS, message)
