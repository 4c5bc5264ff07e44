"""The paper's tables of results, and two studies beside them, as grids: what is varied, and the paper's own figures.

Figures are typed from arXiv 2409.04737, mean absolute errors in eV (energies per atom) and GPa. They are of one seed,
chosen by the test error in the released code, on other splits than ours: beside ours for orientation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from crysatom.config import RECIPES, PretrainConfig
from crysatom.config.downstream import COLUMN, HELD_OUT_ELEMENTS
from crysatom.crystals.measured import CALCULATED, FOLDS, folds_of
from crysatom.names import Recipe
from crysatom.studies.grid.design import MADE_HERE, Column, Efficiency, Grid, Row

MP = ("e_form", "gap_pbe", "log_bulk_modulus_kv", "log_shear_modulus_gv")
"""Of the Materials Project, in the order of Table 5. The moduli are in log10 of GPa: the paper's Table 4 says GPa,
of which 0.05 would be less than any calculation's own error. No public table that we know has these two labels."""

JARVIS = (
    "formation_energy_peratom",
    "optb88vdw_bandgap",
    "optb88vdw_total_energy",
    "ehull",
    "mbj_bandgap",
    "bulk_modulus_kv",
    "shear_modulus_gv",
)
"""Of JARVIS-DFT, in the order of all tables."""

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Shares of the training crystals in a learning curve."""

HELD_OUT_GROUPS = ("Fe,Co", "Cl", "Sr", "La")
"""Elements that no training crystal holds: a transition pair, a halogen, an alkaline earth, a lanthanide."""


def _figures(properties: tuple[str, ...], *values: float) -> dict[str, float]:
    return dict(zip(properties, values, strict=True))


_TABLE_5: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
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

PREDICTOR_LABELS = {
    "cgcnn": "CGCNN",
    "crysxpp": "CrysXPP",
    "alignn": "ALIGNN",
    "matformer": "Matformer",
    "potnet": "PotNet",
    "cogn": "coGN",
}
"""The last is not in the paper."""

_CRYSXPP_PRETRAINING = {
    "embedding_dim": 64,
    "num_layers": 3,
    "ssl_loss": "none",
    "connectivity_weight": 0.9,
    "feature_weight": 0.1,
}
"""CrysXPP starts from an auto-encoder: docs/property_prediction.md has all rivals of Table 6 and what differs."""

_ENCODER_64 = {"embedding_dim": 64}
_GNN_PRETRAINING = {"embedding_dim": 64, "objective": "masking_context", "atom_mask_fraction": 0.15}
_ENCODER_SETTINGS = {"num_layers": 5, "vector_scale": "none"}
"""The predictor's convolutions are the encoder's, and so is what it reads of an element."""


def _table_5() -> Grid:
    columns = {}
    for name, label in PREDICTOR_LABELS.items():
        init = _CRYSXPP_PRETRAINING if name == "crysxpp" else None
        paper = [_figures(MP + JARVIS, *figures) for figures in _TABLE_5[name]] if name in _TABLE_5 else [{}, {}]
        columns[name] = Column(label=label, vectors="onehot92", predictor=name, init=init, paper=paper[0])
        columns[f"{name}_ours"] = Column(
            label=f"{label} (CrysAtom)", vectors="ours", predictor=name, init=init, baseline=name, paper=paper[1]
        )
    return Grid(
        title="Predictors without and with CrysAtom's vectors (Table 5)", columns=columns, properties=MP + JARVIS
    )


def _table_6() -> Grid:
    def paper(*values: float) -> dict[str, float]:
        return _figures(JARVIS, *values)

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
            init=_CRYSXPP_PRETRAINING,
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


def _table_7() -> Grid:
    paper = {
        "ours": (0.040, 0.143, 0.043, 0.124, 0.333, 12.37, 10.45),
        "skipatom": (0.061, 0.196, 0.070, 0.153, 0.420, 14.36, 11.58),
        "atom2vec": (0.070, 0.251, 0.076, 0.160, 0.529, 15.41, 12.09),
        "random": (0.075, 0.263, 0.089, 0.164, 0.569, 15.99, 13.52),
        "onehot92": _TABLE_5["cgcnn"][0][len(MP) :],
    }
    labels = {
        "onehot92": "CGCNN's 92 bits",
        "ours": "CrysAtom",
        "official": "CrysAtom, the authors' vectors",
        "skipatom": "SkipAtom",
        "atom2vec": "Atom2Vec",
        "random": "Random",
        "onehot": "One-hot",
        "permuted": "CrysAtom, permuted",
        "mat2vec": "mat2vec",
        "skipatom_here": "SkipAtom, by jobs/vectors.py",
        "atom2vec_here": "Atom2Vec, by jobs/vectors.py",
    }
    columns = {
        key: Column(
            label=label,
            vectors=key,
            baseline="" if key == "onehot92" else MADE_HERE.get(key, "onehot92"),
            paper=_figures(JARVIS, *paper[key]) if key in paper else {},
        )
        for key, label in labels.items()
    }
    return Grid(
        title="CGCNN on different vectors (Table 7, with controls)",
        columns=columns,
        properties=JARVIS,
        note="The paper's figures of CGCNN's 92 bits are those of its Table 5. All tables are brought to one scale, "
        "unlike there.",
    )


CALCULATED_ONLY = "calculated only"
MEASURED_ONLY = "80 % measured only"
FINE_TUNED = {1: "calculated, then 20 % measured", FOLDS - 1: "calculated, then 80 % measured"}
"""Rows of Table 8, the last two by the number of folds that are learned from."""

_FINE_TUNING = {"lr": 1e-3, "epochs": 50}
"""A third of the default rate, since the model is trained already."""

_TABLE_8 = {
    "cgcnn": ((0.265, 0.144, 0.094), (0.241, 0.111, 0.072)),
    "crysxpp": ((0.243, 0.138, 0.087), (0.222, 0.115, 0.071)),
    "alignn": ((0.220, 0.099, 0.073), (0.212, 0.093, 0.068)),
    "matformer": ((0.218, 0.098, 0.072), (0.213, 0.094, 0.069)),
    "potnet": ((0.217, 0.097, 0.070), (0.211, 0.093, 0.067)),
}


def _table_8() -> Grid:
    rows = tuple(f"{JARVIS[0]} {label}" for label in (CALCULATED_ONLY, *FINE_TUNED.values()))
    columns = {}
    for key, column in _table_5().columns.items():
        paper = _TABLE_8.get(column.predictor, ((), ()))[key != column.predictor]
        columns[key] = dataclasses.replace(column, paper=_figures(rows, *paper) if paper else {})
    return Grid(
        title="Measured formation energies, learned from calculated ones (Table 8)",
        columns=columns,
        properties=JARVIS[:1],
        note="No calculated value of a measured compound is learned from, whatever its structure. Rows with measured "
        "values are of five folds: every compound is judged once, by a model that was trained on calculated values and "
        "then on measured ones of one or four other folds; the paper trains on both, and judges the rest of one split.",
    )


def _rows_of_table_8(name: str) -> list[Row]:
    calculated = Row(property=name, label=CALCULATED_ONLY, settings={"split": f"{COLUMN}{CALCULATED}"})

    def folds(learned: int) -> tuple[dict[str, str], ...]:
        return tuple({"split": f"{COLUMN}{column}"} for column in folds_of(learned))

    fine_tuned = [
        Row(property=name, label=label, settings=_FINE_TUNING, folds=folds(learned), start=calculated.key)
        for learned, label in FINE_TUNED.items()
    ]
    return [calculated, Row(property=name, label=MEASURED_ONLY, folds=folds(FOLDS - 1)), *fine_tuned]


def _table_9() -> Grid:
    paper = {
        "ours": (0.040, 0.143, 0.043, 0.124, 0.333, 12.37, 10.45),
        "ours100": (0.044, 0.160, 0.049, 0.127, 0.349, 13.29, 10.75),
        "ours50": (0.046, 0.165, 0.053, 0.130, 0.356, 13.60, 10.99),
    }
    labels = {"ours": "200 dimensions", "ours100": "100 dimensions", "ours50": "50 dimensions"}
    return Grid(
        title="Dimensions of the vectors (Table 9)",
        columns=_of_pretrainings(labels, paper),
        properties=JARVIS,
    )


def _table_10() -> Grid:
    paper = {
        "ours": (0.040, 0.143, 0.043, 0.124, 0.333, 12.37, 10.45),
        "vicreg": (0.042, 0.156, 0.045, 0.130, 0.369, 13.20, 10.65),
        "nt_xent": (0.042, 0.155, 0.047, 0.126, 0.340, 13.20, 10.68),
        "no_ssl": (0.043, 0.158, 0.048, 0.127, 0.345, 13.24, 10.71),
    }
    labels = {"ours": "UL + Barlow Twins", "vicreg": "UL + VICReg", "nt_xent": "UL + NT-Xent", "no_ssl": "UL"}
    return Grid(
        title="Self-supervised loss of the pretraining (Table 10)",
        columns=_of_pretrainings(labels, paper),
        properties=JARVIS,
    )


def _of_pretrainings(labels: Mapping[str, str], paper: Mapping[str, tuple[float, ...]]) -> dict[str, Column]:
    """Return columns of CGCNN on our vectors by different pretrainings, against those of the default."""
    return {
        key: Column(
            label=label,
            vectors=key,
            baseline="" if key == "ours" else "ours",
            paper=_figures(JARVIS, *paper[key]),
        )
        for key, label in labels.items()
    }


PAPER_EPOCHS = 1000
"""Of a prediction, by the paper's Table 2."""

