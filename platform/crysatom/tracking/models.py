"""Predictors in MLflow: a model's folder is also an MLflow model of the flavor pyfunc.

These are "models from code": MLflow runs the few lines of ``served.py`` in the folder, which read safetensors and JSON.
Nothing is pickled. ``crysatom`` itself must be installed where the model is loaded. It is not among the requirements,
because no package index has it.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mlflow.models.model import Model
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Schema

from crysatom.models.files import MODEL_JSON, ModelInfo
from crysatom.models.finetuning import TrainedModel, load_trained
from crysatom.models.inference import MODEL_FOLDER, SavedModel, open_model
from crysatom.names import FLAGS, MODELS_URI, PROBLEM, PROPERTY, RUNS_URI, UNIT, VALUE
from crysatom.tracking.registry import download

ModelT = TypeVar("ModelT")

MLMODEL = "MLmodel"
CODE, REQUIREMENTS, ENVIRONMENT = "served.py", "requirements.txt", "python_env.yaml"

PACKAGES = (
    "filelock",
    "mlflow",
    "numpy",
    "pandas",
    "pyarrow",
    "pymatgen",
    "safetensors",
    "torch",
    "torch-geometric",
)
"""Packages that a prediction needs beside crysatom."""

SIGNATURE = ModelSignature(
    outputs=Schema(
        [
            ColSpec(DataType.double, VALUE, required=False),
            ColSpec(DataType.string, UNIT),
            ColSpec(DataType.string, PROBLEM),
            ColSpec(DataType.string, FLAGS),
        ]
    )
)
"""Schema of the output. There is none of the input, which the model checks crystal by crystal: MLflow would turn a list
of dictionaries into a table of their keys."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def describe_to_mlflow(folder: Path, info: ModelInfo) -> None:
    """Add the files that make the folder of a saved model readable by ``mlflow.pyfunc.load_model``.

    Args:
        folder: Folder that :func:`crysatom.models.files.save_model` wrote.
        info: Description of the model.

    """
    shutil.copyfile(Path(__file__).with_name("model_code.py"), folder / CODE)
    (folder / REQUIREMENTS).write_text("".join(f"{name}=={_version(name)}\n" for name in PACKAGES))
    environment = {"python": platform.python_version(), "dependencies": [f"-r {REQUIREMENTS}"]}
    (folder / ENVIRONMENT).write_text(json.dumps(environment, indent=1) + "\n")  # JSON is YAML
    description = Model(signature=SIGNATURE, metadata={PROPERTY: info.property, UNIT: info.unit})
    description.add_flavor(  # as mlflow.pyfunc.add_to_model does; importing that takes seconds
        "python_function",
        loader_module="mlflow.pyfunc.loaders.code_model",
        model_code_path=CODE,
        env={"virtualenv": ENVIRONMENT},
        python_version=platform.python_version(),
    )
    description.save(str(folder / MLMODEL))


def _version(name: str) -> str:
    return importlib.metadata.version(name).partition("+")[0]  # no index has local versions like 2.13.0+cpu


def is_in_mlflow(name: str) -> bool:
    """Return whether a model's name is one of MLflow's: of a run, or of a version of a registered model."""
    return name.startswith((MODELS_URI, RUNS_URI)) or _RUN_ID.fullmatch(name) is not None


def fetch_model(name: str, tracking_uri: str = "") -> SavedModel:
    """Read a model from ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``runs:/ID``, or the ID alone.

    Args:
        name: See :func:`is_in_mlflow`.
        tracking_uri: Store; empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.

    Raises:
        ValueError: If the store has no model of that name, or a damaged one.

    """
    return _fetched(name, tracking_uri, lambda path: open_model(path, name))


def fetch_trained(name: str, tracking_uri: str = "") -> TrainedModel:
    """Read a model for further training, see :func:`fetch_model`.

    Raises:
        ValueError: If the store has no model of that name, or a damaged one.

    """
    return _fetched(name, tracking_uri, load_trained)


def _fetched(name: str, tracking_uri: str, read: Callable[[Path], ModelT]) -> ModelT:
    uri = name if name.startswith((MODELS_URI, RUNS_URI)) else RUNS_URI + name
    with tempfile.TemporaryDirectory() as folder:
        path = download(uri, tracking_uri, MODEL_FOLDER, "", folder)
        if not (path / MODEL_JSON).is_file():
            raise ValueError(f"{name} holds no predictor: it has no {MODEL_JSON}; is it a version of vectors?")
        try:
            return read(path)
        except ValueError as error:  # its message names the temporary copy
            raise ValueError(str(error).replace(str(path), name)) from error
