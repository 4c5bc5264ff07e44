"""Make one shard: a Parquet file of graphs, and its record, from a range of rows of a crystal table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crysatom.config import GraphSpec, Limits
from crysatom.crystals.quarantine import Reason, Rejected, Rejection
from crysatom.crystals.table import GRAPH_COLUMNS, readable
from crysatom.graphs.checks import Verdicts, check_neighbors, check_rows, check_structures, structures
from crysatom.graphs.columns import flat_values
from crysatom.graphs.lattice_edges import with_lattice_edges
from crysatom.graphs.neighbors import neighbor_graphs
from crysatom.graphs.rows import to_rows
from crysatom.graphs.shards import file_sha256, schema_of
from crysatom.names import ATOMIC_NUMBERS, MATERIAL_ID, MAX_ATOMIC_NUMBER, NEIGHBOR, SYMBOLS
from crysatom.writing import replaced, write_json

ROW_GROUP_CRYSTALS = 1024


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Description of one shard, complete for the process that makes it.

    Attributes:
        table: Crystal table, as an absolute path.
        source: The table as the user named it, for the quarantine.
        start: First row.
        stop: Row after the last.
        duplicates: Rows of the range whose id an earlier accepted row of the table has, ascending.
        graph: Graph specification.
        limits: Limits that an accepted crystal must satisfy.
        file: Shard to write, as an absolute path.
        progress: Folder for its record, on the same file system.

    """

    table: str
    source: str
    start: int
    stop: int
    duplicates: tuple[int, ...]
    graph: GraphSpec
    limits: Limits
    file: str
    progress: str

    @property
    def num_rows(self) -> int:
        """Rows of the range."""
        return self.stop - self.start

    @property
    def record_path(self) -> Path:
        """Path of the record of the finished shard."""
        return Path(self.progress) / f"{Path(self.file).stem}.json"

    def is_done(self) -> bool:
        """Return whether the shard is finished and its file is intact."""
        if not (self.record_path.is_file() and Path(self.file).is_file()):
            return False
        return file_sha256(Path(self.file)) == self.record().sha256

    def record(self) -> ShardRecord:
        """Read the record of the finished shard."""
        return ShardRecord(**json.loads(self.record_path.read_text()))


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Content of a finished shard.

    Attributes:
        file: Name of the Parquet file.
        rows: Crystals in it.
        num_bytes: Size of the file.
        sha256: SHA-256 of the file's content.
        read: Crystals of the table that were read for it.
        atoms: Atoms in it.
        edges: Directed edges in it.
        elements: Atoms of each element in it.
        rejected: Rows for the quarantine, in order.

    """

    file: str
    rows: int
    num_bytes: int
    sha256: str
    read: int
    atoms: int
    edges: int
    elements: dict[str, int]
    rejected: list[dict[str, str]]


def make_shard(task: ShardTask) -> ShardRecord:
    """Write the shard, then its record; one row group at a time, so that memory does not depend on the shard size."""
    path, progress = Path(task.file), Path(task.progress)
    rejected: list[Rejected] = []
    rows = atoms = edges = read = 0
    elements = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=np.int64)
    with (
        replaced(path, progress) as temporary,
        pq.ParquetWriter(temporary, schema_of(task.graph), compression="zstd") as writer,
    ):
        for start, batch in _batches(task):
            graphs, refused = _featurize(task, start, batch)
            writer.write_batch(graphs, row_group_size=ROW_GROUP_CRYSTALS)
            rejected += refused
            numbers = flat_values(graphs[ATOMIC_NUMBERS])
            elements += np.bincount(numbers, minlength=len(elements))
            rows, atoms, edges = (
                rows + graphs.num_rows,
                atoms + len(numbers),
                edges + len(flat_values(graphs[NEIGHBOR])),
            )
            read += batch.num_rows
    record = ShardRecord(
        file=path.name,
        rows=rows,
        num_bytes=path.stat().st_size,
        sha256=file_sha256(path),
        read=read,
        atoms=atoms,
        edges=edges,
        elements={SYMBOLS[z - 1]: int(elements[z]) for z in np.flatnonzero(elements)},
        rejected=[asdict(r) for r in rejected],
    )
    assert record.rows + len(record.rejected) == record.read == task.num_rows
    write_json(task.record_path, asdict(record), progress)
    return record


def _batches(task: ShardTask) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows of the range in record batches, each with the number of its first row."""
    with readable(task.table), pq.ParquetFile(task.table) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.flatnonzero((ends > task.start) & (ends - sizes < task.stop))
        row = int(ends[groups[0]] - sizes[groups[0]])
        for batch in file.iter_batches(ROW_GROUP_CRYSTALS, row_groups=groups.tolist(), columns=list(GRAPH_COLUMNS)):
            first, last = max(task.start - row, 0), min(task.stop - row, batch.num_rows)
            if first < last:
                yield row + first, batch.slice(first, last - first)
            row += batch.num_rows


def _featurize(task: ShardTask, start: int, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[Rejected]]:
    """Return the accepted crystals of one record batch as shard rows, and its quarantined crystals."""
    verdicts, graphs = make_graphs(batch, task.graph, task.limits)
    rows = verdicts.accepted
    duplicate = np.isin(start + rows, task.duplicates)
    if duplicate.any():
        graphs = graphs.filter(pa.array(~duplicate))
        message = "an earlier row has this id, and that one is used; give every row its own id"
        verdicts.reject(rows[duplicate], Reason.DUPLICATE_ID, message)
    return graphs, _quarantine(task, start, batch, verdicts)


def make_graphs(batch: pa.RecordBatch, spec: GraphSpec, limits: Limits) -> tuple[Verdicts, pa.RecordBatch]:
    """Check each crystal of a record batch alone; return the verdicts and the shard rows of the accepted ones."""
    verdicts = check_rows(batch, limits)
    rows = verdicts.accepted
    crystals = structures(batch, rows)
    by_structure = check_structures(crystals, limits)
    if by_structure.reasons:
        verdicts.include(by_structure, rows)
        rows = verdicts.accepted
        crystals = structures(batch, rows)
    graphs = neighbor_graphs(crystals.lattices, crystals.frac_coords, crystals.atom_ptr, spec)
    by_neighbors = check_neighbors(crystals, graphs, limits)
    graphs = with_lattice_edges(
        graphs, crystals.lattices, crystals.frac_coords, crystals.atom_ptr, crystals.atomic_numbers, spec
    )
    accepted = to_rows(crystals, graphs, spec)
    if by_neighbors.reasons:
        verdicts.include(by_neighbors, rows)
        accepted = accepted.take(pa.array(by_neighbors.accepted))
    return verdicts, accepted


def _quarantine(task: ShardTask, start: int, batch: pa.RecordBatch, verdicts: Verdicts) -> list[Rejected]:
    rejected = []
    for row, (reason, message) in sorted(verdicts.reasons.items()):
        name = batch[MATERIAL_ID][row].as_py()
        identity = f"row-{start + row}" if name is None else str(name)
        source = f"{task.source}#{start + row}"
        rejected.append(Rejected.because(Rejection(reason, message), material_id=identity, source=source))
    return rejected
