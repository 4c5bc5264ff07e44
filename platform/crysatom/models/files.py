"""A trained model as a folder of ``model.safetensors`` and ``model.json``, so that loading one cannot run code."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from crysatom.config import GraphSpec
from crysatom.config.files import read_text
from crysatom.models.ranges import Ranges
from crysatom.names import BF16, FLOAT32, SYMBOLS, Precision
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.registry import build_predictor
from crysatom.training.encoder_files import MISFITS, require_room
from crysatom.training.normalizer import Normalizer
from crysatom.training.regression import Regression
from crysatom.vectors.table import AtomVectors
from crysatom.writing import write_bytes, write_text

MODEL_JSON = "model.json"
MODEL_SAFETENSORS = "model.safetensors"
FORMAT_VERSION = 1

_VECTORS = "predictor.table.vectors"
_REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Description of a model, beside its weights; JSON values only.

    Attributes:
        property: Predicted property.
        unit: Unit of the prediction; empty if unknown.
        spec: Architecture.
        graph: How a crystal becomes a graph.
        normalizer: Mean and spread of the training targets.
        elements: Symbols of the elements that have a vector; crystals with others cannot be predicted.
        trained_elements: Elements that the training crystals contain, a subset of ``elements``.
        trained_ranges: Least and largest ``volume_per_atom`` (angstrom^3) and ``num_atoms`` (per cell) of the training
            crystals; empty in older models.
        vectors: Provenance of the vectors.
        training: Facts about the training: data, split, seed, errors.
        versions: Versions of the packages that made it.

    """

    property: str
    unit: str
    spec: PredictorSpec
    graph: GraphSpec
    normalizer: Normalizer
    elements: tuple[str, ...]
    trained_elements: tuple[str, ...]
    trained_ranges: Ranges = field(default_factory=dict)
    vectors: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def save_model(folder: Path, state: Mapping[str, Tensor], info: ModelInfo) -> None:
    """Write a model into a folder; create the folder if needed.

    Args:
        folder: Folder to write to.
        state: ``state_dict`` of a :class:`Regression`.
        info: Description of the model.

    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = serialize({name: tensor.cpu().contiguous() for name, tensor in state.items()})
    write_bytes(folder / MODEL_SAFETENSORS, tensors)
    content = {
        "format_version": FORMAT_VERSION,
        **{f.name: getattr(info, f.name) for f in dataclasses.fields(info)},
        "spec": info.spec.to_dict(),
        "graph": info.graph.to_dict(),
        "normalizer": dataclasses.asdict(info.normalizer),
    }
    write_text(folder / MODEL_JSON, json.dumps(content, indent=1))


def load_model(folder: str | Path) -> tuple[Regression, ModelInfo]:
    """Read a model that :func:`save_model` wrote.

    Returns:
        The model in evaluation mode, on the CPU, and its description. ``model.predict(batch)`` gives the property in
        its unit, for graphs made with ``info.graph`` of crystals whose elements are in ``info.elements``.

    Raises:
        ValueError: If the folder holds no model, or a damaged one.

    """
    folder = Path(folder)
    try:
        content = json.loads(read_text(folder / MODEL_JSON))
        state = load_file(folder / MODEL_SAFETENSORS)
    except OSError as error:
        raise ValueError(f"{folder} holds no model: {MODEL_JSON} and {MODEL_SAFETENSORS} must be there") from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{folder} holds a damaged model ({shorten(str(error), 300)}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{folder} holds a damaged model ({MODEL_JSON} is no JSON object); copy it again")  # noqa: TRY004 - a user's file
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder} holds a model of format {shorten(str(content.get('format_version')), 40)}, this code reads "
            f"{FORMAT_VERSION}; use the version of crysatom that made it, which model.json names"
        )
    try:
        info = _info(content)
        spec = info.spec
        require_room(state, spec.width, spec.num_layers)
        require_room(state, spec.hidden_dim, spec.num_hidden)
        require_room(state, spec.outputs)
        require_room(state, max(1, int(spec.cutoff / spec.basis_step)))
        return _model(info, state), info
    except MISFITS as error:
        cause = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder}: {MODEL_JSON} and {MODEL_SAFETENSORS} do not fit together ({cause})") from error


def _info(content: Mapping[str, Any]) -> ModelInfo:
    content = {"trained_ranges": {}, **content}
    plain = {f.name: content[f.name] for f in dataclasses.fields(ModelInfo)}
    if unknown := [symbol for symbol in (*plain["elements"], *plain["trained_elements"]) if symbol not in SYMBOLS]:
        raise ValueError(f"no element is called {unknown[0]!r}")
    typed = {
        "spec": PredictorSpec(**content["spec"]),
        "graph": GraphSpec(**content["graph"]),
        "normalizer": Normalizer(**content["normalizer"]),
        "elements": tuple(content["elements"]),
        "trained_elements": tuple(content["trained_elements"]),
        "trained_ranges": {name: _range(content["trained_ranges"][name]) for name in content["trained_ranges"]},
    }
    return ModelInfo(**{**plain, **typed})


def _range(ends: Any) -> tuple[float, float]:
    least, largest = ends
    if not 0 < least <= largest < math.inf:
        raise ValueError(f"a range from {least} to {largest}")
    return least, largest


def precision_of(info: ModelInfo) -> Precision:
    """Return the precision of a model's training."""
    config = info.training.get("config")
    return BF16 if isinstance(config, Mapping) and config.get("precision") == BF16 else FLOAT32


def vectors_of(info: ModelInfo, state: Mapping[str, Tensor]) -> AtomVectors:
    """Return the atom vectors in the state of a model."""
    numbers = np.array([SYMBOLS.index(symbol) + 1 for symbol in info.elements], dtype=np.int64)
    return AtomVectors(atomic_numbers=numbers, vectors=state[_VECTORS].float().numpy())


def reference_of(state: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Return ``(119,)`` contributions of the elements, by atomic number, from the state of a model."""
    return np.asarray(state[_REFERENCE].numpy())


def _model(info: ModelInfo, state: Mapping[str, Tensor]) -> Regression:
    model = Regression(build_predictor(info.spec, vectors_of(info, state)), info.normalizer, reference_of(state))
    model.load_state_dict(dict(state))
    return model.eval()
