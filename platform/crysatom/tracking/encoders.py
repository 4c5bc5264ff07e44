"""Pretrained encoders among the artifacts of their runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from crysatom.names import MODELS_URI, RUNS_URI
from crysatom.tracking.store import client, resolve_uri
from crysatom.tracking.vectors import model_version
from crysatom.training.encoder_files import ENCODER, PretrainedEncoder, load_encoder


def fetch_encoder(uri: str, tracking_uri: str = "") -> PretrainedEncoder:
    """Read the encoder of a pretraining run.

    Args:
        uri: ``runs:/ID``; or ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` of the vectors that came from the run.
        tracking_uri: Store; empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.

    Raises:
        ValueError: If the store holds no encoder of that name, or the files are broken.

    """
    store = resolve_uri(tracking_uri, Path.cwd())
    try:
        source = f"{client(store).get_run(_run_id(client(store), uri)).info.artifact_uri}/{ENCODER}"
        with tempfile.TemporaryDirectory() as folder:
            local = download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=store)
            return load_encoder(local)
    except (MlflowException, OSError) as error:
        raise ValueError(f"{uri}: no pretrained encoder found in {store} ({error})") from error


def _run_id(mlflow: MlflowClient, uri: str) -> str:
    if uri.startswith(MODELS_URI):
        return str(model_version(mlflow, uri).run_id)
    return uri.removeprefix(RUNS_URI).partition("/")[0]
