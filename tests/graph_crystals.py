"""Real crystals, unusual descriptions of them, and an independent neighbor search."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch_geometric.data import Batch

from crysatom.config import GraphSpec, Limits
from crysatom.crystals.examine import examine
from crysatom.crystals.sources import read_source
from crysatom.crystals.table import STRUCTURE_FIELDS, Crystal, Structures, to_table
from crysatom.graphs.batch import collate
from crysatom.graphs.lattice_edges import with_lattice_edges
from crysatom.graphs.neighbors import neighbor_graphs
from crysatom.graphs.rows import to_rows
from crysatom.graphs.shards import schema_of
from crysatom.names import ATOMIC_NUMBERS, EMBEDDED_SOURCE, FRAC_COORDS, LATTICE, MATERIAL_ID


@functools.cache
def prototypes() -> list[Crystal]:
    """The 288 crystals in pymatgen."""
    crystals = [examine(record, Limits()) for record in read_source(EMBEDDED_SOURCE)]
    assert all(isinstance(c, Crystal) for c in crystals)
    return crystals


def small(limit: int, count: int) -> list[Crystal]:
    """Evenly chosen prototypes with at most ``limit`` atoms."""
    found = [c for c in prototypes() if len(c.atomic_numbers) <= limit]
    return found[:: max(1, len(found) // count)][:count]


def write_table(path: Path, crystals: list[Crystal], row_group_size: int = 64) -> None:
    pq.write_table(to_table(crystals), path, row_group_size=row_group_size)


def with_lattice(crystal: Crystal, lattice: np.ndarray, frac_coords: np.ndarray) -> Crystal:
    return Crystal(
        material_id=crystal.material_id,
        lattice=np.ascontiguousarray(lattice),
        frac_coords=np.ascontiguousarray(frac_coords),
        atomic_numbers=crystal.atomic_numbers,
    )


def other_cell(crystal: Crystal, transform: np.ndarray) -> Crystal:
    """The same crystal with lattice ``transform @ lattice``; the integer matrix has determinant 1 or -1."""
    return with_lattice(crystal, transform @ crystal.lattice, crystal.frac_coords @ np.linalg.inv(transform))


def random_transform(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return an integer matrix of determinant 1, with entries up to about ``size`` squared."""
    lower, upper = np.eye(3), np.eye(3)
    lower[np.tril_indices(3, -1)] = rng.integers(-size, size + 1, 3)
    upper[np.triu_indices(3, 1)] = rng.integers(-size, size + 1, 3)
    return lower @ upper


def rotated(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return with_lattice(crystal, crystal.lattice @ (q * np.sign(np.diag(r))), crystal.frac_coords)


def translated(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    return with_lattice(crystal, crystal.lattice, crystal.frac_coords + rng.normal(size=3))


def unwrapped(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    cells = rng.integers(-3, 4, crystal.frac_coords.shape)
    return with_lattice(crystal, crystal.lattice, crystal.frac_coords + cells)


def in_another_cell(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    return other_cell(crystal, random_transform(rng, 2))


def reordered(crystal: Crystal, order: np.ndarray) -> Crystal:
    """The same crystal with its sites in another order."""
    return Crystal(
        material_id=crystal.material_id,
        lattice=crystal.lattice,
        frac_coords=crystal.frac_coords[order],
        atomic_numbers=crystal.atomic_numbers[order],
    )


def supercell(crystal: Crystal, repeats: tuple[int, int, int]) -> Crystal:
    cells = np.array(list(itertools.product(*map(range, repeats))))
    frac = (crystal.frac_coords[:, None] + cells) / np.array(repeats)
    return Crystal(
        material_id=crystal.material_id,
        lattice=crystal.lattice * np.array(repeats)[:, None],
        frac_coords=frac.reshape(-1, 3),
        atomic_numbers=np.repeat(crystal.atomic_numbers, len(cells)),
    )


def batch_of(crystals: list[Crystal], spec: GraphSpec) -> Batch:
    """Featurize crystals and join them, without files."""
    if not crystals:
        return collate(schema_of(spec).empty_table())
    sizes = [len(c.atomic_numbers) for c in crystals]
    structures = Structures(
        material_ids=[c.material_id for c in crystals],
        lattices=np.stack([c.lattice for c in crystals]),
        frac_coords=np.concatenate([c.frac_coords for c in crystals]),
        atom_ptr=np.concatenate([[0], np.cumsum(sizes)]),
        atomic_numbers=np.concatenate([c.atomic_numbers for c in crystals]),
    )
    arrays = structures.lattices, structures.frac_coords, structures.atom_ptr
    graphs = with_lattice_edges(neighbor_graphs(*arrays, spec), *arrays, structures.atomic_numbers, spec)
    return collate(to_rows(structures, graphs, spec))


def brute_force(crystal: Crystal, cutoff: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All neighbors within the cutoff of each atom, by a search over all images: (neighbor, image, distance).

    A vector of length r has a fractional component k of at most r times the length of the reciprocal vector k.
    """
    coords = crystal.frac_coords
    spread = np.ptp(coords, axis=0)
    counts = np.ceil(cutoff * np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0) + spread).astype(int)
    images = np.array(list(itertools.product(*(range(-n, n + 1) for n in counts))))
    result = []
    for i in range(len(coords)):
        vectors = (coords[None, :, :] + images[:, None, :] - coords[i]) @ crystal.lattice
        distances = np.linalg.norm(vectors, axis=2)
        near = distances <= cutoff + 1e-7
        near[(images == 0).all(axis=1), i] = False
        which, neighbor = np.nonzero(near)
        result.append((neighbor, images[which], distances[near]))
    return result


def expected_edges(crystal: Crystal, spec: GraphSpec) -> list[set[tuple[int, ...]]]:
    """The edges of each atom under the rule 'complete', as sets of (neighbor, image)."""
    edges = []
    for neighbor, image, distance in brute_force(crystal, spec.cutoff):
        last = np.sort(distance)[: spec.num_neighbors][-1] if len(distance) >= spec.num_neighbors else np.inf
        kept = distance <= last + spec.tie_tolerance + 1e-7
        edges.append({(int(j), *map(int, cell)) for j, cell in zip(neighbor[kept], image[kept], strict=True)})
    return edges


def as_batch(crystals: list[Crystal]) -> pa.RecordBatch:
    """The columns from which graphs are made; unlike in a crystal table, values are arbitrary."""
    rows = [
        {
            MATERIAL_ID: c.material_id,
            LATTICE: c.lattice.ravel(),
            FRAC_COORDS: c.frac_coords.ravel(),
            ATOMIC_NUMBERS: c.atomic_numbers,
        }
        for c in crystals
    ]
    return pa.RecordBatch.from_pylist(rows, schema=pa.schema(STRUCTURE_FIELDS[:4]))
