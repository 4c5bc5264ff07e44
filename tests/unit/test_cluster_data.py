"""How the workers share a stream of crystals; Ray Data itself is in tests/integration/test_pretrain_ray.py."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crysatom.cluster.data import recut, shares


@pytest.mark.parametrize(
    ("count", "batch_size", "num_workers"),
    [(1000, 128, 3), (400, 8, 8), (1001, 11, 4), (40, 7, 3), (9, 5, 3), (3, 3, 3), (5, 11, 3), (57, 6, 2), (57, 7, 1)],
)
def test_shares_of_a_batch_add_up_and_take_turns(count: int, batch_size: int, num_workers: int) -> None:
    all_shares = np.array([shares(count, batch_size, rank, num_workers) for rank in range(num_workers)])
    batches = all_shares.sum(axis=0)
    assert (batches[:-1] == batch_size).all()
    assert batches[-1] < 2 * batch_size, "the last one takes what would not fill another"
    assert batches[-1] >= min(batch_size, count // num_workers * num_workers)
    assert (all_shares.sum(axis=1) == count // num_workers).all(), "Ray Data gives each worker equally many"
    assert np.ptp(all_shares.cumsum(axis=1), axis=0).max() <= 1, "no worker runs ahead of another"
    assert all_shares.min() >= 1


@pytest.mark.parametrize("num_rows", [1, 9, 10, 12, 13, 57, 60])
@pytest.mark.parametrize("rows_per_table", [1, 3, 7])
def test_a_stream_is_cut_into_shares(num_rows: int, rows_per_table: int) -> None:
    table = pa.table({"row": range(num_rows)})
    pieces = [table.slice(start, rows_per_table) for start in range(0, num_rows, rows_per_table)]
    sizes = shares(3 * num_rows, 10, rank=1, num_workers=3)
    parts = [part["row"].to_pylist() for part in recut(pieces, sizes[:-1])]
    assert [len(part) for part in parts] == sizes
    assert [row for part in parts for row in part] == list(range(num_rows))


def test_a_stream_that_is_too_short_still_steps_as_often() -> None:
    pieces = [pa.table({"row": range(5)})]
    assert [len(part) for part in recut(pieces, [3, 3])] == [3, 2, 0], "else the other workers would wait for ever"
