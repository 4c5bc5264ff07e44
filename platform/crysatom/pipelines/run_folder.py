"""A run's folder: whose it is, how far it got, and why it may not be reused for something else."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from filelock import FileLock, Timeout

from crysatom.config import NOT_IN_DIGEST, digest, recorded
from crysatom.names import RUN_JSON
from crysatom.training import checkpoints
from crysatom.writing import write_text

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LOCK = ".lock"
FINISHED_SECONDS = 60.0
"""How long a finished run is waited for: who holds it tells MLflow what it missed, which ends soon."""

_CLAIMED: dict[Path, FileLock] = {}
"""Locks of the folders that this process has claimed, until :meth:`RunFolder.held` takes them over."""


class Resumable(Protocol):
    """The configuration of a run, a dataclass, as far as its folder needs to know it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def resume(self) -> bool:
        """Whether to continue an unfinished run."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run of one configuration on one data set.

    Attributes:
        path: ``<out>/<name>``.

    """

    path: Path

    def claim(self, config: Resumable, data_digest: str) -> bool:
        """Make the folder this run's own; return whether the run in it is finished already.

        The folder is locked before anything in it is read or written, and stays so for this process until it leaves
        :meth:`held`, or ends.

        Raises:
            ValueError: If another process holds it, or another configuration or data set, or an unfinished run not to
                be resumed, is there.

        """
        lock = _CLAIMED.pop(self.path, None) or self._locked()
        try:
            finished = self._claim(config, data_digest)
        except BaseException:
            lock.release()
            raise
        _CLAIMED[self.path] = lock
        return finished

    def _claim(self, config: Resumable, data_digest: str) -> bool:
        wanted = {"config_digest": digest(config), "data_digest": data_digest}
        found = self.read()
        if found:
            self._require_same(found, wanted, config)
            if found["finished"]:
                return True
            if not config.resume and self.has_checkpoint():
                raise ValueError(
                    f"{self.path} holds an unfinished run of this configuration; continue it with --resume, "
                    "or give this one another --name"
                )
        if config.resume and not self.has_checkpoint():
            logger.info("%s holds no checkpoint to continue from: starting with the first epoch", self.path)
        self.write({**found, **wanted, "finished": False, "config": recorded(config)})
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, claimed or not; it has one writer, and a process that dies lets it go.

        Raises:
            ValueError: If another process holds it.

        """
        lock = _CLAIMED.pop(self.path, None) or self._locked()
        try:
            yield
        finally:
            lock.release()

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
        """Tell whether there is a checkpoint, of a whole epoch or from within one."""
        return checkpoints.newest(self.path / CHECKPOINTS) is not None

    def epochs_done(self) -> int:
        """Return how many epochs the newest checkpoint has behind it; 0 if there is none."""
        newest = checkpoints.newest(self.path / CHECKPOINTS)
        return 0 if newest is None else checkpoints.progress(newest)[1]

    def read(self) -> dict[str, Any]:
        """Return what is noted about the run; empty if there is none."""
        file = self.path / RUN_JSON
        return json.loads(file.read_text()) if file.exists() else {}

    def write(self, content: dict[str, Any]) -> None:
        """Replace the note, in one step."""
        write_text(self.path / RUN_JSON, json.dumps(content, indent=1))

    def note(self, **facts: Any) -> None:
        """Add to what is noted about the run."""
        self.write({**self.read(), **facts})

    def finish(self, **facts: Any) -> None:
        """Note that the run is finished."""
        self.note(finished=True, **facts)

    def _require_same(self, found: dict[str, Any], wanted: dict[str, str], config: Resumable) -> None:
        if found["config_digest"] != wanted["config_digest"]:
            mine = json.loads(json.dumps(recorded(config)))  # as the note has it
            compared = (mine.keys() & found["config"].keys()) - NOT_IN_DIGEST
            differing = {k: (found["config"][k], mine[k]) for k in compared if found["config"][k] != mine[k]}
            text = ", ".join(f"{name} {was!r} -> {now!r}" for name, (was, now) in sorted(differing.items()))
            raise ValueError(
                f"{self.path} holds a run of another configuration ({text or 'of another version'}); "
                "give this one another --name"
            )
        if found["data_digest"] != wanted["data_digest"]:
            raise ValueError(f"{self.path} holds a run on other data; give this one another --name")