TABLE_11 = {
    "cgcnn": Efficiency(seconds_per_epoch=0.189, training_hours=3.12, test_seconds=0.04, megabytes=1.1),
    "crysxpp": Efficiency(seconds_per_epoch=0.195, training_hours=3.25, test_seconds=0.07, megabytes=1.1),
    "alignn": Efficiency(seconds_per_epoch=140.4, training_hours=39.0, test_seconds=80.4, megabytes=97.8),
    "matformer": Efficiency(seconds_per_epoch=80.4, training_hours=22.0, test_seconds=1.04, megabytes=68.42),
    "potnet": Efficiency(seconds_per_epoch=42.0, training_hours=11.0, test_seconds=31.0, megabytes=42.9),
}
"""On an A6000 and an A100. The seconds per epoch of the first two must be minutes: 1,000 of them make the hours."""


def _table_11() -> Grid:
    columns = {
        name: Column(label=f"{label} (CrysAtom)", vectors="ours", predictor=name)
        for name, label in PREDICTOR_LABELS.items()
    }
    return Grid(
        title="Time, memory and size (Table 11)",
        columns=columns,
        properties=("formation_energy_peratom",),
        note="The paper's 0.189 and 0.195 s per epoch must be minutes: 1,000 epochs took it 3.12 and 3.25 hours.",
    )


