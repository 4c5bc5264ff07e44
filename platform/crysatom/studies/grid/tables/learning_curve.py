"""Error against the share of the labels that training reads, on different vectors."""

from __future__ import annotations

from crysatom.config import GridConfig
from crysatom.studies.grid.common import JARVIS, SOME_VECTORS, of_vectors
from crysatom.studies.grid.design import Grid, Row

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Shares of the training crystals, unless others are asked for."""


def grid() -> Grid:
    """Return a row per property and share."""
    columns = of_vectors(SOME_VECTORS)
    return Grid(title="Error against the share of labels", columns=columns, properties=JARVIS, rows=_rows)


def _rows(config: GridConfig) -> list[Row]:
    return [
        Row(property=name, label=f"{100 * share:g}%", settings={"train_fraction": share}, share=share)
        for name in config.properties
        for share in config.train_fraction or FRACTIONS
    ]
