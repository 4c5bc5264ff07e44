"""One run in MLflow: a journal on disk, mirrored to a store that may be unavailable at times."""

from __future__ import annotations

import logging
import os
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from crysatom.config.secrets import scrubbed, without_password
from crysatom.names import MODELS_URI
from crysatom.tracking import send
from crysatom.tracking.database import StoreError
from crysatom.tracking.fields import FIGURES
from crysatom.tracking.homes import MovedHomeError
from crysatom.tracking.journal import Journal, Record
from crysatom.tracking.registry import version_of
from crysatom.tracking.store import DeletedExperimentError, resolve_uri
from crysatom.training.full_disk import is_full, room
from crysatom.writing import write_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

JOURNAL_FOLDER = "tracking"
LOCK = ".lock"
LOCK_SECONDS = 60.0
"""Seconds that a process waits for another one that is sending the journal."""

RETRY_SECONDS = 30.0
"""Seconds after a failure before the store is tried again: an absent server must not slow down training."""


class BusyJournalError(RuntimeError):
    """Another process is sending the journal of the run."""


_ANSWERS = (DeletedExperimentError, send.UnknownRunError, StoreError, MovedHomeError, BusyJournalError)
"""Errors of a store that answers."""


@dataclass(kw_only=True)
class Tracker:
    """Logs one run to MLflow; never fails, and neither loses nor repeats records.

    Every record goes to a journal in the run's folder first, and from there to MLflow, in order. While MLflow is
    unavailable the journal grows; the next call, :meth:`finish`, or ``python -m crysatom.tracking.flush FOLDER`` sends
    the rest. While the disk is full, records wait in memory. A metric of a step that is already in the journal is
    dropped, so a resumed training may repeat its last epochs. If the run is deleted in MLflow, a new one is created
    with all records. The tracker holds two strings and can be pickled to the process that reports; only one process at
    a time may write.

    Attributes:
        uri: Store, absolute.
        folder: The run's own folder, on persistent storage.

    """

    uri: str
    folder: Path
    _retry_at: float = field(default=0.0, init=False, repr=False, compare=False)
    _seen: set[tuple[str, int]] | None = field(default=None, init=False, repr=False, compare=False)
    _unwritten: list[Record] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def at(cls, folder: str | Path, uri: str = "") -> Tracker:
        """Return the tracker of the run with this folder, started or not.

        Args:
            folder: The run's own folder.
            uri: Store; empty: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory.

        Raises:
            ValueError: If the store is a plain folder.

        """
        return cls(uri=resolve_uri(uri, Path.cwd()), folder=Path(folder).resolve())

    def start(
        self,
        *,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        resume: bool = False,
        parent: Path | None = None,
    ) -> Tracker:
        """Start a run, or resume the one in the folder; return this tracker.

        Args:
            experiment: Name of the experiment; created if missing.
            run_name: Name shown in MLflow.
            params: Settings, logged as text.
            tags: Searchable facts: data digest, versions, hardware.
            resume: Resume the run whose journal is in the folder, if there is one.
            parent: Folder of the parent run in MLflow.

        Raises:
            ValueError: If the folder holds a run and ``resume`` is off.

        """
        if self._journal.path.exists() and not resume:
            run = self.run_id or "(not yet in MLflow)"
            raise ValueError(f"{self.folder} already holds run {run}; resume it, or choose another folder")
        texts = {name: str(value) for name, value in params.items()}
        more = {"key": uuid.uuid4().hex}
        if parent is not None:
            more["parent"] = os.path.relpath(parent.resolve() / JOURNAL_FOLDER, self.folder)
        self._append(op=send.START, experiment=experiment, run_name=run_name, params=texts, tags=dict(tags), **more)
        return self

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty if MLflow has been unavailable since the start."""
        return self._journal.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log all metrics of an epoch in one call; metrics that this step already has are dropped."""
        new = {name: float(value) for name, value in metrics.items() if (name, step) not in self._logged}
        if new:
            self._logged.update((name, step) for name in new)
            self._append(op=send.METRICS, values=new, step=step)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._append(op=send.TAGS, tags=dict(tags))

    def log_artifact(self, path: str | Path, to: str = "") -> None:
        """Upload a file, or all files of a folder, to the folder ``to`` among the run's artifacts."""
        self._append(op=send.ARTIFACT, path=self._place(path), to=to)

    def log_figure(self, figure: Figure, name: str) -> Path:
        """Save a figure as ``figures/NAME.png`` in the run's folder, upload it, and return its path."""
        path = self.folder / FIGURES / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_figure(path, figure)
        self.log_artifact(path, to=FIGURES)
        return path

    def register(self, name: str, tags: Mapping[str, str], folder: str | Path, to: str) -> None:
        """Upload a folder to ``to`` among the run's artifacts as the next version of a registered model."""
        self._append(op=send.REGISTER, name=name, tags=dict(tags), folder=self._place(folder), to=to)

    def registered(self, name: str) -> str:
        """Return ``models:/NAME/VERSION`` of this run's version of a registered model; empty if MLflow has none yet."""
        if not name or next(self._journal.pending(), None) is not None:
            return ""
        try:
            version = version_of(self.uri, name, self.run_id)
        except Exception as error:  # noqa: BLE001 - whatever MLflow raises, the run is finished
            logger.warning(
                "MLflow at %s does not return this run's version of %s: %s",
                without_password(self.uri),
                name,
                scrubbed(error, self.uri),
            )
            return ""
        return f"{MODELS_URI}{name}/{version}" if version else ""

    def finish(self, status: str = "FINISHED") -> bool:
        """End the run as FINISHED, FAILED or KILLED; return whether MLflow has everything."""
        self._retry_at = 0.0
        self._append(op=send.FINISH, status=status)
        return not self._unwritten and next(self._journal.pending(), None) is None

    def settle(self) -> bool:
        """End a run whose work is done, if MLflow does not know yet; send pending records; return if all were sent.

        This is for a run that was killed after its work, or ended while MLflow was unavailable.
        """
        last: Mapping[str, Any] = {}
        for last, _ in self._journal.records():  # noqa: B007 - only the last is of interest
            pass
        if last and (last["op"], last.get("status")) != (send.FINISH, "FINISHED"):
            return self.finish()
        return self.flush()

    def history(self) -> pd.DataFrame:
        """Return every metric logged so far: one row per step, one column per metric."""
        import pandas as pd

        records = [record for record, _ in self._journal.records() if record["op"] == send.METRICS]
        steps: dict[int, dict[str, float]] = {}
        for record in records:
            steps.setdefault(record["step"], {}).update(record["values"])
        return pd.DataFrame.from_dict(steps, orient="index").rename_axis("epoch").sort_index()

    def flush(self, *, new_run: bool = False) -> bool:
        """Send pending records to MLflow, in order; return whether it has everything now.

        Args:
            new_run: If the store does not have the run, create a new one with all records, even if none is pending.
                Otherwise nothing is sent then, because the run may be in another store.

        """
        replaced = (send.DeletedRunError, send.UnknownRunError) if new_run else send.DeletedRunError
        try:
            try:
                self._send_pending(check=new_run)
            except replaced as error:
                logger.warning(
                    "MLflow at %s: %s. A new run is created with all records", without_password(self.uri), error
                )
                self._journal.forget_run()
                self._send_pending()
        except Exception as error:  # noqa: BLE001 - whatever MLflow raises, training continues
            self._warn(error)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return False
        self._retry_at = 0.0
        return True

    def _send_pending(self, *, check: bool = False) -> None:
        journal = self._journal
        if not journal.path.exists():
            return
        with self._sending():
            if check and journal.run_id:
                send.require_run(self.uri, journal.run_id)
            for record, end in journal.pending():
                send.send(self.uri, journal, record)
                journal.mark_sent(end)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Keep other processes, like the command ``flush``, from sending the journal too: each would create a run.

        Raises:
            BusyJournalError: If another process is sending it.

        """
        lock = FileLock(self._journal.folder / LOCK)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise BusyJournalError("another process is sending this journal") from error
        try:
            yield
        finally:
            lock.release()

    def _place(self, path: str | Path) -> str:
        """Return a path for the journal: relative if it is inside the run's folder, which may be moved."""
        whole = Path(path).resolve()
        return str(whole.relative_to(self.folder) if whole.is_relative_to(self.folder) else whole)

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "folder": self.folder, "_retry_at": 0.0, "_seen": None, "_unwritten": []}

    @property
    def _journal(self) -> Journal:
        return Journal(self.folder / JOURNAL_FOLDER)

    @property
    def _logged(self) -> set[tuple[str, int]]:
        if self._seen is None:
            records = [record for record, _ in self._journal.records() if record["op"] == send.METRICS]
            self._seen = {(name, record["step"]) for record in records for name in record["values"]}
        return self._seen

    def _append(self, **record: Any) -> None:
        self._unwritten.append({**record, "time": time.time_ns() // 1_000_000})
        try:
            while self._unwritten:
                self._journal.append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            if not is_full(error):
                raise
            what = f"{len(self._unwritten)} records for MLflow wait in memory until there is room"
            logger.warning(
                "%s: %s could not be written (%s); %s", error.strerror, self._journal.path, room(self.folder), what
            )
            return
        if time.monotonic() >= self._retry_at:
            self.flush()

    def _warn(self, error: Exception) -> None:
        level = logging.WARNING if self._retry_at == 0.0 else logging.DEBUG
        answers = isinstance(error, _ANSWERS) or is_full(error)
        flush = ["python", "-m", "crysatom.tracking.flush", str(self.folder)]
        logger.log(
            level,
            "MLflow at %s %s (%s). Training continues; the run's records are kept in %s and sent when %s, or by: %s",
            without_password(self.uri),
            "cannot be updated" if answers else "does not answer",
            scrubbed(error, self.uri).partition("\n")[0],
            self._journal.path,
            "that is fixed" if answers else "it is back",
            shlex.join([*flush, "--tracking-uri", without_password(self.uri)]),
        )
