"""A run's folder: the run that it belongs to, how far that got, and its lock."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from crysatom.config import Group, Role, digest, recorded
from crysatom.names import RUN_JSON
from crysatom.training import checkpoints
from crysatom.writing import write_text

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LOCK = ".lock"
FINISHED_SECONDS = 60.0
"""Seconds to wait for the lock of a finished run, whose holder only sends pending records to MLflow."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run of one configuration on one data set.

    Attributes:
        path: ``<out>/<name>``.

    """

    path: Path

    @contextmanager
    def claimed(self, config: Group, data_digest: str, *, resume: bool = False) -> Iterator[bool]:
        """Make the folder this run's own and lock it; yield whether the run in it is finished already.

        The folder is locked before anything in it is read or written. A process that dies frees the lock.

        Args:
            config: Configuration of the run.
            data_digest: Digest of the data that the run reads.
            resume: Continue an unfinished run from its last checkpoint.

        Raises:
            ValueError: If another process holds the folder, or it holds a run of another configuration, a run on other
                data, or an unfinished run and ``resume`` is off.

        """
        lock = self._locked()
        try:
            yield self._claim(config, data_digest, resume=resume)
        finally:
            lock.release()

    def _claim(self, config: Group, data_digest: str, *, resume: bool) -> bool:
        wanted = {"config_digest": digest(config), "data_digest": data_digest}
        found = self.read()
        if found:
            self._require_same(found, wanted, config)
            if found["finished"]:
                return True
            if not resume and self.has_checkpoint():
                raise ValueError(
                    f"{self.path} holds an unfinished run of this configuration; continue it with --resume, "
                    "or give this one another --name"
                )
        if resume and not self.has_checkpoint():
            logger.info("%s holds no checkpoint to continue from: starting with the first epoch", self.path)
        self.write({**found, **wanted, "finished": False, "config": recorded(config)})
        return False

    def _locked(self) -> FileLock:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=FINISHED_SECONDS if self.read().get("finished") else 0)
        except Timeout as error:
            raise ValueError(
                f"another process is at work in {self.path}; wait for it, or give this run another --name"
            ) from error
        return lock

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint, of an epoch or from within one."""
        return checkpoints.newest(self.path / CHECKPOINTS) is not None

    def epochs_done(self) -> int:
        """Return the number of complete epochs in the newest checkpoint; 0 if there is none."""
        newest = checkpoints.newest(self.path / CHECKPOINTS)
        return 0 if newest is None else checkpoints.progress(newest)[1]

    def read(self) -> dict[str, Any]:
        """Return the record of the run; empty if there is none."""
        file = self.path / RUN_JSON
        return json.loads(file.read_text()) if file.exists() else {}

    def write(self, content: dict[str, Any]) -> None:
        """Replace the record atomically."""
        write_text(self.path / RUN_JSON, json.dumps(content, indent=1))

    def note(self, **facts: Any) -> None:
        """Add facts to the record of the run."""
        self.write({**self.read(), **facts})

    def finish(self, **facts: Any) -> None:
        """Record that the run is finished."""
        self.note(finished=True, **facts)

    def _require_same(self, found: dict[str, Any], wanted: dict[str, str], config: Group) -> None:
        if found["config_digest"] != wanted["config_digest"]:
            mine = json.loads(json.dumps(recorded(config)))  # as the record has it
            compared = mine.keys() & found["config"].keys() & config.names(Role.RESULT)
            differing = {k: (found["config"][k], mine[k]) for k in compared if found["config"][k] != mine[k]}
            text = ", ".join(f"{name} {was!r} -> {now!r}" for name, (was, now) in sorted(differing.items()))
            raise ValueError(
                f"{self.path} holds a run of another configuration ({text or 'of another version'}); "
                "give this one another --name"
            )
        if found["data_digest"] != wanted["data_digest"]:
            raise ValueError(f"{self.path} holds a run on other data; give this one another --name")
