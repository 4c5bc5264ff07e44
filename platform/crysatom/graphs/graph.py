"""Crystal graphs in flat arrays: one store for many crystals, never a Python object per crystal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class GraphArrays:
    """Periodic neighbor graphs of B crystals with N atoms and E directed edges in all.

    Atoms are in crystal order; edges in order of the atom they arrive at ("center"), so that the
    edges of atom i are ``edge_ptr[i]:edge_ptr[i + 1]`` and those of crystal b are contiguous.

    Attributes:
        material_ids: ``(B,)`` object array of str.
        material_keys: ``(B,)`` int64, stable hash of the id; seeds the views of the crystal.
        atom_ptr: ``(B + 1,)`` int64, first atom of each crystal.
        edge_ptr: ``(N + 1,)`` int64, first edge of each atom.
        atomic_numbers: ``(N,)`` uint8.
        neighbor: ``(E,)`` uint16, index *within its crystal* of the atom the edge comes from.
        distance: ``(E,)`` float32, angstrom.

    """

    material_ids: np.ndarray
    material_keys: np.ndarray
    atom_ptr: np.ndarray
    edge_ptr: np.ndarray
    atomic_numbers: np.ndarray
    neighbor: np.ndarray
    distance: np.ndarray

    @property
    def num_crystals(self) -> int:
        """B."""
        return len(self.atom_ptr) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that a training step reads."""
        arrays = (self.material_keys, self.atom_ptr, self.edge_ptr, self.atomic_numbers, self.neighbor, self.distance)
        return sum(a.nbytes for a in arrays)
