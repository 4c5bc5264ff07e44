"""Small untrained models in folders, for tests of saved models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crysatom.config import GraphSpec
from crysatom.models.files import ModelInfo, save_model
from crysatom.names import SYMBOLS
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.registry import build_predictor
from crysatom.training.normalizer import Normalizer
from crysatom.training.regression import Regression
from crysatom.vectors.given import given_vectors
from crysatom.vectors.table import AtomVectors

ALL = SYMBOLS[:100]


def write_model(
    folder: Path,
    seed: int = 0,
    *,
    elements: Sequence[str] = ALL,
    trained: Sequence[str] = ALL,
    graph: GraphSpec = GraphSpec(),  # noqa: B008 - frozen
    predictor: str = "cgcnn",
    **info: Any,
) -> Path:
    """Write a model with random weights whose vectors cover some elements; return the folder."""
    torch.manual_seed(seed)
    numbers = np.array([SYMBOLS.index(symbol) + 1 for symbol in elements])
    every = given_vectors("random:0:8")
    table = AtomVectors(atomic_numbers=numbers, vectors=every.vectors[numbers - 1])
    spec = PredictorSpec(predictor=predictor, width=8, num_layers=2, hidden_dim=8)
    normalizer = Normalizer(mean=10.0, std=3.0)
    model = Regression(build_predictor(spec, table), normalizer)
    described = ModelInfo(
        **{"property": "bulk_modulus_kv", "unit": "GPa", **info},
        spec=spec,
        graph=graph,
        normalizer=normalizer,
        elements=tuple(elements),
        trained_elements=tuple(trained),
    )
    save_model(folder, model.state_dict(), described)
    return folder
