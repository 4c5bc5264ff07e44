"""Find pairs of atoms within a distance, in cells of any shape and density, with bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

MAX_CUBES = 200_000
"""Limit for pymatgen's search, which covers the box around the atoms with cubes of 0.3 kB each, empty or not."""

_PERIODIC = np.ones(3, dtype=np.int64)

Array = NDArray[Any]


def pairs_within(lattice: Array, coords: Array, radius: float, *, tol: float) -> tuple[Array, Array, Array, Array]:
    """Return all pairs of atoms within a distance, including periodic images and each atom with itself.

    Args:
        lattice: ``(3, 3)``, rows a, b, c in angstrom, compact: adding other rows hardly shortens a row.
        coords: ``(N, 3)``, Cartesian, in angstrom.
        radius: The distance, in angstrom.
        tol: Tolerance of pymatgen's search, which is used unless the box around the atoms is too large.

    Returns:
        ``(P,)`` center, ``(P,)`` neighbor, ``(P, 3)`` image of the neighbor, ``(P,)`` distance.

    """
    cubes = np.prod((np.ptp(coords, axis=0) + 2 * radius) / max(radius, 1.0) + 1)
    if cubes > MAX_CUBES:
        return _by_tree(lattice, coords, radius)
    center, neighbor, image, distance = find_points_in_spheres(
        coords, coords, r=radius, pbc=_PERIODIC, lattice=np.ascontiguousarray(lattice), tol=tol
    )
    return center, neighbor, image, distance


def _by_tree(lattice: Array, coords: Array, radius: float) -> tuple[Array, Array, Array, Array]:
    from scipy.spatial import KDTree

    inverse = np.linalg.inv(lattice)
    frac = coords @ inverse
    cells = np.floor(frac)
    frac = frac - cells
    reach = radius * np.linalg.norm(inverse, axis=0) + 1e-9  # in units of the cell
    ranges = [np.arange(-n, n + 1.0) for n in np.ceil(reach).astype(int)]
    points, which, shifts = [], [], []
    for shift in np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3):
        near = np.flatnonzero(((frac + shift >= -reach) & (frac + shift <= 1 + reach)).all(axis=1))
        if len(near):
            points.append((frac[near] + shift) @ lattice)
            which.append(near)
            shifts.append(np.broadcast_to(shift, (len(near), 3)))
    found = KDTree(frac @ lattice).sparse_distance_matrix(KDTree(np.concatenate(points)), radius, output_type="ndarray")
    center, neighbor = found["i"].astype(np.int64), np.concatenate(which)[found["j"]]
    image = np.concatenate(shifts)[found["j"]] - cells[neighbor] + cells[center]
    return center, neighbor, image, found["v"]
