"""Dimensions of the vectors: the paper's Table 9."""

from __future__ import annotations

from crysatom.studies.grid.common import JARVIS, of_pretrainings
from crysatom.studies.grid.design import Grid

FIGURES = {
    "ours": (0.040, 0.143, 0.043, 0.124, 0.333, 12.37, 10.45),
    "ours100": (0.044, 0.160, 0.049, 0.127, 0.349, 13.29, 10.75),
    "ours50": (0.046, 0.165, 0.053, 0.130, 0.356, 13.60, 10.99),
}


def grid() -> Grid:
    """Return a column per number of dimensions."""
    labels = {"ours": "200 dimensions", "ours100": "100 dimensions", "ours50": "50 dimensions"}
    return Grid(
        title="Dimensions of the vectors (Table 9)", columns=of_pretrainings(labels, FIGURES), properties=JARVIS
    )
