"""Periodic neighbor lists: the nearest neighbors of every atom, independent of site order.

Shapes: B crystals, N atoms, P candidate pairs, E edges. Lengths in angstrom.

Distances are rounded to a grid of ``RESOLUTION``. Distances of symmetry-equivalent neighbors, which differ
only in the last bits, become equal, and comparisons with the cutoff or with the last neighbor's distance
are comparisons of integers: the result does not change with rotation, cell choice or rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.config import GraphSpec
from crysatom.crystals.spheres import pairs_within
from crysatom.graphs.lattices import SKEWED, reduce_lattice, skewness

RESOLUTION = 2.0**-20
"""Grid of distances, 9.5e-7 angstrom; its multiples are exact in float32 up to 16 angstrom."""

_DISTANCE_BITS = 26  # 50 angstrom, the largest cutoff, is 2**25.7 grid steps
_NEIGHBOR_BITS = 16  # atoms of a crystal are numbered in uint16
_ATOMS_PER_BLOCK = 2048  # bounds memory; sort keys allow 2**21; speed hardly depends on it

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Edges of one or more crystals, in order of the center atom, then of distance.

    Attributes:
        degree: ``(N,)`` int64, edges of each atom.
        neighbor: ``(E,)`` int64, index of the neighbor within its crystal.
        image: ``(E, 3)`` int64; ``(frac[neighbor] + image - frac[center]) @ lattice`` is the edge's vector.
        distance: ``(E,)`` float32.

    """

    degree: Array
    neighbor: Array
    image: Array
    distance: Array


def neighbor_graph(lattice: Array, frac_coords: Array, spec: GraphSpec) -> Neighbors:
    """Connect each atom of one crystal to its nearest neighbors.

    Args:
        lattice: ``(3, 3)``, rows a, b, c.
        frac_coords: ``(N, 3)``, not necessarily wrapped to [0, 1).
        spec: Cutoff, number of neighbors, and what to do about ties and short lists.

    """
    return neighbor_graphs(np.asarray(lattice)[None], frac_coords, np.array([0, len(frac_coords)]), spec)


def neighbor_graphs(lattices: Array, frac_coords: Array, atom_ptr: Array, spec: GraphSpec) -> Neighbors:
    """Connect the atoms of B crystals; one search per crystal, later steps for all crystals at once.

    Args:
        lattices: ``(B, 3, 3)``, of non-zero volume, either handedness.
        frac_coords: ``(N, 3)``, finite, not necessarily wrapped.
        atom_ptr: ``(B + 1,)``, first atom of each crystal.
        spec: Cutoff, number of neighbors, and what to do about ties and short lists.

    """
    lattices = np.ascontiguousarray(lattices, dtype=np.float64)
    frac_coords = np.ascontiguousarray(frac_coords, dtype=np.float64)
    blocks = [
        _block(
            lattices[first:last],
            frac_coords[atom_ptr[first] : atom_ptr[last]],
            atom_ptr[first : last + 1] - atom_ptr[first],
            spec,
        )
        for first, last in _blocks(atom_ptr)
    ]
    return Neighbors(
        degree=np.concatenate([b.degree for b in blocks] or [np.zeros(0, np.int64)]),
        neighbor=np.concatenate([b.neighbor for b in blocks] or [np.zeros(0, np.int64)]),
        image=np.concatenate([b.image for b in blocks] or [np.zeros((0, 3), np.int64)]),
        distance=np.concatenate([b.distance for b in blocks] or [np.zeros(0, np.float32)]),
    )


def _blocks(atom_ptr: Array) -> Iterator[tuple[int, int]]:
    """Split the crystals into consecutive runs of about ``_ATOMS_PER_BLOCK`` atoms."""
    block = atom_ptr[:-1] // _ATOMS_PER_BLOCK
    bounds = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(block)]
    return ((first, last) for first, last in itertools.pairwise(bounds) if first < last)


@dataclass(frozen=True)
class _Pairs:
    """Candidate pairs: ``center`` is an index within the block, ``neighbor`` within the crystal."""

    center: Array
    neighbor: Array
    image: Array
    steps: Array  # distance in units of RESOLUTION

    def __getitem__(self, index: Array) -> _Pairs:
        return _Pairs(self.center[index], self.neighbor[index], self.image[index], self.steps[index])


