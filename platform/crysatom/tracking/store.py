"""Where MLflow keeps runs: which store is meant, and clients that give up on an absent server quickly."""

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
    """Return the store that is meant: the one given, that of the environment, or ``mlflow.db``.

    Args:
        uri: What the user gave; may be empty.
        directory: The user's working directory, from which relative sqlite paths count. Never that of a
            Ray worker, which is scratch space.

    Raises:
        ValueError: If it names a folder: MLflow no longer keeps runs in plain files. If it is sqlite without a file.

    """
    uri = default_tracking_uri(uri)
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise ValueError(
            f"tracking URI {without_password(uri)!r} is a folder, or of a kind that is not known; MLflow's file store "
            "is no longer maintained. Use sqlite:///mlflow.db or a server (http://host:5000); known kinds: "
            f"{', '.join(_SCHEMES)}"
        )
    return _with_whole_path(uri, directory) if scheme == SQLITE else uri


def _with_whole_path(uri: str, directory: str | Path) -> str:
    scheme, _, rest = uri.partition(":///")
    path, mark, options = rest.partition("?")
    if path in {"", ":memory:"} or path.startswith("file:"):
        raise ValueError(f"tracking URI {uri!r} names no file that would last; write sqlite:///PATH")
    return f"{scheme}:///{Path(directory).resolve() / path}{mark}{options}"


def missing_file(uri: str) -> bool:
    """Tell whether a store, as :func:`resolve_uri` returns it, is a database file that is not there yet."""
    file = file_of(uri)
    return file is not None and not file.exists()


@functools.cache
def client(uri: str) -> MlflowClient:
    """Return a client of a store, for runs and for registered models alike; an sqlite store is made if missing.

    Raises:
        StoreError: If it is a sqlite store that cannot be used as it is.
        MovedHomeError: If it is one that was moved without telling it.

    """
    for name in ("alembic", "mlflow.store.db.utils"):  # the migrations of a new store are no news to a user
        logging.getLogger(name).setLevel(logging.WARNING)
    if (file := file_of(uri)) is not None:
        make_ready(file)
        require_at_home(file)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def sent_once() -> Iterator[None]:
    """Keep MLflow from repeating a request that makes something: when only its answer was lost, that makes two."""
    before = os.environ.get(_RETRIES_VARIABLE)
    os.environ[_RETRIES_VARIABLE] = "0"
    try:
        yield
    finally:
        del os.environ[_RETRIES_VARIABLE]
        if before is not None:
            os.environ[_RETRIES_VARIABLE] = before


def experiment_id(uri: str, name: str) -> str:
    """Return the id of an experiment, which is made if missing.

    Artifacts of a sqlite store lie in ``mlartifacts`` beside the database; a server decides for itself.

    Raises:
        DeletedExperimentError: If it was deleted; MLflow makes no other of the same name.

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
        DeletedExperimentError: If so; says how to take it back.

    """
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise DeletedExperimentError(
            f"experiment {experiment.name!r} was deleted; take it back by: "
            f"MLFLOW_TRACKING_URI='{without_password(uri)}' "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )


def _artifact_root(uri: str) -> str | None:
    file = file_of(uri)
    return None if file is None else artifact_root(file)
