"""Find the rows of a crystal table whose id belongs to an earlier accepted crystal.

The rule is that of :mod:`crysatom.crystals.ingest`: each crystal is first checked alone, and the first accepted
crystal of each id is kept. A row that is rejected on its own does not reserve its id.

Shards are made anywhere and in any order, so duplicates must be known before. Only rows with a repeated id are
checked here, once; a table that the ingest job wrote has none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crysatom.config import GraphSpec, Limits
from crysatom.crystals.table import GRAPH_COLUMNS, readable
from crysatom.graphs.graph import material_keys
from crysatom.graphs.shard_task import ROW_GROUP_CRYSTALS, make_graphs
from crysatom.names import MATERIAL_ID

logger = logging.getLogger(__name__)

Array = NDArray[Any]

_IDS = 65_536
"""Number of ids read at a time."""


def duplicate_rows(table: Path, spec: GraphSpec, limits: Limits) -> Array:
    """Return the rows whose id an earlier accepted row has, ascending; only ids are read from the whole table.

    Args:
        table: Crystal table.
        spec: Graph specification.
        limits: Limits that an accepted crystal must satisfy.

    """
    shared = _shared(table)
    if len(shared):
        logger.info("%d crystals share their ids with others: the first usable one of each id is kept", len(shared))
    taken: set[str] = set()
    duplicates: list[int] = []
    for rows, batch in _read(table, shared):
        ids = batch[MATERIAL_ID].cast(pa.string()).to_pylist()
        undecided = np.array([k for k, name in enumerate(ids) if name not in taken], dtype=np.int64)
        verdicts, _ = make_graphs(batch.take(pa.array(undecided)), spec, limits)
        usable = set(undecided[verdicts.accepted].tolist())
        for k, name in enumerate(ids):
            if name in taken:
                duplicates.append(int(rows[k]))
            elif k in usable:
                taken.add(name)
    return np.array(duplicates, dtype=np.int64)


def _shared(table: Path) -> Array:
    """Return the rows whose id occurs more than once, ascending.

    Only the 8-byte key of each id is held in memory: a large table has tens of millions. Key collisions are harmless,
    since the caller compares the ids themselves.
    """
    keys, known = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=bool)]
    with readable(table), pq.ParquetFile(table) as file:
        for batch in file.iter_batches(_IDS, columns=[MATERIAL_ID]):
            names = batch[MATERIAL_ID].cast(pa.string())
            known.append(names.is_valid().to_numpy(zero_copy_only=False))
            keys.append(material_keys(names.fill_null("").to_pylist()))
    key, is_known = np.concatenate(keys), np.concatenate(known)
    in_order = np.sort(key[is_known])
    several = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    return np.flatnonzero(is_known & np.isin(key, several))


def _read(table: Path, rows: Array) -> Iterator[tuple[Array, pa.RecordBatch]]:
    """Yield the given rows of a table (ascending) with their numbers; other row groups are not read."""
    with readable(table), pq.ParquetFile(table) as file:
        end = 0
        for group in range(file.num_row_groups):
            start, end = end, end + file.metadata.row_group(group).num_rows
            if not ((rows >= start) & (rows < end)).any():
                continue
            for batch in file.iter_batches(ROW_GROUP_CRYSTALS, row_groups=[group], columns=list(GRAPH_COLUMNS)):
                chosen = rows[(rows >= start) & (rows < start + batch.num_rows)]
                if len(chosen):
                    yield chosen, batch.take(pa.array(chosen - start))
                start += batch.num_rows
