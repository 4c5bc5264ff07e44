"""MLflow's registered models: artifacts of a run become a version, found again by name or by run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from crysatom.config.secrets import scrubbed, without_password
from crysatom.names import MODELS_URI, RUNS_URI
from crysatom.tracking.store import client, missing_file, resolve_uri, sent_once


def register(uri: str, name: str, run_id: str, folder: str | Path, to: str, tags: Mapping[str, str]) -> str:
    """Upload a folder to a run and make it the next version of a registered model.

    A run has at most one version of a model: calling again uploads again and returns the same version.

    Args:
        uri: Store, as :func:`crysatom.tracking.store.resolve_uri` returns it.
        name: Name of the registered model; created if missing.
        run_id: MLflow run that it comes from.
        folder: Folder to upload.
        to: Folder among the run's artifacts.
        tags: Tags of the version.

    Returns:
        The number of the version.

    Raises:
        FileNotFoundError: If there is no such folder.

    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(folder)
    mlflow = client(uri)
    mlflow.log_artifacts(run_id, str(folder), to)
    if not mlflow.search_registered_models(filter_string=f"name = '{name}'"):
        mlflow.create_registered_model(name)
    if known := version_of(uri, name, run_id):
        return known
    source = f"{mlflow.get_run(run_id).info.artifact_uri}/{to}"
    with sent_once():
        return str(mlflow.create_model_version(name, source, run_id=run_id, tags=dict(tags)).version)


def version_of(uri: str, name: str, run_id: str) -> str:
    """Return the number of the version of a registered model that comes from a run; empty if there is none."""
    found = client(uri).search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return str(found[0].version) if found else ""


def download(uri: str, tracking_uri: str, artifact: str, file: str, to: str | Path) -> Path:
    """Copy the files of ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/ID`` to a folder; return the path.

    Args:
        uri: URI of a version or of a run.
        tracking_uri: Store; empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.
        artifact: Folder among a run's artifacts.
        file: The only file to copy; empty: all files.
        to: An existing folder.

    Raises:
        ValueError: If the store has nothing of that name.

    """
    store = _existing(uri, tracking_uri)
    try:
        source = _source(client(store), uri, artifact)
        wanted = f"{source}/{file}" if file else source
        return Path(download_artifacts(artifact_uri=wanted, dst_path=str(to), tracking_uri=store))
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"{uri}: not found in {without_password(store)} ({scrubbed(getattr(error, 'message', error), store)})"
        ) from error


def _existing(uri: str, tracking_uri: str) -> str:
    """Return the store to read from; raise if it is a missing sqlite file, which reading would create."""
    store = resolve_uri(tracking_uri, Path.cwd())
    if missing_file(store):
        raise ValueError(
            f"{uri}: not found in {without_password(store)} (there is no such file); name its store by --tracking-uri"
        )
    return store


def _source(mlflow: MlflowClient, uri: str, artifact: str) -> str:
    if uri.startswith(RUNS_URI):
        return f"{mlflow.get_run(_run_id(uri)).info.artifact_uri}/{artifact}"
    found = _model_version(mlflow, uri)
    return str(mlflow.get_model_version_download_uri(found.name, str(found.version)))


def run_of(uri: str, tracking_uri: str) -> str:
    """Return ``runs:/ID`` of the run that ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/ID`` comes from.

    Args:
        uri: URI of a version or of a run.
        tracking_uri: Store; empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.

    Raises:
        ValueError: If the store has nothing of that name.

    """
    store = _existing(uri, tracking_uri)
    if uri.startswith(RUNS_URI):
        return RUNS_URI + _run_id(uri)
    try:
        run_id = _model_version(client(store), uri).run_id
    except MlflowException as error:
        raise ValueError(f"{uri}: not found in {without_password(store)} ({scrubbed(error.message, store)})") from error
    if not run_id:
        raise ValueError(f"{uri}: this version was not made by a run, so nothing else of a run can be found")
    return RUNS_URI + run_id


def _run_id(uri: str) -> str:
    return uri.removeprefix(RUNS_URI).partition("/")[0]


def _model_version(mlflow: MlflowClient, uri: str) -> ModelVersion:
    name, at, alias = uri.removeprefix(MODELS_URI).partition("@")
    if at:
        return mlflow.get_model_version_by_alias(name, alias)
    name, _, version = name.partition("/")
    if not version.isdecimal():
        raise ValueError(f"{uri}: give a version (models:/NAME/1) or an alias (models:/NAME@ALIAS)")
    return mlflow.get_model_version(name, version)
