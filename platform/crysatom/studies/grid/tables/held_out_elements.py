"""Error on crystals with elements that no training crystal holds, on different vectors."""

from __future__ import annotations

import dataclasses

from crysatom.config import GridConfig
from crysatom.config.downstream import HELD_OUT_ELEMENTS
from crysatom.studies.grid.common import JARVIS, SOME_VECTORS, of_vectors
from crysatom.studies.grid.design import Grid, Row, rows_by_share

GROUPS = ("Fe,Co", "Cl", "Sr", "La")
"""A transition pair, a halogen, an alkaline earth, a lanthanide; unless others are asked for."""


def grid() -> Grid:
    """Return a row per property and group of elements."""
    return Grid(
        title="Error on crystals with elements that no training crystal holds",
        columns=of_vectors(SOME_VECTORS),
        properties=JARVIS,
        rows=_rows,
        held_out=True,
    )


def _rows(config: GridConfig) -> list[Row]:
    return [
        dataclasses.replace(
            row,
            label=", ".join([f"without {group}", *filter(None, [row.label])]),
            settings={**row.settings, "split": f"{HELD_OUT_ELEMENTS}{group}"},
        )
        for name in config.properties
        for group in config.held_out or GROUPS
        for row in rows_by_share(config.replace(properties=(name,)))
    ]
