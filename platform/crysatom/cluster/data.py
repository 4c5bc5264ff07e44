"""Batches streamed through Ray Data, for data sets larger than a worker's memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import ray.train
import torch
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.cluster.shard_source import GraphShards, Pause
from crysatom.cluster.train import STREAM
from crysatom.config import PretrainConfig
from crysatom.graphs.batch import collate
from crysatom.graphs.shards import TRAINING_COLUMNS, is_held_out, iter_tables
from crysatom.names import MATERIAL_ID, MATERIAL_KEY
from crysatom.training.loaders import Parts, costs_of, cuts, exchange
from crysatom.training.pretrain import PretrainData

SHUFFLE_BATCHES = 16
"""Number of batches in the shuffle buffer; the order of the row groups is shuffled too."""


def streamed_dataset(config: PretrainConfig, shards: Path) -> ray.data.Dataset:
    """Return the training crystals, with the row groups in a new order in each epoch."""
    source = GraphShards(shards, config.holdout_fraction, config.seed)
    dataset: ray.data.Dataset = ray.data.read_datasource(source, override_num_blocks=source.num_tasks())
    dataset.context.custom_execution_callback_classes = [Pause]
    return dataset


class StreamedLoader:
    """This worker's part of a stream that Ray Data splits between the workers.

    Ray Data gives every worker equally many crystals, so up to ``num_workers - 1`` crystals, different ones each time,
    are left out of an epoch. All workers step equally often, and each global batch except the last has exactly
    ``batch_size`` crystals. Unlike with the resident loader, the number of workers determines which crystals share a
    batch, but not their masks. If parts are unequal, slow workers pass some crystals of each batch to fast ones.

    Args:
        config: Batch size and seed.
        count: Crystals in the stream.
        sample: Reads a batch for speed measurements, without starting a stream.
        device: Device of the batches.

    """

    def __init__(self, config: PretrainConfig, count: int, sample: TableLoader, device: torch.device) -> None:
        self.config, self.device, self.source = config, device, sample
        self.shares = shares(count, config.optimization.batch_size, distributed.rank(), distributed.world_size())
        self.parts: Parts | None = None
        self.names: dict[int, str] = {}

    def share(self, parts: Parts) -> None:
        """Set each worker's part of the cost of every following global batch."""
        self.parts = parts

    def sample(self, epoch: int) -> Batch:  # noqa: ARG002 - always the same
        """Return this worker's share of the first batch in the files."""
        return self.source.sample(self.parts)

    def num_steps(self) -> int:
        """Return the number of global batches in an epoch."""
        return len(self.shares)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this worker's share of each global batch; a short remainder joins the last one.

        A stream cannot start in the middle. With ``start`` above 0, the remaining batches are drawn again from all
        crystals.
        """
        nominal = self.config.optimization.batch_size // distributed.world_size()
        tables = ray.train.get_dataset_shard(STREAM).iter_batches(
            batch_format="pyarrow",
            batch_size=nominal,
            prefetch_batches=4,
            local_shuffle_buffer_size=SHUFFLE_BATCHES * nominal,
            local_shuffle_seed=self.config.seed + epoch,
        )
        sizes = self.shares[start:] if start else self.shares[:-1]
        for step, table in enumerate(recut(tables, sizes), start):  # Ray Data requires reading to the end
            if step < len(self.shares):
                share = table if self.parts is None else exchange(table, self.parts)
                self.names = dict(zip(share[MATERIAL_KEY].to_pylist(), share[MATERIAL_ID].to_pylist(), strict=True))
                yield collate(share).to(self.device)

    def material_ids(self, keys: list[int]) -> list[str]:
        """Return the ids of crystals of the current batch by their keys. All workers call this together."""
        known = {key: name for part in distributed.gather_objects(self.names) for key, name in part.items()}
        return [known.get(key, f"key {key}") for key in keys]


def shares(count: int, batch_size: int, rank: int, num_workers: int) -> list[int]:
    """Return how many crystals a worker takes of each global batch of an epoch.

    The shares of a batch add up to ``batch_size``. The remainder of the division rotates over the workers, so no worker
    is ever more than one crystal ahead of another. The last batch takes the rest.

    Args:
        count: Crystals in the stream; every worker gets ``count // num_workers``.
        batch_size: Crystals in a global batch, at least one per worker.
        rank: Rank of the worker.
        num_workers: Number of workers.

    """
    given = count // num_workers
    steps = max(1, given * num_workers // batch_size)
    whole, over = divmod(batch_size, num_workers)
    taken = [whole + ((rank - step * over) % num_workers < over) for step in range(steps - 1)]
    return [*taken, given - sum(taken)]


def recut(tables: Iterable[pa.Table], sizes: Sequence[int]) -> Iterator[pa.Table]:
    """Yield tables with the given numbers of rows, in order, then one with all remaining rows."""
    held: list[pa.Table] = []
    tables = iter(tables)
    for size in sizes:
        while sum(map(len, held)) < size and (table := next(tables, None)) is not None:
            held.append(table)
        whole = pa.concat_tables(held)
        yield whole.slice(0, size)
        held = [whole.slice(size)]
    if held := [*held, *tables]:
        yield pa.concat_tables(held)


class TableLoader:
    """Shards read in order, row group by row group; each worker takes its share of every batch.

    Args:
        shards: Folder of graph shards.
        batch_size: Crystals in a global batch.
        fraction: Held-out fraction if only held-out crystals are wanted, else None.
        device: Device of the batches.

    """

    def __init__(self, shards: Path, batch_size: int, fraction: float | None, device: torch.device) -> None:
        self.shards, self.batch_size, self.fraction, self.device = shards, batch_size, fraction, device

    def num_steps(self) -> int:
        """Return the number of batches."""
        return sum(1 for _ in self._tables())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:  # noqa: ARG002 - the order is always the same
        """Yield this worker's share of each batch from number ``start`` on."""
        for table in itertools.islice(self._tables(), start, None):
            rows = np.array_split(np.arange(len(table)), distributed.world_size())[distributed.rank()]
            yield collate(table.slice(rows[0] if len(rows) else 0, len(rows))).to(self.device)

    def sample(self, parts: Parts | None) -> Batch:
        """Return this worker's part of the first batch; parts are equal if None."""
        table, workers = next(self._tables()), distributed.world_size()
        bounds = cuts(costs_of(table), np.full(workers, 1 / workers) if parts is None else parts)
        start, end = bounds[distributed.rank() :][:2]
        return collate(table.slice(start, end - start)).to(self.device)

    def material_ids(self, keys: list[int]) -> list[str]:
        """Return the ids of crystals by their keys; this reads the shards again."""
        found: list[str] = []
        for table in iter_tables(self.shards, (MATERIAL_ID, MATERIAL_KEY)):
            found += table.filter(pa.array(np.isin(table[MATERIAL_KEY].to_numpy(), keys)))[MATERIAL_ID].to_pylist()
        return found

    def _tables(self) -> Iterator[pa.Table]:
        """Yield full batches; a short remainder joins the last one."""
        held: Any = None
        for table in iter_tables(self.shards, TRAINING_COLUMNS):
            chosen: Any = table
            if self.fraction is not None:
                chosen = table.filter(pa.array(is_held_out(table[MATERIAL_KEY].to_numpy(), self.fraction)))
            held = chosen if held is None else pa.concat_tables([held, chosen])
            while len(held) >= 2 * self.batch_size:
                yield held.slice(0, self.batch_size)
                held = held.slice(self.batch_size)
        if held is not None and len(held):
            yield held


def streamed_data(config: PretrainConfig, folder: Path, device: torch.device) -> PretrainData:
    """Return loaders that hold a few batches at a time."""
    everything = TableLoader(folder, config.optimization.batch_size, None, device)
    held_out = TableLoader(folder, config.optimization.batch_size, config.holdout_fraction, device)
    keys = [table[MATERIAL_KEY].to_numpy() for table in iter_tables(folder, (MATERIAL_KEY,))]
    marked = is_held_out(np.concatenate(keys), config.holdout_fraction)
    stream = StreamedLoader(config, int((~marked).sum()), everything, device)
    return PretrainData(train=stream, held_out=held_out if marked.any() else None, everything=everything)
