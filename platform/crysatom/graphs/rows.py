"""Convert crystals and their edges to the rows of a graph shard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crysatom.config import GraphSpec
from crysatom.crystals.table import Structures
from crysatom.graphs.columns import list_array
from crysatom.graphs.graph import material_keys, offsets
from crysatom.graphs.lattice_edges import first_copies
from crysatom.graphs.neighbors import Neighbors
from crysatom.graphs.potentials import pair_potentials
from crysatom.graphs.shards import schema_of
from crysatom.names import (
    ATOMIC_NUMBERS,
    DEGREE,
    DISTANCE,
    IMAGE,
    MATERIAL_ID,
    MATERIAL_KEY,
    NEIGHBOR,
    POTENTIAL,
    VECTOR,
)

POTENTIAL_RESOLUTION = 2.0**-20
"""Grid of lattice sums; rounding to it makes those of equivalent pairs equal."""

Array = NDArray[Any]


def to_rows(crystals: Structures, graphs: Neighbors, spec: GraphSpec) -> pa.RecordBatch:
    """Return crystals and their graphs as rows of a shard."""
    num_atoms = np.diff(crystals.atom_ptr)
    num_edges = np.diff(offsets(graphs.degree)[crystals.atom_ptr])
    columns = {
        MATERIAL_ID: pa.array(crystals.material_ids, pa.string()),
        MATERIAL_KEY: pa.array(material_keys(crystals.material_ids)),
        ATOMIC_NUMBERS: list_array(crystals.atomic_numbers.astype(np.uint8), num_atoms),
        DEGREE: list_array(graphs.degree.astype(np.uint16), num_atoms),
        NEIGHBOR: list_array(graphs.neighbor.astype(np.uint16), num_edges),
        IMAGE: list_array(graphs.image.astype(np.int8), 3 * num_edges),
        DISTANCE: list_array(graphs.distance, num_edges),
    }
    if spec.directions:
        columns[VECTOR] = list_array(edge_vectors(crystals, graphs).astype(np.float32), 3 * num_edges)
    if spec.potentials != "none":
        columns[POTENTIAL] = list_array(_potentials(crystals, spec), num_atoms**2)
    schema = schema_of(spec)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def edge_vectors(crystals: Structures, graphs: Neighbors) -> Array:
    """Return ``(E, 3)`` vectors from the center of each edge to its neighbor, float64, in angstrom."""
    atom = np.repeat(np.arange(len(graphs.degree)), graphs.degree)
    crystal = np.repeat(np.arange(len(crystals.lattices)), np.diff(crystals.atom_ptr))[atom]
    neighbor = crystals.atom_ptr[crystal] + graphs.neighbor
    apart = crystals.frac_coords[neighbor] + graphs.image - crystals.frac_coords[atom]
    vectors: Array = np.einsum("ei,eij->ej", apart, crystals.lattices[crystal])
    return vectors


def _potentials(crystals: Structures, spec: GraphSpec) -> Array:
    """Return the sums of all pairs of each crystal's atoms, concatenated, float32.

    In a cell that is not primitive, an atom and its translated copies share one sum over the images of all of them. It
    is stored at the first; the others have NaN. Each atom of a supercell thus has the pairs of the primitive cell. The
    published code does not do this.
    """
    parts = [np.zeros(0)]
    for lattice, first, last in zip(crystals.lattices, crystals.atom_ptr, crystals.atom_ptr[1:], strict=False):
        coords = crystals.frac_coords[first:last]
        if spec.potentials == "published":
            parts.append(pair_potentials(lattice, coords, "paper").ravel())
            continue
        sums = pair_potentials(lattice, coords)
        copy_of = first_copies(lattice, coords, crystals.atomic_numbers[first:last], spec.tie_tolerance)
        kept = np.full_like(sums, np.nan)
        different, which = np.unique(copy_of, return_inverse=True)
        kept[:, different] = sums @ np.eye(len(different))[which]
        parts.append(kept.ravel())
    return np.rint(np.concatenate(parts) / POTENTIAL_RESOLUTION).astype(np.float32) * np.float32(POTENTIAL_RESOLUTION)
