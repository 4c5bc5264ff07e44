"""Volumes of the cells of graphs, which shards do not hold, from the crystal table that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crysatom.crystals.table import open_table, readable
from crysatom.graphs.columns import flat_values
from crysatom.graphs.shards import QUARANTINE, read_manifest
from crysatom.names import LATTICE, SOURCE

Array = NDArray[Any]

_ROWS = 65_536
"""Rows that are read at a time."""


def cell_volumes(shards: Path, table: Path) -> list[Array]:
    """Return the volumes of the cells of each shard, in cubic angstrom; the shards are in order.

    Args:
        shards: Folder of graph shards.
        table: The crystal table that they were made from. Their crystals are its rows without the quarantined ones.

    Raises:
        ValueError: If table and shards do not fit together.

    """
    manifest = read_manifest(shards)
    file = open_table(table)
    rejected = _quarantined(shards)
    rows = [shard["rows"] for shard in manifest["shards"]]
    if file.metadata.num_rows != sum(rows) + len(rejected) or (rejected >= file.metadata.num_rows).any():
        raise ValueError(
            f"{shards} does not hold the rows of {table} without those of {QUARANTINE}; name the table that it was "
            "made from, or run jobs/featurize.py again"
        )
    used = np.ones(file.metadata.num_rows, bool)
    used[rejected] = False
    volumes, start = [np.zeros(0)], 0
    with readable(table):
        for batch in file.iter_batches(_ROWS, columns=[LATTICE]):
            accepted = batch.filter(pa.array(used[start : start + batch.num_rows]))
            lattices = np.asarray(flat_values(accepted[LATTICE]), np.float64).reshape(-1, 3, 3)
            volumes.append(np.abs(np.linalg.det(lattices)))
            start += batch.num_rows
    return np.split(np.concatenate(volumes), np.cumsum(rows)[:-1]) if rows else []


def _quarantined(shards: Path) -> Array:
    """Return the rows of the crystal table that have no graph: their source is the table's name, # and the row."""
    with readable(shards / QUARANTINE):
        sources = pq.read_table(shards / QUARANTINE, columns=[SOURCE])[SOURCE].to_pylist()
    return np.array([int(source.rpartition("#")[2]) for source in sources], np.int64)
