"""The crystal table: the Arrow schema every source is brought to, and the checks a crystal must pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from crysatom.names import ATOMIC_NUMBERS, FORMULA, FRAC_COORDS, LATTICE, MATERIAL_ID

STRUCTURE_FIELDS: tuple[pa.Field, ...] = (
    pa.field(MATERIAL_ID, pa.string(), nullable=False),
    pa.field(LATTICE, pa.list_(pa.float64()), nullable=False, metadata={"unit": "angstrom", "layout": "3x3 row-major, rows a b c"}),
    pa.field(FRAC_COORDS, pa.list_(pa.float64()), nullable=False, metadata={"unit": "fractional", "layout": "N x 3 row-major"}),
    pa.field(ATOMIC_NUMBERS, pa.list_(pa.uint8()), nullable=False),
    pa.field(FORMULA, pa.string(), nullable=False),
)
"""The structure columns, in file order; property and split columns follow them."""


@dataclass(frozen=True, kw_only=True)
class Crystal:
    """One periodic crystal.

    Attributes:
        material_id: Identifier, unique within a table.
        lattice: ``(3, 3)`` float64, rows a, b, c in angstrom.
        frac_coords: ``(N, 3)`` float64, fractional, not necessarily wrapped to [0, 1).
        atomic_numbers: ``(N,)`` uint8.
        properties: Values of further columns, by column name.

    """

    material_id: str
    lattice: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray
    properties: dict[str, Any] = field(default_factory=dict)
