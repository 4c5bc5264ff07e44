"""Vectors as versions of a registered model: made from a run's artifacts, read back by name or by run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from crysatom.names import MODELS_URI, RUNS_URI
from crysatom.tracking.fields import VECTORS
from crysatom.tracking.store import client, resolve_uri
from crysatom.vectors.files import VECTORS_SAFETENSORS, read_vectors
from crysatom.vectors.table import AtomVectors


def register_vectors(uri: str, name: str, run_id: str, folder: str | Path, tags: Mapping[str, str]) -> str:
    """Upload a folder of vector files to a run and make them the next version of a registered model.

    A run has at most one version of a model: calling again uploads again and returns the same version.

    Args:
        uri: Store, as :func:`crysatom.tracking.store.resolve_uri` returns it.
        name: Of the registered model; made if missing.
        run_id: MLflow run that the vectors come from.
        folder: Holds ``vectors.safetensors`` and its companions.
        tags: Of the version: dimensions, elements, data digest, best held-out loss.

    Returns:
        The number of the version.

    Raises:
        FileNotFoundError: If the folder holds no vectors.

    """
    if not (Path(folder) / VECTORS_SAFETENSORS).is_file():
        raise FileNotFoundError(Path(folder) / VECTORS_SAFETENSORS)
    mlflow = client(uri)
    mlflow.log_artifacts(run_id, str(folder), VECTORS)
    known = _versions(mlflow, name, run_id)
    if known:
        return known[0]
    source = f"{mlflow.get_run(run_id).info.artifact_uri}/{VECTORS}"
    version = mlflow.create_model_version(name, source, run_id=run_id, tags=dict(tags))
    return str(version.version)


def load_vectors(uri: str, tracking_uri: str = "") -> AtomVectors:
    """Read vectors from ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``runs:/ID``, or a path.

    Args:
        uri: Of the vectors.
        tracking_uri: Store; empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.

    Raises:
        ValueError: If the store holds nothing of that name, or the file is broken.

    """
    if not uri.startswith((MODELS_URI, RUNS_URI)):
        return read_vectors(uri)
    store = resolve_uri(tracking_uri, Path.cwd())
    try:
        source = _source(client(store), uri)
        with tempfile.TemporaryDirectory() as folder:
            local = download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=store)
            return read_vectors(local)
    except MlflowException as error:
        raise ValueError(f"{uri}: not found in {store} ({error.message})") from error


def _source(mlflow: MlflowClient, uri: str) -> str:
    if uri.startswith(RUNS_URI):
        run_id = uri.removeprefix(RUNS_URI).partition("/")[0]
        return f"{mlflow.get_run(run_id).info.artifact_uri}/{VECTORS}/{VECTORS_SAFETENSORS}"
    found = model_version(mlflow, uri)
    return f"{mlflow.get_model_version_download_uri(found.name, str(found.version))}/{VECTORS_SAFETENSORS}"


def model_version(mlflow: MlflowClient, uri: str) -> ModelVersion:
    """Return the version of a registered model that ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` names.

    Raises:
        ValueError: If the name says no version.

    """
    name, at, alias = uri.removeprefix(MODELS_URI).partition("@")
    if at:
        return mlflow.get_model_version_by_alias(name, alias)
    name, _, version = name.partition("/")
    if not version.isdecimal():
        raise ValueError(f"{uri}: say which version: models:/NAME/1, or an alias: models:/NAME@ALIAS")
    return mlflow.get_model_version(name, version)


def _versions(mlflow: MlflowClient, name: str, run_id: str) -> list[str]:
    """Return the versions of a model that come from a run; the model is made if missing."""
    if not mlflow.search_registered_models(filter_string=f"name = '{name}'"):
        mlflow.create_registered_model(name)
    found = mlflow.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return [str(version.version) for version in found]
