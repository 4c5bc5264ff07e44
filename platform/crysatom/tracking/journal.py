"""The local record of everything that a run logs to MLflow, and of how much of it was sent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crysatom.writing import write_text

Record = dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """Records in the order in which they happened, one JSON line each, with one writer.

    A record is on disk before it is sent. What was sent is remembered as an offset in the file. A process that is
    interrupted in between sends the last record again, so sending must be idempotent.

    Attributes:
        folder: Folder of ``journal.jsonl`` and ``state.json`` (MLflow run id, bytes sent).

    """

    folder: Path

    @property
    def path(self) -> Path:
        """The file of records."""
        return self.folder / "journal.jsonl"

    def append(self, record: Record) -> None:
        """Append a record; return when it is on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(self._end())  # a killed writer leaves half a line
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self, start: int = 0) -> Iterator[tuple[Record, int]]:
        """Yield each complete record from a byte offset on, with the offset of its end."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line), (start := start + len(line))

    def pending(self) -> Iterator[tuple[Record, int]]:
        """Yield the records that MLflow does not have yet."""
        return self.records(self._state()["sent"])

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty until the run was created there."""
        return str(self._state()["run_id"])

    def remember_run(self, run_id: str) -> None:
        """Store MLflow's id of the run."""
        self._write_state({**self._state(), "run_id": run_id})

    def forget_run(self) -> None:
        """Forget MLflow's id of the run, so that all records are pending again."""
        self._write_state({"run_id": "", "sent": 0})

    def mark_sent(self, end: int) -> None:
        """Store that everything before a byte offset was sent."""
        self._write_state({**self._state(), "sent": end})

    def _end(self) -> int:
        """Return the offset of the end of the last complete record."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            if file.read(1) in (b"\n", b""):
                return size
        return self.path.read_bytes().rfind(b"\n") + 1

    def _state(self) -> Record:
        path = self.folder / "state.json"
        return json.loads(path.read_text()) if path.exists() else {"run_id": "", "sent": 0}

    def _write_state(self, state: Record) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "state.json", json.dumps(state))
