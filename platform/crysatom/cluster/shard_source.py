"""Graph shards as a Ray Data source that starts an epoch at once and whose processes do not load torch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from ray.data import DataContext, Datasource, ReadTask
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata

from crysatom.graphs.shards import TRAINING_COLUMNS, RowGroup, is_held_out, row_groups
from crysatom.names import MATERIAL_KEY

GROUPS_PER_TASK = 4
"""Row groups per task: about 4,000 crystals, 3 MB; more than the training consumes during a pause of Ray Data."""

PAUSE_S = 0.05
"""Seconds per pause. Each step of the loop takes 5 ms of a CPU."""


class Pause(ExecutionCallback):
    """Adds a pause to each step of Ray Data's loop.

    Without it the loop spins while it waits for the training and uses a whole CPU (Ray 2.60): a task whose output is
    blocked counts as ready each time the loop waits for it.
    """

    def on_execution_step(self, executor: object) -> None:  # noqa: ARG002 - the interface is Ray's
        """Wait."""
        time.sleep(PAUSE_S)


class GraphShards(Datasource):
    """The training crystals, with the row groups in a new order in each epoch.

    ``ray.data.read_parquet`` looks up the row groups of its files in every epoch, with 32 processes that take seconds
    to start (Ray 2.60; pull request 65273). Here they are looked up once.

    Args:
        folder: Folder of graph shards.
        fraction: Held-out fraction.
        seed: Seed of the order.

    Raises:
        ValueError: If the folder is incomplete.

    """

    def __init__(self, folder: Path, fraction: float, seed: int) -> None:
        self.groups, self.fraction, self.seed = row_groups(folder), fraction, seed

    def num_tasks(self) -> int:
        """Return the number of read tasks of an epoch."""
        return math.ceil(len(self.groups) / GROUPS_PER_TASK)

    def estimate_inmemory_data_size(self) -> int:
        """Return the size of all crystals in bytes."""
        return sum(group.num_bytes for group in self.groups)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - as many as are best for the shards
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """Return the read tasks of an epoch, in its order."""
        epoch = data_context._execution_idx if data_context else 0  # noqa: SLF001 - as Ray's own sources know it
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))
        tasks = []
        for part in np.array_split(order, self.num_tasks()):
            groups = [self.groups[number] for number in part]
            size = sum(group.num_bytes for group in groups)
            metadata = BlockMetadata(num_rows=None, size_bytes=size, exec_stats=None)
            tasks.append(
                ReadTask(partial(read, groups, self.fraction), metadata, per_task_row_limit=per_task_row_limit)
            )
        return tasks


def read(groups: Sequence[RowGroup], fraction: float) -> Iterator[pa.Table]:
    """Yield the crystals of row groups that are not held out."""
    for group in groups:
        table = group.read(TRAINING_COLUMNS)
        yield table.filter(pa.array(~is_held_out(table[MATERIAL_KEY].to_numpy(), fraction)))
