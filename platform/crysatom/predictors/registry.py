"""Predictors by name."""

from __future__ import annotations

import importlib

from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.vectors.table import AtomVectors

PREDICTORS: dict[str, str] = {
    "cgcnn": "crysatom.predictors.cgcnn:CGCNN",
    "crysxpp": "crysatom.predictors.crysxpp:CrysXPP",
    "alignn": "crysatom.predictors.alignn:ALIGNN",
    "matformer": "crysatom.predictors.matformer:Matformer",
    "potnet": "crysatom.predictors.potnet:PotNet",
    "cogn": "crysatom.predictors.cogn:CoGN",
}
"""Module and class, imported on first use: one may need a package that others do not."""


def predictor_class(name: str) -> type[Predictor]:
    """Return the class of a predictor.

    Raises:
        ValueError: If no predictor has the name.

    """
    if name not in PREDICTORS:
        raise ValueError(f"unknown predictor {name!r}; choose among {', '.join(sorted(PREDICTORS))}")
    module, _, attribute = PREDICTORS[name].partition(":")
    found: type[Predictor] = getattr(importlib.import_module(module), attribute)
    return found


def build_predictor(spec: PredictorSpec, vectors: AtomVectors) -> Predictor:
    """Return an untrained predictor; torch's seed determines its weights.

    Args:
        spec: Architecture.
        vectors: Table that covers the elements of the data (``vectors.coverage.require_elements``).

    Raises:
        ValueError: If no predictor has the name, or an option is unknown.

    """
    return predictor_class(spec.predictor)(spec, vectors)
