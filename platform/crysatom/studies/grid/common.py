"""Properties, labels and columns that several studies share.

The paper's figures are typed from arXiv 2409.04737, mean absolute errors in eV (energies per atom) and GPa. They are of
one seed, selected by the test error in the released code, on other splits than ours: for orientation only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crysatom.studies.grid.design import MADE_HERE, Column

Figures = tuple[float, ...]
"""Errors of one column, in the order of some properties."""

MP = ("e_form", "gap_pbe", "log_bulk_modulus_kv", "log_shear_modulus_gv")
"""Properties of the Materials Project, in the order of Table 5. The moduli are in log10 of GPa: the paper's Table 4
says GPa, but no calculation is as exact as 0.05 GPa. No public table that we know has these two labels."""

JARVIS = (
    "formation_energy_peratom",
    "optb88vdw_bandgap",
    "optb88vdw_total_energy",
    "ehull",
    "mbj_bandgap",
    "bulk_modulus_kv",
    "shear_modulus_gv",
)
"""Properties of JARVIS-DFT, in the order of all tables."""

PREDICTOR_LABELS = {
    "cgcnn": "CGCNN",
    "crysxpp": "CrysXPP",
    "alignn": "ALIGNN",
    "matformer": "Matformer",
    "potnet": "PotNet",
    "cogn": "coGN",
}
"""The last is not in the paper."""

VECTOR_LABELS = {
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

SOME_VECTORS = (
    "onehot92",
    "ours",
    "official",
    "skipatom",
    "onehot",
    "random",
    "atom2vec",
    "skipatom_here",
    "atom2vec_here",
)
"""Columns of studies that have many rows of each property."""

CRYSXPP_PRETRAINING = {
    "embedding_dim": 64,
    "num_layers": 3,
    "ssl_loss": "none",
    "connectivity_weight": 0.9,
    "feature_weight": 0.1,
    "element_weight": 0.0,
    "bond_weight": 0.0,
    "extraction": "eval_mean",
}
"""CrysXPP starts from an auto-encoder: see docs/property_prediction.md."""


def figures(properties: tuple[str, ...], values: Figures) -> dict[str, float]:
    """Return the paper's figures by property."""
    return dict(zip(properties, values, strict=True))


def of_vectors(names: Iterable[str], paper: Mapping[str, Figures] | None = None) -> dict[str, Column]:
    """Return columns of CGCNN on different vectors, compared with CGCNN's 92 bits.

    Args:
        names: Keys of :data:`VECTOR_LABELS`, in the order of the columns.
        paper: The paper's figures of :data:`JARVIS`, by name.

    """
    paper = paper or {}
    return {
        name: Column(
            label=VECTOR_LABELS[name],
            vectors=name,
            baseline="" if name == "onehot92" else MADE_HERE.get(name, "onehot92"),
            paper=figures(JARVIS, paper[name]) if name in paper else {},
        )
        for name in names
    }


def of_pretrainings(labels: Mapping[str, str], paper: Mapping[str, Figures]) -> dict[str, Column]:
    """Return columns of CGCNN on our vectors by different pretrainings, compared with the default pretraining."""
    return {
        name: Column(
            label=label,
            vectors=name,
            baseline="" if name == "ours" else "ours",
            paper=figures(JARVIS, paper[name]),
        )
        for name, label in labels.items()
    }
