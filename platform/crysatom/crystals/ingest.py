"""Ingest: every record of a source ends in the crystal table or in the quarantine.

Records keep the order of the source, wherever they are parsed, so the plain run here and the run on a cluster
(:mod:`crysatom.cluster.ingest`) write the same rows.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from crysatom.config import IngestConfig, Limits
from crysatom.crystals.derived_columns import COMPUTED_COLUMNS, COMPUTED_FIELDS, computed_column
from crysatom.crystals.examine import examine_batch
from crysatom.crystals.notes import Notes, writing_notes
from crysatom.crystals.properties import PropertyTypes, property_array
from crysatom.crystals.quarantine import QUARANTINE_SCHEMA, FirstOfEachId, Rejected
from crysatom.crystals.record import PROPERTIES_JSON, Record, to_batch
from crysatom.crystals.rejections import Rejections, streamed, to_parquet
from crysatom.crystals.sources import Source, open_source
from crysatom.crystals.table import STRUCTURE_COLUMNS, STRUCTURE_FIELDS, table_writer, write_table
from crysatom.names import DETAIL, MATERIAL_ID, REASON, SOURCE, __version__

logger = logging.getLogger(__name__)

TABLE_FILE = "crystals.parquet"
QUARANTINE_FILE = "quarantine.parquet"
NOTES_FILE = "notes.parquet"
LOCK_FILE = ".ingest.lock"

BATCH_RECORDS = 128
"""Records parsed at a time: half a second of CIFs."""

BATCH_ROWS = 4096
"""Largest size of a batch, including records that the reader rejected, which need no parsing."""

PROGRESS_SECONDS = 5.0

ExamineAll = Callable[[Iterator[pa.Table], Limits], Iterator[pa.Table]]
"""Converts batches of raw records to batches of outcomes, in order."""


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """Summary of an ingest run.

    Attributes:
        read: Records of the source.
        accepted: Rows of the crystal table.
        rejected: Rows of the quarantine; ``read == accepted + rejected``.
        reasons: Rows of the quarantine for each reason, most frequent first.
        table: The crystal table.
        quarantine: The quarantine.
        notes: Accepted crystals with a note, for each kind of note, most frequent first.
        notes_file: The file of notes; None if there are no notes and hence no file.

    """

    read: int
    accepted: int
    rejected: int
    reasons: dict[str, int]
    table: Path
    quarantine: Path
    notes: dict[str, int]
    notes_file: Path | None


def ingest_plain(config: IngestConfig) -> IngestReport:
    """Ingest a source in this process, without Ray.

    Raises:
        ValueError: If the source cannot be opened, or the output exists and must not be replaced.

    """
    return run_ingest(config, lambda batches, limits: (examine_batch(batch, limits) for batch in batches))


def run_ingest(config: IngestConfig, examine_all: ExamineAll) -> IngestReport:
    """Ingest a source; ``examine_all`` parses and checks.

    Raises:
        ValueError: If the source cannot be opened, or the output exists and may not be replaced.

    """
    out = Path(config.out).expanduser()
    _require_free(out, overwrite=config.overwrite)
    source = open_source(config.source)
    read = ReadCount()
    limits = config.limits
    with _held(out):
        _require_free(out, overwrite=config.overwrite)  # another ingest may have just finished
        report = _collect(examine_all(read.batches(source), limits), source, read, out)
    assert report.read == report.accepted + report.rejected, f"a record was lost: {report}"
    return report


def _require_free(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must name a folder")
    present = [name for name in (TABLE_FILE, QUARANTINE_FILE, NOTES_FILE) if (out / name).exists()]
    if present and not overwrite:
        raise ValueError(
            f"{out} already holds {' and '.join(present)}; choose another --out, or pass --overwrite to replace them"
        )
    out.mkdir(parents=True, exist_ok=True)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Lock a folder for one writer; a process that dies releases the lock.

    Raises:
        ValueError: If another process has locked it.

    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is reading crystals into {out}; wait for it, or choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


class ReadCount:
    """Counts the records as they leave the source, before any other step."""

    def __init__(self) -> None:
        self.count = 0

    def batches(self, source: Source) -> Iterator[pa.Table]:
        """Yield the records of a source in batches with at most :data:`BATCH_RECORDS` to parse."""
        batch: list[Record | Rejected] = []
        to_parse = 0
        for record in source.records():
            batch.append(record)
            to_parse += isinstance(record, Record)
            if to_parse == BATCH_RECORDS or len(batch) == BATCH_ROWS:
                yield self._counted(batch)
                batch, to_parse = [], 0
        if batch:
            yield self._counted(batch)

    def _counted(self, batch: list[Record | Rejected]) -> pa.Table:
        self.count += len(batch)
        return to_batch(batch)


def _collect(outcomes: Iterable[pa.Table], source: Source, read: ReadCount, out: Path) -> IngestReport:
    """Write the outcomes to a spool, then to a table once the property columns are known."""
    spool = out / f".{TABLE_FILE}.spool"
    try:
        with (
            table_writer(out / QUARANTINE_FILE, QUARANTINE_SCHEMA) as file,
            streamed(to_parquet(file)) as rejections,
            writing_notes(out / NOTES_FILE) as notes,
        ):
            sorter = _Sorter(source, rejections, notes)
            accepted = write_table(sorter.accepted(outcomes), spool, _SPOOL_SCHEMA)
        fields = sorter.types.fields(source.name)
        for level, remark in sorter.types.remarks():
            logger.log(level, "%s: %s", source.name, remark)
        metadata = {"source": source.name, "crysatom": __version__}
        schema = pa.schema([*STRUCTURE_FIELDS, *COMPUTED_FIELDS, *fields.values()], metadata=metadata)
        write_table(_with_property_columns(spool, list(fields), schema), out / TABLE_FILE, schema)
    finally:
        spool.unlink(missing_ok=True)
    return IngestReport(
        read=read.count,
        accepted=accepted,
        rejected=rejections.count,
        reasons=rejections.reasons,
        table=out / TABLE_FILE,
        quarantine=out / QUARANTINE_FILE,
        notes=notes.kinds,
        notes_file=out / NOTES_FILE if notes.kinds else None,
    )


_SPOOL_SCHEMA = pa.schema([*STRUCTURE_FIELDS, pa.field(PROPERTIES_JSON, pa.string(), nullable=False)])


class _Sorter:
    """Separates accepted crystals with distinct ids from rejected records."""

    def __init__(self, source: Source, rejections: Rejections, notes: Notes) -> None:
        self.rejections = rejections
        self.notes = notes
        self.types = PropertyTypes(source.fields)
        self._ids = FirstOfEachId()
        self._total = source.total
        self._started = self._told = time.monotonic()

    def accepted(self, outcomes: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield tables with the spool's schema."""
        for outcome in outcomes:
            keep = [self._sort(row) for row in outcome.select([MATERIAL_ID, SOURCE, REASON, DETAIL]).to_pylist()]
            accepted = outcome.filter(pa.array(keep, pa.bool_()))
            self.notes.add(accepted)
            kept = accepted.select([*STRUCTURE_COLUMNS, PROPERTIES_JSON]).cast(_SPOOL_SCHEMA)
            self.types.observe(kept[MATERIAL_ID].to_pylist(), map(json.loads, kept[PROPERTIES_JSON].to_pylist()))
            self._log_progress()
            yield kept

    def _sort(self, row: dict[str, str]) -> bool:
        material_id, source = row[MATERIAL_ID], row[SOURCE]
        if row[REASON] is not None:
            self.rejections.add(
                Rejected(material_id=material_id, source=source, reason=row[REASON], detail=row[DETAIL])
            )
            return False
        if duplicate := self._ids.claim(material_id, source):
            self.rejections.add(duplicate)
            return False
        self.rejections.accepted += 1
        return True

    def _log_progress(self) -> None:
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        rejected = self.rejections.count
        done = len(self._ids) + rejected
        of_all = f" of {self._total:,}" if self._total else ""
        rate = done / (now - self._started)
        logger.info("ingest: %s%s read, %s rejected, %.0f crystals/s", f"{done:,}", of_all, f"{rejected:,}", rate)


def _with_property_columns(spool: Path, names: list[str], schema: pa.Schema) -> Iterator[pa.Table]:
    num_structure, num_written = len(STRUCTURE_FIELDS), len(STRUCTURE_FIELDS) + len(COMPUTED_FIELDS)
    for batch in pq.ParquetFile(spool).iter_batches():
        table = pa.Table.from_batches([batch])
        properties = [json.loads(text) for text in table[PROPERTIES_JSON].to_pylist()]
        columns = list(table.columns[:num_structure])
        columns += [pa.array(computed_column(table, name)) for name in COMPUTED_COLUMNS]
        for name, field in zip(names, list(schema)[num_written:], strict=True):
            columns.append(property_array([values.get(name) for values in properties], field.type))
        yield pa.Table.from_arrays(columns, schema=schema)
