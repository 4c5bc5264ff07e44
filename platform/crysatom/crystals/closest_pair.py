"""Find the closest pair of atoms in a crystal, including periodic images, if it is too close."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pymatgen.core import Lattice

from crysatom.crystals.spheres import pairs_within

DENSE_ATOMS = 200
"""Cells up to this size are searched over all pairs, larger ones with cell lists; measured as faster."""


class Pair(NamedTuple):
    """Two atoms (equal if an atom meets its own image) and their distance in angstrom."""

    first: int
    second: int
    distance: float


def closest_pair(lattice: np.ndarray, frac_coords: np.ndarray, *, below: float) -> Pair | None:
    """Return the closest two atoms if they are closer than ``below``, else None.

    A vector shorter than ``below`` has fractional components smaller than ``below`` divided by the heights of the
    cell. If all heights exceed twice ``below``, these are under one half, so only the pair difference wrapped to
    [-1/2, 1/2] matters, and searching all pairs is exact.

    Args:
        lattice: ``(3, 3)`` rows a, b, c in angstrom, of positive volume.
        frac_coords: ``(N, 3)`` finite.
        below: In angstrom; 0 finds nothing.

    """
    if below <= 0:
        return None
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    if len(frac_coords) <= DENSE_ATOMS and heights.min() > 2 * below:
        return _among_all_pairs(lattice, frac_coords, below)
    return _with_cell_lists(lattice, frac_coords, below)


def _among_all_pairs(lattice: np.ndarray, frac_coords: np.ndarray, below: float) -> Pair | None:
    difference = frac_coords[:, None] - frac_coords[None]
    difference -= np.rint(difference)
    vectors = difference @ lattice
    squares = np.einsum("ijk,ijk->ij", vectors, vectors)
    np.fill_diagonal(squares, np.inf)
    first, second = divmod(int(squares.argmin()), len(squares))
    distance = float(np.sqrt(squares[first, second]))
    return Pair(first, second, distance) if distance < below else None


def _with_cell_lists(lattice: np.ndarray, frac_coords: np.ndarray, below: float) -> Pair | None:
    # Reduce the cell first: the search visits below / height images per direction, too many in a skewed cell.
    reduced = Lattice(lattice).get_lll_reduced_lattice()
    shortest = min(reduced.abc)
    if shortest < below:
        return Pair(0, 0, float(shortest))
    coords = np.ascontiguousarray(frac_coords @ lattice)
    first, second, images, distances = pairs_within(np.array(reduced.matrix), coords, below, tol=1e-12)
    itself = (first == second) & (np.abs(images).sum(axis=1) == 0)
    candidates = np.flatnonzero(~itself & (distances < below))
    if not len(candidates):
        return None
    best = candidates[distances[candidates].argmin()]
    return Pair(int(first[best]), int(second[best]), float(distances[best]))