def _few_vectors(title: str) -> Grid:
    labels = {"onehot92": "CGCNN's 92 bits", "ours": "CrysAtom", "official": "CrysAtom, the authors' vectors"}
    labels |= {"skipatom": "SkipAtom", "onehot": "One-hot", "random": "Random"}
    labels |= {"atom2vec": "Atom2Vec", "skipatom_here": "SkipAtom, by jobs/vectors.py"}
    labels |= {"atom2vec_here": "Atom2Vec, by jobs/vectors.py"}
    columns = {
        key: Column(label=label, vectors=key, baseline="" if key == "onehot92" else MADE_HERE.get(key, "onehot92"))
        for key, label in labels.items()
    }
    return Grid(title=title, columns=columns, properties=JARVIS)


GRIDS: dict[str, Callable[[], Grid]] = {
    "table5": _table_5,
    "table6": _table_6,
    "table7": _table_7,
    "table8": _table_8,
    "table9": _table_9,
    "table10": _table_10,
    "table11": _table_11,
    "learning_curve": lambda: _few_vectors("Error against the share of labels"),
    "held_out_elements": lambda: _few_vectors("Error on crystals with elements that no training crystal holds"),
}
"""By the names that ``--study`` takes."""


def rows_of(
    study: str, properties: tuple[str, ...], fractions: tuple[float, ...], held_out: tuple[str, ...]
) -> list[Row]:
    """Return the rows of a study, those of a property together.

    Args:
        study: Name in :data:`GRIDS`.
        properties: What to predict.
        fractions: Shares of the training crystals; none: all of them, or :data:`FRACTIONS` of a learning curve.
        held_out: Elements to hold out, for the study that does; none: :data:`HELD_OUT_GROUPS`.

    """
    if study == "table8":
        return [row for name in properties for row in _rows_of_table_8(name)]
    curve = study == "learning_curve"
    shares = fractions or (FRACTIONS if curve else (1.0,))
    groups = (held_out or HELD_OUT_GROUPS) if study == "held_out_elements" else ("",)
    rows = []
    for name in properties:
        for group in groups:
            for share in shares:
                settings: dict[str, Any] = {"train_fraction": share}
                settings |= {"split": HELD_OUT_ELEMENTS + group} if group else {}
                parts = ([f"without {group}"] if group else []) + ([f"{100 * share:g}%"] if curve or share < 1 else [])
                rows.append(
                    Row(property=name, label=", ".join(parts), settings=settings, share=share if curve else 0.0)
                )
    return rows


def pretraining(settings: Mapping[str, Any], recipe: Recipe) -> PretrainConfig:
    """Return the pretraining that has a recipe's settings but for some."""
    return RECIPES[recipe]().replace(**settings)
