"""Sharing and order of a stream of crystals among workers; for training see tests/integration/test_pretrain_ray.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from ray.data import DataContext

from crysatom.cluster.data import recut, shares, streamed_data
from crysatom.cluster.ingest import windows
from crysatom.cluster.shard_source import GraphShards
from crysatom.graphs.shards import TRAINING_COLUMNS, iter_tables
from crysatom.names import MATERIAL_KEY
from tests.small_runs import CPU, make_shards, one_thread, tiny  # noqa: F401


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


def in_order(source: GraphShards, epoch: int) -> list[int]:
    """Return the keys of the crystals of an epoch, read by Ray's own read tasks."""
    context = DataContext()
    context._execution_idx = epoch
    tables = [table for task in source.get_read_tasks(1, data_context=context) for table in task()]
    return [key for table in tables for key in table[MATERIAL_KEY].to_pylist()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data uses options that it deprecates
def test_a_stream_is_shuffled_by_seed_and_epoch(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, crystals_per_shard=2)
    seen = [in_order(GraphShards(folder, 0.0, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == sorted(seen[0]) for order in seen)
    assert len(seen[0]) == 20
    assert len(set(map(tuple, seen))) == 4
    assert in_order(GraphShards(folder, 0.0, 1), 1) == seen[3]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_comes_through_a_stream_is_shuffled_by_seed_and_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_shards(tmp_path)
    [table] = iter_tables(folder, TRAINING_COLUMNS)
    stream = ray.data.from_arrow(table).iterator()
    monkeypatch.setattr("ray.train.get_dataset_shard", lambda _: stream)  # exists in workers only

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        config = tiny(seed=seed, holdout_fraction=0.0)
        loader = streamed_data(config, folder, CPU).train
        return tuple(key for batch in loader.epoch(epoch) for key in batch.material_key.tolist())

    seen = [order(seed, epoch) for seed in (0, 10) for epoch in (0, 1)]
    assert all(sorted(keys) == sorted(table[MATERIAL_KEY].to_pylist()) for keys in seen)
    assert len(set(seen)) == 4
    assert order(10, 1) == seen[3]


@pytest.mark.parametrize("least", [1, 100, 1_000_000])
def test_windows_keep_all_batches_in_order(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crysatom.cluster.ingest.WINDOW_BYTES", least)
    batches = [pa.table({"row": range(k, k + 5)}) for k in range(0, 60, 5)]
    found = list(windows(iter(batches)))
    assert [batch for window in found for batch in window] == batches
    sizes = [sum(batch.nbytes for batch in window) for window in found]
    assert all(least <= size < least + batches[0].nbytes for size in sizes[:-1])


def test_a_stream_that_is_too_short_still_steps_as_often() -> None:
    pieces = [pa.table({"row": range(5)})]
    assert [len(part) for part in recut(pieces, [3, 3])] == [3, 2, 0], "else the other workers would wait for ever"
