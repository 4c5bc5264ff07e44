"""Rivals by distillation and pretraining: the paper's Table 6. docs/property_prediction.md says what differs."""

from __future__ import annotations

from crysatom.studies.grid.common import CRYSXPP_PRETRAINING, JARVIS, figures
from crysatom.studies.grid.design import Column, Grid

_ENCODER_64 = {"embedding_dim": 64}
_GNN_PRETRAINING = {
    "embedding_dim": 64,
    "objective": "masking_context",
    "atom_mask_fraction": 0.15,
    "mask_unit": "atoms",
    "extraction": "eval_mean",
}
_ENCODER_SETTINGS = {"num_layers": 5, "vector_scale": "none"}
"""The predictor's convolutions are the encoder's, and so is what it reads of an element."""


def grid() -> Grid:
    """Return a column per rival, each compared with CGCNN on our vectors."""

    def paper(*values: float) -> dict[str, float]:
        return figures(JARVIS, values)

    columns = {
        "cgcnn_ours": Column(
            label="CGCNN (CrysAtom)", vectors="ours", paper=paper(0.040, 0.143, 0.043, 0.124, 0.333, 12.37, 10.45)
        ),
        "distilled": Column(
            label="Distilled CGCNN",
            vectors="onehot92",
            distill=_ENCODER_64,
            baseline="cgcnn_ours",
            paper=paper(0.047, 0.160, 0.053, 0.121, 0.340, 12.31, 10.87),
        ),
        "fine_tuned": Column(
            label="Fine-tuned encoder",
            vectors="elements",
            settings=_ENCODER_SETTINGS,
            init=_ENCODER_64,
            baseline="cgcnn_ours",
            paper=paper(0.056, 0.183, 0.069, 0.130, 0.371, 13.42, 11.07),
        ),
        "crysxpp": Column(
            label="CrysXPP",
            vectors="onehot92",
            predictor="crysxpp",
            init=CRYSXPP_PRETRAINING,
            baseline="cgcnn_ours",
            paper=paper(0.062, 0.190, 0.072, 0.139, 0.378, 13.61, 11.20),
        ),
        "pretrained_gnn": Column(
            label="Pre-trained GNN",
            vectors="elements",
            settings=_ENCODER_SETTINGS,
            init=_GNN_PRETRAINING,
            baseline="cgcnn_ours",
            paper=paper(0.764, 0.688, 1.451, 1.112, 1.493, 20.34, 16.51),
        ),
    }
    return Grid(
        title="Rivals by distillation and pretraining (Table 6)",
        columns=columns,
        properties=JARVIS,
        note="The paper's rivals were pretrained on 800,000 crystals, by CrysGNN's own objective; here all are "
        "pretrained on the same crystals, and CrysAtom's encoder stands for CrysGNN's (docs/property_prediction.md).",
    )
