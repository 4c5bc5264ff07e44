"""Self-supervised loss of the pretraining: the paper's Table 10."""

from __future__ import annotations

from crysatom.studies.grid.common import JARVIS, of_pretrainings
from crysatom.studies.grid.design import Grid

FIGURES = {
    "ours": (0.040, 0.143, 0.043, 0.124, 0.333, 12.37, 10.45),
    "vicreg": (0.042, 0.156, 0.045, 0.130, 0.369, 13.20, 10.65),
    "nt_xent": (0.042, 0.155, 0.047, 0.126, 0.340, 13.20, 10.68),
    "no_ssl": (0.043, 0.158, 0.048, 0.127, 0.345, 13.24, 10.71),
}


def grid() -> Grid:
    """Return a column per loss."""
    labels = {"ours": "UL + Barlow Twins", "vicreg": "UL + VICReg", "nt_xent": "UL + NT-Xent", "no_ssl": "UL"}
    return Grid(
        title="Self-supervised loss of the pretraining (Table 10)",
        columns=of_pretrainings(labels, FIGURES),
        properties=JARVIS,
    )