def _block(lattices: Array, frac_coords: Array, atom_ptr: Array, spec: GraphSpec) -> Neighbors:
    num_atoms = int(atom_ptr[-1])
    pairs = _nearest(_candidates(lattices, frac_coords, atom_ptr, spec), num_atoms, spec)
    if spec.reverse_edges != "none":
        pairs = _both_ways(
            pairs, np.repeat(atom_ptr[:-1], np.diff(atom_ptr)), doubled=spec.reverse_edges == "published"
        )
        return sorted_edges(pairs.center, pairs.neighbor, pairs.image, pairs.steps, num_atoms=num_atoms)
    found = _neighbors(pairs, num_atoms)
    return _padded(found, pairs.center, spec) if spec.pad_short_lists else found


def _neighbors(pairs: _Pairs, num_atoms: int) -> Neighbors:
    degree = np.bincount(pairs.center, minlength=num_atoms)
    distance = (pairs.steps * RESOLUTION).astype(np.float32)
    return Neighbors(degree=degree, neighbor=pairs.neighbor, image=pairs.image, distance=distance)


def sorted_edges(center: Array, neighbor: Array, image: Array, steps: Array, *, num_atoms: int) -> Neighbors:
    """Return edges sorted by center, then by distance, site and image.

    Args:
        center: ``(E,)`` atom at which each edge arrives.
        neighbor: ``(E,)`` index within its crystal of the atom the edge comes from.
        image: ``(E, 3)`` cell of that atom.
        steps: ``(E,)`` length in units of :data:`RESOLUTION`.
        num_atoms: Number of atoms of all crystals.

    """
    order = np.lexsort((*image.T[::-1], neighbor, steps, center))
    return _neighbors(_Pairs(center, neighbor, image, steps)[order], num_atoms)


def _both_ways(pairs: _Pairs, first_atom: Array, *, doubled: bool) -> _Pairs:
    """Return each edge once in both directions, with equal lengths; edges to own images twice if ``doubled``.

    Args:
        pairs: Edges.
        first_atom: ``(N,)``, first atom of each atom's crystal.
        doubled: Whether to follow ALIGNN's code.

    """
    first = first_atom[pairs.center]
    center = np.concatenate([pairs.center, first + pairs.neighbor])
    neighbor = np.concatenate([pairs.neighbor, pairs.center - first])
    image = np.concatenate([pairs.image, -pairs.image])
    steps = np.tile(pairs.steps, 2)
    order = np.lexsort((steps, *image.T, neighbor, center))  # a length may differ in its last bit between directions
    center, neighbor, image, steps = center[order], neighbor[order], image[order], steps[order]
    new = np.ones(len(center), dtype=bool)
    new[1:] = (np.diff(center) != 0) | (np.diff(neighbor) != 0) | np.diff(image, axis=0).any(axis=1)
    kept = np.flatnonzero(new)
    if doubled:
        own = center[kept] == first_atom[center[kept]] + neighbor[kept]
        kept = np.repeat(kept, 1 + own)
    return _Pairs(center[kept], neighbor[kept], image[kept], steps[kept])


def _candidates(lattices: Array, frac_coords: Array, atom_ptr: Array, spec: GraphSpec) -> _Pairs:
    """Return all pairs within the cutoff that can be among the nearest, in any order."""
    volumes = np.abs(np.linalg.det(lattices))
    skewed = skewness(lattices) > SKEWED
    found = []
    for b, lattice in enumerate(lattices):
        start, stop = int(atom_ptr[b]), int(atom_ptr[b + 1])
        search = _search_reduced if skewed[b] else _search
        center, neighbor, image, distance = search(lattice, frac_coords[start:stop], float(volumes[b]), spec)
        found.append((center + start, neighbor, image, distance))
    center, neighbor, image, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Pairs(center, neighbor, image, np.rint(distance / RESOLUTION).astype(np.int64))


