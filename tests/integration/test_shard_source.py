"""Graph shards through real Ray Data: each epoch has each crystal once, in its own order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray.data

from crysatom.cluster.data import streamed_dataset
from crysatom.graphs.shards import TRAINING_COLUMNS, is_held_out, iter_tables, row_groups
from crysatom.names import MATERIAL_KEY
from tests.small_runs import make_shards, tiny

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray Data uses options that it deprecates
]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = make_shards(tmp_path, crystals_per_shard=2)
    assert len(row_groups(folder)) == 10
    return folder


def trained(shards: Path) -> pa.Table:
    """Return the crystals that are not held out, in the order of the shards."""
    table = pa.concat_tables(iter_tables(shards, TRAINING_COLUMNS))
    held_out = is_held_out(table[MATERIAL_KEY].to_numpy(), tiny().holdout_fraction)
    assert 0 < held_out.sum() < len(table)
    return table.filter(pa.array(~held_out))


def epochs(dataset: ray.data.Dataset, count: int) -> Iterator[pa.Table]:
    """Stream a data set as in training: an actor executes it again for each epoch."""
    [stream] = dataset.streaming_split(1)
    for _ in range(count):
        yield pa.concat_tables(stream.iter_batches(batch_format="pyarrow", batch_size=3))


def in_order(table: pa.Table) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = table.sort_by(MATERIAL_KEY).to_pylist()
    return rows


def test_each_epoch_has_each_crystal_once_in_another_order(shards: Path) -> None:
    expected = in_order(trained(shards))
    seen = list(epochs(streamed_dataset(tiny(), shards), 3))
    assert all(in_order(table) == expected for table in seen)
    assert len({tuple(table[MATERIAL_KEY].to_pylist()) for table in seen}) == 3


def test_processes_that_read_do_without_torch(shards: Path) -> None:
    def look(_: pa.Table) -> pa.Table:
        return pa.table({"torch": ["torch" in sys.modules]})

    dataset = streamed_dataset(tiny(), shards).map_batches(look, batch_format="pyarrow", batch_size=None)
    found = {row["torch"] for row in dataset.take_all()}
    assert found == {False}, "it takes 300 MB, and seconds to import"


def test_a_shard_damaged_later_is_named(shards: Path) -> None:
    dataset = streamed_dataset(tiny(), shards)
    path = shards / "shard-00003.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ray.exceptions.RayTaskError, match=rf"{shards} holds a damaged shard .* copy it again"):
        dataset.take_all()
