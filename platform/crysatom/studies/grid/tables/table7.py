"""CGCNN on different vectors: the paper's Table 7, with controls."""

from __future__ import annotations

from crysatom.studies.grid.common import JARVIS, MP, VECTOR_LABELS, of_vectors
from crysatom.studies.grid.design import Grid
from crysatom.studies.grid.tables import table5

FIGURES = {
    "ours": (0.040, 0.143, 0.043, 0.124, 0.333, 12.37, 10.45),
    "skipatom": (0.061, 0.196, 0.070, 0.153, 0.420, 14.36, 11.58),
    "atom2vec": (0.070, 0.251, 0.076, 0.160, 0.529, 15.41, 12.09),
    "random": (0.075, 0.263, 0.089, 0.164, 0.569, 15.99, 13.52),
    "onehot92": table5.FIGURES["cgcnn"][0][len(MP) :],
}


def grid() -> Grid:
    """Return a column per table of vectors."""
    return Grid(
        title="CGCNN on different vectors (Table 7, with controls)",
        columns=of_vectors(VECTOR_LABELS, FIGURES),
        properties=JARVIS,
        note="The paper's figures of CGCNN's 92 bits are those of its Table 5. All tables are brought to one scale, "
        "unlike there.",
    )