def _search(lattice: Array, frac_coords: Array, volume: float, spec: GraphSpec) -> tuple[Array, Array, Array, Array]:
    """Search spheres that grow until each holds enough neighbors or reaches the cutoff."""
    outside = np.floor(frac_coords)
    cart_coords = (frac_coords - outside) @ lattice
    enough = spec.num_neighbors + 1  # an atom also finds itself
    expected = 2.2 * spec.num_neighbors  # a first radius that is sufficient for most crystals
    radius = (3 * expected * volume / (4 * math.pi * len(frac_coords))) ** (1 / 3)
    margin = spec.tie_tolerance + 4 * RESOLUTION  # so that the shell of the last neighbor is complete
    while True:
        reach = min(radius + margin, spec.cutoff + RESOLUTION)
        center, neighbor, image, distance = pairs_within(lattice, cart_coords, reach, tol=1e-8)
        complete = radius >= spec.cutoff
        if complete or np.bincount(center[distance <= radius], minlength=len(frac_coords)).min() >= enough:
            break
        radius *= 1.35
    other = (center != neighbor) | image.any(axis=1)
    center, neighbor = center[other], neighbor[other]
    return center, neighbor, (image[other] - outside[neighbor] + outside[center]).astype(np.int64), distance[other]


def _search_reduced(
    lattice: Array, frac_coords: Array, volume: float, spec: GraphSpec
) -> tuple[Array, Array, Array, Array]:
    """Search in a compact cell of the same crystal and express the images in the given cell."""
    transform = reduce_lattice(lattice)
    reduced_frac = frac_coords @ np.rint(np.linalg.inv(transform))
    center, neighbor, image, distance = _search(transform @ lattice, reduced_frac, volume, spec)
    return center, neighbor, image @ transform, distance


def _nearest(pairs: _Pairs, num_atoms: int, spec: GraphSpec) -> _Pairs:
    """Keep each atom's nearest neighbors, sorted by distance, then by site, then by image."""
    pairs = pairs[pairs.steps <= round(spec.cutoff / RESOLUTION)]
    key = (((pairs.center << _DISTANCE_BITS) | pairs.steps) << _NEIGHBOR_BITS) | pairs.neighbor
    order = np.argsort(key)
    pairs, key = pairs[order], key[order]
    tolerance = math.ceil(spec.tie_tolerance / RESOLUTION) if spec.ties == "complete" else 0
    kept = pairs.steps <= _last_steps(pairs, num_atoms, spec.num_neighbors)[pairs.center] + tolerance
    pairs, key = pairs[kept], key[kept]
    pairs = pairs[_order_images(key, pairs.image)]
    return pairs if spec.ties == "complete" else pairs[_rank(pairs.center, num_atoms) < spec.num_neighbors]


def _last_steps(pairs: _Pairs, num_atoms: int, num_neighbors: int) -> Array:
    """Return ``(N,)`` distances of the last neighbor that each atom is entitled to, of sorted pairs."""
    degree = np.bincount(pairs.center, minlength=num_atoms)
    last = np.cumsum(degree) - degree + num_neighbors - 1
    steps = np.full(num_atoms, np.iinfo(np.int64).max // 2)
    enough = degree >= num_neighbors
    steps[enough] = pairs.steps[last[enough]]
    return steps


def _order_images(key: Array, image: Array) -> Array:
    """Return the order that sorts pairs of equal key by image; only these few pairs are sorted."""
    order = np.arange(len(key))
    equal = key[1:] == key[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    order[tied] = tied[np.lexsort((*image[tied].T[::-1], key[tied]))]
    return order


def _rank(center: Array, num_atoms: int) -> Array:
    """Return ``(E,)`` positions of edges (sorted by center) within the lists of their atoms."""
    degree = np.bincount(center, minlength=num_atoms)
    return np.arange(len(center)) - np.repeat(np.cumsum(degree) - degree, degree)


def _padded(found: Neighbors, center: Array, spec: GraphSpec) -> Neighbors:
    """Fill short lists with edges of length cutoff + 1 to the crystal's first atom."""
    degree = np.maximum(found.degree, spec.num_neighbors)
    total = int(degree.sum())
    position = (np.cumsum(degree) - degree)[center] + _rank(center, len(degree))
    neighbor, image = np.zeros(total, np.int64), np.zeros((total, 3), np.int64)
    distance = np.full(total, spec.cutoff + 1, np.float32)
    neighbor[position], image[position], distance[position] = found.neighbor, found.image, found.distance
    return Neighbors(degree=degree, neighbor=neighbor, image=image, distance=distance)
