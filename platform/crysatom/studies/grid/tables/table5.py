"""Predictors without and with CrysAtom's vectors: the paper's Table 5."""

from __future__ import annotations

from crysatom.studies.grid.common import CRYSXPP_PRETRAINING, JARVIS, MP, PREDICTOR_LABELS, Figures, figures
from crysatom.studies.grid.design import Column, Grid

FIGURES: dict[str, tuple[Figures, Figures]] = {
    "cgcnn": (
        (0.039, 0.388, 0.054, 0.087, 0.063, 0.200, 0.078, 0.170, 0.410, 14.47, 11.75),
        (0.028, 0.270, 0.050, 0.082, 0.040, 0.143, 0.043, 0.124, 0.333, 12.37, 10.45),
    ),
    "crysxpp": (
        (0.041, 0.347, 0.080, 0.105, 0.062, 0.190, 0.072, 0.139, 0.378, 13.61, 11.20),
        (0.030, 0.262, 0.048, 0.082, 0.041, 0.142, 0.044, 0.121, 0.348, 13.10, 10.44),
    ),
    "alignn": (
        (0.026, 0.271, 0.051, 0.078, 0.033, 0.142, 0.037, 0.076, 0.310, 10.40, 9.86),
        (0.023, 0.252, 0.043, 0.072, 0.031, 0.133, 0.035, 0.066, 0.280, 10.19, 9.39),
    ),
    "matformer": (
        (0.021, 0.211, 0.043, 0.073, 0.033, 0.137, 0.035, 0.064, 0.300, 11.21, 10.76),
        (0.019, 0.206, 0.040, 0.071, 0.030, 0.135, 0.031, 0.057, 0.290, 10.85, 9.85),
    ),
    "potnet": (
        (0.019, 0.204, 0.040, 0.065, 0.029, 0.127, 0.032, 0.055, 0.270, 10.11, 9.23),
        (0.018, 0.193, 0.038, 0.064, 0.028, 0.120, 0.029, 0.049, 0.240, 9.98, 9.13),
    ),
}
"""Without and with CrysAtom's vectors: four properties of MP, seven of JARVIS."""


def grid() -> Grid:
    """Return two columns per predictor."""
    columns = {}
    for name, label in PREDICTOR_LABELS.items():
        init = CRYSXPP_PRETRAINING if name == "crysxpp" else None
        paper = [figures(MP + JARVIS, values) for values in FIGURES[name]] if name in FIGURES else [{}, {}]
        columns[name] = Column(label=label, vectors="onehot92", predictor=name, init=init, paper=paper[0])
        columns[f"{name}_ours"] = Column(
            label=f"{label} (CrysAtom)", vectors="ours", predictor=name, init=init, baseline=name, paper=paper[1]
        )
    return Grid(
        title="Predictors without and with CrysAtom's vectors (Table 5)", columns=columns, properties=MP + JARVIS
    )
