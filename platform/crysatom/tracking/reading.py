"""Read experiments from MLflow as plain values: runs, histories of metrics, artifacts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from crysatom.config.checks import require_name
from crysatom.config.secrets import scrubbed, without_password
from crysatom.names import RUNS_URI
from crysatom.tracking.fields import PARENT
from crysatom.tracking.store import DeletedExperimentError, client, missing_file, require_active, resolve_uri

_PAGE = 1000
"""Runs requested from MLflow at a time."""


class UnreadableStoreError(RuntimeError):
    """The store does not answer, or answers with an error."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedRun:
    """A run.

    Attributes:
        run_id: MLflow's id of the run.
        experiment_id: MLflow's id of the experiment.
        experiment: Name of the experiment.
        name: Name of the run.
        status: FINISHED, RUNNING, FAILED, KILLED or SCHEDULED.
        started: Start time.
        seconds: Duration; None if the run has not ended.
        params: Settings, as text.
        tags: All tags, including MLflow's own.
        metrics: Last value of each metric; values that are not finite are left out.
        parent: Id of the parent run; empty if there is none.

    """

    run_id: str
    experiment_id: str
    experiment: str
    name: str
    status: str
    started: datetime
    seconds: float | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    parent: str


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store to read from.

    Attributes:
        uri: Absolute URI.

    """

    uri: str

    @classmethod
    def at(cls, tracking_uri: str = "") -> Store:
        """Return the store that a user names.

        Args:
            tracking_uri: Empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.

        Raises:
            ValueError: If it is a plain folder, or a missing database file, which reading would create.

        """
        uri = resolve_uri(tracking_uri, Path.cwd())
        if missing_file(uri):
            raise ValueError(f"{without_password(uri)}: there is no such file; name the store by --tracking-uri")
        return cls(uri=uri)

    @property
    def shown(self) -> str:
        """Its URI without user and password, for a page that others read."""
        return without_password(self.uri)

    @property
    def address(self) -> str:
        """Address of its web pages, without user and password; empty for a database."""
        http = self.uri.startswith(("http://", "https://"))
        return self.shown.replace("...@", "").rstrip("/") if http else ""

    def runs(self, experiments: Sequence[str]) -> list[TrackedRun]:
        """Return all runs of some experiments except deleted ones, oldest first.

        Raises:
            ValueError: If there is no such experiment.
            DeletedExperimentError: If the experiment was deleted.
            UnreadableStoreError: If the store does not answer.

        """
        with self._reading("its runs"):
            found = [run for name in dict.fromkeys(experiments) for run in self._runs_of(name)]
        return sorted(found, key=lambda run: run.started)

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return steps and values of a metric, ordered by step; of several values of one step, the last."""
        with self._reading(f"{metric} of run {run_id}"):
            history = client(self.uri).get_metric_history(run_id, metric)
        points = sorted(history, key=lambda point: (point.step, point.timestamp))
        return list({point.step: float(point.value) for point in points}.items())

    def artifact(self, run_id: str, path: str, to: str | Path) -> Path | None:
        """Copy a file among a run's artifacts to a folder; return its path, or None if the run has no such file."""
        require_name("the id of a run", run_id)
        folder, _, _ = path.rpartition("/")
        with self._reading(f"{path} of run {run_id}"):
            if path not in {found.path for found in client(self.uri).list_artifacts(run_id, folder or None)}:
                return None
            place = Path(to) / run_id
            place.mkdir(parents=True, exist_ok=True)
            source = f"{RUNS_URI}{run_id}/{path}"
            return Path(download_artifacts(artifact_uri=source, dst_path=str(place), tracking_uri=self.uri))

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, DeletedExperimentError):
            raise  # our own errors are complete
        except Exception as error:
            cause = scrubbed(f"{type(error).__name__}: {error}".partition("\n")[0], self.uri)
            raise UnreadableStoreError(f"{self.shown} could not be read: {what} ({cause})") from error

    def _runs_of(self, name: str) -> list[TrackedRun]:
        mlflow = client(self.uri)
        if (known := mlflow.get_experiment_by_name(name)) is None:
            names = sorted(found.name for found in mlflow.search_experiments())
            raise ValueError(f"{self.shown} has no experiment {name!r}; it has {', '.join(names) or 'none'}")
        require_active(self.uri, known)
        found: list[TrackedRun] = []
        page = None
        while True:
            some = mlflow.search_runs([known.experiment_id], max_results=_PAGE, page_token=page)
            found += [_tracked(run, name) for run in some]
            if not (page := some.token):
                return found


def _tracked(run: Run, experiment: str) -> TrackedRun:
    info: Any = run.info
    return TrackedRun(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        experiment=experiment,
        name=info.run_name or info.run_id,
        status=info.status,
        started=datetime.fromtimestamp(info.start_time / 1000, UTC),
        seconds=(info.end_time - info.start_time) / 1000 if info.end_time else None,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics={name: value for name, value in run.data.metrics.items() if math.isfinite(value)},
        parent=run.data.tags.get(PARENT, ""),
    )
