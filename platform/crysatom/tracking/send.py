"""Send records of the journal as calls of MLflow. Each may be repeated without effect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from crysatom.config.secrets import scrubbed
from crysatom.tracking.datasets import log_dataset
from crysatom.tracking.fields import PARENT, REASON, RUN_KEY, VECTORS
from crysatom.tracking.journal import Journal, Record
from crysatom.tracking.registry import register
from crysatom.tracking.store import client, experiment_id, require_active, sent_once

logger = logging.getLogger(__name__)

START, METRICS, TAGS, ARTIFACT, REGISTER, FINISH = "start", "metrics", "tags", "artifact", "register", "finish"

_PATHS = ("path", "folder", "parent")
"""Fields of records that are paths, absolute or relative to the run's folder."""

_NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", _NOT_THERE}
_BATCH = 100
"""Largest number of parameters, tags or metrics in one call of MLflow."""


class DeletedRunError(RuntimeError):
    """The run was deleted in the store."""


class UnknownRunError(RuntimeError):
    """The store does not have the run."""


class ParentNotSentError(RuntimeError):
    """The run has a parent that the store does not have yet."""


def send(uri: str, journal: Journal, record: Record) -> None:
    """Send a record to the store. A record that the store refuses for good is logged and skipped.

    Raises:
        DeletedRunError: If the run was deleted: it accepts no more records.
        DeletedExperimentError: If its experiment was deleted.
        UnknownRunError: If the store does not have the run.
        ParentNotSentError: If the store does not have the parent run yet.
        Exception: Whatever MLflow raises when the store cannot be reached; try again later.

    """
    record = _with_whole_paths(record, journal.folder.parent)
    if record["op"] == START:
        _start(uri, journal, record)
        return
    if record["op"] in {ARTIFACT, REGISTER}:  # MLflow accepts these even for a deleted run
        require_run(uri, journal.run_id)
    try:
        _CALLS[record["op"]](uri, journal.run_id, record)
    except FileNotFoundError as error:
        logger.warning("not uploaded to MLflow: %s", error)
    except MlflowException as error:
        if error.error_code not in _REFUSED:
            raise
        require_run(uri, journal.run_id)
        logger.warning("MLflow refused %r of run %s: %s", record["op"], journal.run_id, scrubbed(error, uri))


def _with_whole_paths(record: Record, folder: Path) -> Record:
    """Return a record with its relative paths made absolute."""
    return {**record, **{name: str(folder / record[name]) for name in _PATHS if name in record}}


def _start(uri: str, journal: Journal, record: Record) -> None:
    mlflow = client(uri)
    tags = {**record["tags"], **_parent(record)}
    if journal.run_id:
        require_run(uri, journal.run_id)
        mlflow.update_run(journal.run_id, status="RUNNING")
    else:
        experiment = experiment_id(uri, record["experiment"])
        journal.remember_run(_made(mlflow, experiment, record))
    # MLflow does not allow changing a parameter, and a resumed run may differ in where and how it runs
    known = mlflow.get_run(journal.run_id).data
    if known.tags.get(REASON):  # the reason of a failure that this resumption may fix
        tags = {REASON: "", **tags}
    _log_params(mlflow, journal.run_id, {k: v for k, v in record["params"].items() if k not in known.params})
    _log_tags(mlflow, journal.run_id, tags)
    log_dataset(mlflow, journal.run_id, tags)


def _made(mlflow: MlflowClient, experiment: str, record: Record) -> str:
    """Return the id of a new run, or of the one that an earlier call created whose answer was lost."""
    key = record.get("key", "")  # old journals have no key
    if key and (known := mlflow.search_runs([experiment], f"tags.{RUN_KEY} = '{key}'")):
        return str(known[0].info.run_id)
    with sent_once():
        made = mlflow.create_run(
            experiment, start_time=record["time"], tags={RUN_KEY: key} if key else {}, run_name=record["run_name"]
        )
    return str(made.info.run_id)


def _parent(record: Record) -> dict[str, str]:
    if "parent" not in record:
        return {}
    parent = Journal(Path(record["parent"]))
    if not parent.run_id:
        raise ParentNotSentError(f"its parent run is not there yet: send {parent.folder.parent} first")
    return {PARENT: parent.run_id}


def require_run(uri: str, run_id: str) -> None:
    """Raise unless the store has a run that is not deleted.

    Raises:
        DeletedRunError: If the run was deleted.
        DeletedExperimentError: If its experiment was deleted.
        UnknownRunError: If there is no such run.

    """
    try:
        run = client(uri).get_run(run_id)
    except MlflowException as error:
        if error.error_code != _NOT_THERE:
            raise
        raise UnknownRunError(
            f"it has no run {run_id}, under which this run was started: name the store that has it or, if the run was "
            "deleted for good, add --new-run to the command below"
        ) from error
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        # Restoring the experiment restores the run: a new one would duplicate it
        require_active(uri, client(uri).get_experiment(run.info.experiment_id))
        raise DeletedRunError(f"run {run_id} was deleted")


def _log_params(mlflow: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    items = [Param(name, value) for name, value in params.items()]
    for i in range(0, len(items), _BATCH):
        mlflow.log_batch(run_id, params=items[i : i + _BATCH])


def _log_tags(mlflow: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    items = [RunTag(name, value) for name, value in tags.items()]
    for i in range(0, len(items), _BATCH):
        mlflow.log_batch(run_id, tags=items[i : i + _BATCH])


def _metrics(uri: str, run_id: str, record: Record) -> None:
    # A store keeps one of several equal (name, step, time, value), so sending twice is harmless
    items = [Metric(name, value, record["time"], record["step"]) for name, value in record["values"].items()]
    for i in range(0, len(items), _BATCH):
        client(uri).log_batch(run_id, metrics=items[i : i + _BATCH])


def _tags(uri: str, run_id: str, record: Record) -> None:
    _log_tags(client(uri), run_id, record["tags"])


def _artifact(uri: str, run_id: str, record: Record) -> None:
    path, to = Path(record["path"]), record["to"] or None
    if path.is_dir():
        client(uri).log_artifacts(run_id, str(path), to)
    elif path.is_file():
        client(uri).log_artifact(run_id, str(path), to)
    else:
        raise FileNotFoundError(path)


def _register(uri: str, run_id: str, record: Record) -> None:
    to = record.get("to", VECTORS)  # old journals registered only vectors
    register(uri, record["name"], run_id, record["folder"], to, record["tags"])


def _finish(uri: str, run_id: str, record: Record) -> None:
    client(uri).set_terminated(run_id, record["status"], record["time"])


_CALLS: dict[str, Callable[[str, str, dict[str, Any]], None]] = {
    METRICS: _metrics,
    TAGS: _tags,
    ARTIFACT: _artifact,
    REGISTER: _register,
    FINISH: _finish,
}
