"""Notes of readers on decisions, omissions and rounding: a file for each crystal, and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crysatom.crystals.table import table_writer
from crysatom.names import MATERIAL_ID, NOTE, SOURCE

NOTES_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in (MATERIAL_ID, SOURCE, NOTE)])
"""Columns of notes.parquet, one row for each crystal with a note."""

SEPARATOR = "; "


class NoteCounts:
    """Counts notes by their kind: the text before the colon."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()

    def observe(self, notes: Iterable[str]) -> None:
        """Count the notes of more crystals, one text per crystal."""
        for text in notes:
            self._kinds.update({note.partition(":")[0] for note in text.split(SEPARATOR)})

    @property
    def kinds(self) -> dict[str, int]:
        """Number of crystals with a note of each kind, most frequent first."""
        return dict(self._kinds.most_common())


class Notes(NoteCounts):
    """Writes notes to a file as they arrive."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        super().__init__()
        self._writer = writer

    def add(self, accepted: pa.Table) -> None:
        """Add the notes of accepted crystals."""
        noted = accepted.filter(accepted[NOTE].is_valid()).select(NOTES_SCHEMA.names).cast(NOTES_SCHEMA)
        if noted.num_rows:
            self.observe(noted[NOTE].to_pylist())
            self._writer.write_table(noted)


@contextmanager
def writing_notes(path: Path) -> Iterator[Notes]:
    """Yield the writer of notes; without notes, no file remains, not even that of an earlier ingest."""
    with table_writer(path, NOTES_SCHEMA) as writer:
        notes = Notes(writer)
        yield notes
    if not notes.kinds:
        path.unlink()
