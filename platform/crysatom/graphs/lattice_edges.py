"""Edges along lattice vectors, which encode the periodicity itself (Yan et al., Matformer, NeurIPS 2022).

Shapes: B crystals, N atoms, E edges. Lengths in angstrom.

The six published vectors depend on the cell in which a crystal is given. The default here depends on the crystal
alone: the shortest translation of each of the seven nonzero classes modulo twice a translation ("Voronoi vectors";
Conway & Sloane, Proc. R. Soc. A 436, 55 (1992)). Their lengths determine the lattice and change continuously with it.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.config import GraphSpec
from crysatom.graphs.lattices import reduce_lattice
from crysatom.graphs.neighbors import RESOLUTION, Neighbors, sorted_edges

PUBLISHED = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
"""Vectors of Matformer's edges, in units of the cell vectors."""

_CLASSES = [np.array(parity) for parity in itertools.product((0, 1), repeat=3) if any(parity)]

Array = NDArray[Any]


def with_lattice_edges(
    found: Neighbors, lattices: Array, frac_coords: Array, atom_ptr: Array, atomic_numbers: Array, spec: GraphSpec
) -> Neighbors:
    """Add edges along lattice vectors to the edges of B crystals, as ``spec.lattice_edges`` selects.

    Args:
        found: Edges so far.
        lattices: ``(B, 3, 3)``.
        frac_coords: ``(N, 3)``.
        atom_ptr: ``(B + 1,)``, first atom of each crystal.
        atomic_numbers: ``(N,)``.
        spec: Graph specification.

    """
    if spec.lattice_edges == "none":
        return found
    center = np.repeat(np.arange(len(found.degree)), found.degree)
    columns = [(center, found.neighbor, found.image, np.rint(found.distance / RESOLUTION).astype(np.int64))]
    for b, lattice in enumerate(lattices):
        atoms = slice(atom_ptr[b], atom_ptr[b + 1])
        coords = frac_coords[atoms]
        if spec.lattice_edges == "cell":
            moves = PUBLISHED.astype(float)
        else:
            cell = primitive_cell(lattice, coords, atomic_numbers[atoms], spec.tie_tolerance)
            moves = voronoi_vectors(cell @ lattice) @ cell
        for move in np.concatenate([moves, -moves]):
            neighbor, image = _moved(coords, lattice, move)
            steps = np.full(len(coords), round(float(np.linalg.norm(move @ lattice)) / RESOLUTION), np.int64)
            columns.append((np.arange(len(coords)) + atom_ptr[b], neighbor, image, steps))
    return sorted_edges(*(np.concatenate(parts) for parts in zip(*columns, strict=True)), num_atoms=len(found.degree))


def voronoi_vectors(lattice: Array) -> Array:
    """Return ``(7, 3)`` integers: a shortest vector of each nonzero class modulo 2, in units of the cell.

    Args:
        lattice: ``(3, 3)``, rows a, b, c.

    """
    transform = reduce_lattice(lattice)
    # in a pairwise reduced cell, the shortest vector of a class has coefficients of at most 2
    vectors = []
    for parity in _CLASSES:
        candidates = parity - 2 * np.array(list(itertools.product((0, 1, -1), repeat=3)))
        vectors.append(candidates[np.linalg.norm(candidates @ transform @ lattice, axis=1).argmin()])
    return np.array(vectors) @ transform


def primitive_cell(lattice: Array, frac_coords: Array, atomic_numbers: Array, tolerance: float) -> Array:
    """Return the rows of a primitive cell in units of the given cell, ``(3, 3)``; the identity if that is primitive.

    Args:
        lattice: ``(3, 3)``, rows a, b, c.
        frac_coords: ``(N, 3)``.
        atomic_numbers: ``(N,)``.
        tolerance: How far from each other atoms may be that a translation brings together, in angstrom.

    """
    moves = translations(lattice, frac_coords, atomic_numbers, tolerance)
    if not len(moves):
        return np.eye(3)
    count = len(moves) + 1
    # every translation is a whole number of 1/count along each axis: the finite group has `count` elements
    generators = np.concatenate([np.rint(moves * count).astype(np.int64), count * np.eye(3, dtype=np.int64)])
    return _row_basis(generators) / count


def translations(lattice: Array, frac_coords: Array, atomic_numbers: Array, tolerance: float) -> Array:
    """Return ``(k, 3)`` translations in [0, 1) that map a crystal onto itself, except those of the given lattice."""
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    if np.gcd.reduce(counts) == 1:  # the number of primitive cells in the given cell divides every count
        return np.zeros((0, 3))
    rarest = np.flatnonzero(atomic_numbers == numbers[counts.argmin()])
    same = atomic_numbers[:, None] == atomic_numbers
    kept = []
    for candidate in frac_coords[rarest[1:]] - frac_coords[rarest[0]]:
        apart = frac_coords[:, None] + candidate - frac_coords
        distance = np.linalg.norm((apart - np.rint(apart)) @ lattice, axis=2)
        if (np.where(same, distance, np.inf).min(axis=1) <= tolerance).all():
            kept.append(candidate - np.floor(candidate))
    return np.array(kept).reshape(-1, 3)


def first_copies(lattice: Array, frac_coords: Array, atomic_numbers: Array, tolerance: float) -> Array:
    """Return ``(N,)``, the first atom that a translation maps to each atom; itself in a primitive cell.

    Args:
        lattice: ``(3, 3)``, rows a, b, c.
        frac_coords: ``(N, 3)``.
        atomic_numbers: ``(N,)``.
        tolerance: How far from each other atoms may be that a translation brings together, in angstrom.

    """
    first = np.arange(len(frac_coords))
    for move in translations(lattice, frac_coords, atomic_numbers, tolerance):
        np.minimum.at(first, _moved(frac_coords, lattice, move)[0], np.arange(len(frac_coords)))
    return first


def _row_basis(generators: Array) -> Array:
    """Return the ``(3, 3)`` basis of the lattice that integer rows generate, in Hermite normal form."""
    rows = generators.copy()
    basis = np.zeros((3, 3), dtype=np.int64)
    for column in range(3):
        while np.count_nonzero(rows[:, column]) > 1:
            nonzero = np.flatnonzero(rows[:, column])
            least = nonzero[np.abs(rows[nonzero, column]).argmin()]
            others = nonzero[nonzero != least]
            rows[others] -= (rows[others, column] // rows[least, column])[:, None] * rows[least]
        [pivot] = np.flatnonzero(rows[:, column])
        basis[column] = rows[pivot]
        rows = np.delete(rows, pivot, axis=0)
    return basis


def _moved(frac_coords: Array, lattice: Array, move: Array) -> tuple[Array, Array]:
    """Return the atom at the place to which each atom is moved, ``(N,)``, and the cell of that atom, ``(N, 3)``."""
    if np.equal(move, np.rint(move)).all():
        return np.arange(len(frac_coords)), np.repeat(np.rint(move).astype(np.int64)[None], len(frac_coords), axis=0)
    apart = frac_coords[:, None] + move - frac_coords
    cells = np.rint(apart)
    neighbor = np.linalg.norm((apart - cells) @ lattice, axis=2).argmin(axis=1)
    return neighbor, cells[np.arange(len(frac_coords)), neighbor].astype(np.int64)
