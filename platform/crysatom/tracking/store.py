"""Resolve which MLflow store is meant, and make clients that quickly give up on an absent server."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException

from crysatom.config.home import default_tracking_uri
from crysatom.config.secrets import without_password
from crysatom.tracking.database import SQLITE, file_of, make_ready
from crysatom.tracking.homes import artifact_root, require_at_home

_RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


class DeletedExperimentError(RuntimeError):
    """The experiment was deleted in the store."""


def resolve_uri(uri: str, directory: str | Path) -> str:
    """Return the URI of the store: the given one, that of the environment, or ``mlflow.db``.

    Args:
        uri: URI from the user; may be empty.
        directory: The user's working directory, against which relative sqlite paths are resolved. Never that of a Ray
            worker, which is temporary.

    Raises:
        ValueError: If it names a folder, since MLflow dropped its file store, or if it is sqlite without a file.

    """
    uri = default_tracking_uri(uri)
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise ValueError(
            f"tracking URI {without_password(uri)!r} is a folder, or of an unknown kind; MLflow's file store "
            "is no longer maintained. Use sqlite:///mlflow.db or a server (http://host:5000); known kinds: "
            f"{', '.join(_SCHEMES)}"
        )
    return _with_whole_path(uri, directory) if scheme == SQLITE else uri


def _with_whole_path(uri: str, directory: str | Path) -> str:
    scheme, _, rest = uri.partition(":///")
    path, mark, options = rest.partition("?")
    if path in {"", ":memory:"} or path.startswith("file:"):
        raise ValueError(f"tracking URI {uri!r} names no file on disk; write sqlite:///PATH")
    return f"{scheme}:///{Path(directory).resolve() / path}{mark}{options}"


def missing_file(uri: str) -> bool:
    """Return whether a store, as :func:`resolve_uri` returns it, is a database file that does not exist yet."""
    file = file_of(uri)
    return file is not None and not file.exists()


@functools.cache
def client(uri: str) -> MlflowClient:
    """Return a client of a store, for runs and registered models; an sqlite store is created if missing.

    Raises:
        StoreError: If it is a sqlite store that cannot be used as it is.
        MovedHomeError: If it was moved and its records were not corrected.

    """
    for name in ("alembic", "mlflow.store.db.utils"):  # users need not see the migrations of a new store
        logging.getLogger(name).setLevel(logging.WARNING)
    if (file := file_of(uri)) is not None:
        make_ready(file)
        require_at_home(file)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def sent_once() -> Iterator[None]:
    """Keep MLflow from repeating a request that creates something: if only its answer was lost, that creates two."""
    before = os.environ.get(_RETRIES_VARIABLE)
    os.environ[_RETRIES_VARIABLE] = "0"
    try:
        yield
    finally:
        del os.environ[_RETRIES_VARIABLE]
        if before is not None:
            os.environ[_RETRIES_VARIABLE] = before


def experiment_id(uri: str, name: str) -> str:
    """Return the id of an experiment, which is created if missing.

    Artifacts of a sqlite store are in ``mlartifacts`` beside the database; a server decides for itself.

    Raises:
        DeletedExperimentError: If it was deleted; MLflow creates no other of the same name.

    """
    mlflow = client(uri)
    if (known := mlflow.get_experiment_by_name(name)) is None:
        try:
            return str(mlflow.create_experiment(name, artifact_location=_artifact_root(uri)))
        except MlflowException:
            known = mlflow.get_experiment_by_name(name)
            if known is None:
                raise
    require_active(uri, known)
    return str(known.experiment_id)


def require_active(uri: str, experiment: Experiment) -> None:
    """Raise if an experiment was deleted.

    Raises:
        DeletedExperimentError: If it was; the message says how to restore it.

    """
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise DeletedExperimentError(
            f"experiment {experiment.name!r} was deleted; restore it by: "
            f"MLFLOW_TRACKING_URI='{without_password(uri)}' "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )


def _artifact_root(uri: str) -> str | None:
    file = file_of(uri)
    return None if file is None else artifact_root(file)
