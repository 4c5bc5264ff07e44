"""Loaders that give the same global batches on any number of workers; each worker takes its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.graphs.batch import GraphTensors, select
from crysatom.graphs.columns import list_lengths
from crysatom.names import NEIGHBOR


class Loader(Protocol):
    """A source of this worker's shares of the global batches of an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this worker's share of each global batch from number ``start`` on. All workers yield equally often."""

    def num_steps(self) -> int:
        """Return the number of global batches in an epoch."""

    def material_ids(self, keys: list[int]) -> list[str]:
        """Return the ids of crystals by their keys, for messages."""


Parts = Sequence[float] | NDArray[np.float64]
"""``(W,)`` each worker's part of the cost of a global batch; they sum to 1."""


class SharedLoader(Loader, Protocol):
    """A loader whose workers may have unequal parts."""

    def share(self, parts: Parts) -> None:
        """Set each worker's part of the cost of every following global batch."""

    def sample(self, epoch: int) -> Batch:
        """Return this worker's share of a global batch for speed measurements; every call uses the same batch."""


def cost_of(batch: Batch) -> int:
    """Return the cost of a batch: its edges, which take nearly all time, plus one per crystal for those without."""
    return int(batch.edge_index.shape[1] + batch.num_graphs)


def costs_of(table: pa.Table) -> NDArray[np.int64]:
    """Return the cost ``(B,)`` of each crystal of graph-shard rows, as in :func:`cost_of`."""
    costs: NDArray[np.int64] = list_lengths(table[NEIGHBOR]) + 1
    return costs


def cuts(costs: NDArray[np.int64], parts: Parts) -> NDArray[np.int64]:
    """Return where to cut a global batch: a crystal goes to the worker whose part contains the middle of its cost.

    Args:
        costs: ``(B,)`` costs of its crystals, in order.
        parts: Parts of the W workers.

    Returns:
        ``(W + 1,)`` from 0 to B; worker r takes the crystals from cut r to cut r + 1.

    """
    middles = costs.cumsum() - costs / 2
    inner = np.searchsorted(middles, np.cumsum(parts)[:-1] * costs.sum())
    return np.concatenate([[0], inner, [len(costs)]])


def exchange(table: pa.Table, parts: Parts) -> pa.Table:
    """Return this worker's part of a global batch spread over the workers. All workers call this together.

    The batch is the workers' rows in order of rank. Only the cuts change, not the batch or its order. Rows that change
    hands are sent to all workers: a few crystals of a few kB.

    Args:
        table: Graph-shard rows of this worker; may be empty.
        parts: Parts of the workers.

    """
    rank, held = distributed.rank(), distributed.gather_objects(costs_of(table))
    bounds, first = cuts(np.concatenate(held), parts), sum(map(len, held[:rank]))
    mine = np.clip(bounds - first, 0, len(table))  # ends of each worker's rows within this worker's table
    pieces = [table.slice(start, end - start) for start, end in pairwise(mine)]
    given = {to: _message(piece) for to, piece in enumerate(pieces) if to != rank and len(piece)}
    gifts = [gift.get(rank) for gift in distributed.gather_objects(given)]
    lower, higher = ([_rows(gift) for gift in some if gift] for some in (gifts[:rank], gifts[rank + 1 :]))
    return pa.concat_tables([*lower, pieces[rank], *higher])


def _message(table: pa.Table) -> bytes:
    """Return rows as bytes in Arrow's IPC format, which leaves out the rest of the sliced table."""
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())


def _rows(message: bytes) -> pa.Table:
    with pa.ipc.open_stream(message) as reader:
        return reader.read_all()


def global_batches(
    crystals: np.ndarray, batch_size: int, tail: Literal["spread", "short"], seed: int, epoch: int
) -> list[np.ndarray]:
    """Shuffle crystals and cut them into batches; the same on every worker.

    Args:
        crystals: Indices to draw from.
        batch_size: Crystals in a batch.
        tail: 'spread': batch sizes differ by at most one and none is below ``batch_size`` (unless there are
            fewer crystals); 'short': the last batch holds what remains.
        seed: Seed of the run.
        epoch: Epoch, which changes the order.

    """
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(crystals)
    if tail == "spread":
        return list(np.array_split(order, max(1, len(order) // batch_size)))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


class ResidentLoader:
    """Graphs in memory, on the device; batches are gathered from flat arrays.

    Args:
        tensors: Graphs of all crystals, on the device of the batches.
        crystals: Indices of the crystals to load.
        material_ids: Ids of all crystals.
        batch_size: Crystals in a global batch.
        tail: See :func:`global_batches`.
        seed: Seed of the shuffling.
        targets: ``(M,)`` targets of all crystals, NaN for those that are not loaded. If given, batches have ``target``
            (B,) and ``crystal`` (B,), the indices.

    """

    def __init__(  # noqa: PLR0913 - each with a name
        self,
        tensors: GraphTensors,
        crystals: np.ndarray,
        *,
        material_ids: np.ndarray,
        batch_size: int,
        tail: Literal["spread", "short"] = "spread",
        seed: int = 0,
        targets: Tensor | None = None,
    ) -> None:
        self.tensors, self.crystals, self.ids = tensors, crystals, material_ids
        self.batch_size, self.tail, self.seed, self.targets = batch_size, tail, seed, targets
        self.parts: Parts | None = None

    def num_steps(self) -> int:
        """Return the number of global batches in an epoch."""
        whole, rest = divmod(len(self.crystals), self.batch_size)
        return max(1, whole) if self.tail == "spread" else whole + (rest > 0)

    def share(self, parts: Parts) -> None:
        """Set each worker's part of the cost of every following global batch."""
        self.parts = parts

    def sample(self, epoch: int) -> Batch:
        """Return this worker's share of the first global batch of an epoch."""
        return next(iter(self.epoch(epoch)))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this worker's share of each global batch from number ``start`` on."""
        for crystals in global_batches(self.crystals, self.batch_size, self.tail, self.seed, epoch)[start:]:
            share = torch.from_numpy(self._shares(crystals)[distributed.rank()])
            batch = select(self.tensors, share)
            if self.targets is not None:
                batch.crystal = share.to(self.targets.device, non_blocking=True)
                batch.target = self.targets[batch.crystal]
            yield batch

    def _shares(self, crystals: np.ndarray) -> list[np.ndarray]:
        """Cut a global batch into the workers' shares, in order."""
        if self.parts is None:
            return np.array_split(crystals, distributed.world_size())
        return np.split(crystals, cuts(self._costs[crystals], self.parts)[1:-1])

    @cached_property
    def _costs(self) -> NDArray[np.int64]:
        """``(M,)`` costs, as in :func:`cost_of`."""
        costs: NDArray[np.int64] = self.tensors.sizes[:, 1].numpy() + 1
        return costs

    def material_ids(self, keys: list[int]) -> list[str]:
        """Return the ids of crystals by their keys, for messages."""
        return [str(name) for name in self.ids[np.isin(self.tensors.material_keys.cpu().numpy(), keys)]]
