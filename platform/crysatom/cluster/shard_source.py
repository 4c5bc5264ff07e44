"""Graph shards as a source of Ray Data's that begins an epoch at once, and whose processes load no torch."""

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
"""About 4,000 crystals, 3 MB: more than are trained on while Ray Data pauses."""

PAUSE_S = 0.05
"""Each step takes 5 ms of a processor."""


class Pause(ExecutionCallback):
    """A pause in each step of Ray Data's loop.

    Without it the loop spins while it waits for those that train, and takes a processor for itself (Ray 2.60): a task
    whose output has no room is ready at once, each time it is waited for.
    """

    def on_execution_step(self, executor: object) -> None:  # noqa: ARG002 - the interface is Ray's
        """Wait."""
        time.sleep(PAUSE_S)


class GraphShards(Datasource):
    """The crystals to learn from, their row groups in a new order in each epoch.

    ``ray.data.read_parquet`` finds the row groups of its files anew in each epoch, by 32 processes (Ray 2.60; pull
    request 65273) that take seconds to start. Here they are found once.

    Args:
        folder: Folder of graph shards.
        fraction: Of the crystals, held out.
        seed: Of the order.

    Raises:
        ValueError: If the folder is not whole.

    """

    def __init__(self, folder: Path, fraction: float, seed: int) -> None:
        self.groups, self.fraction, self.seed = row_groups(folder), fraction, seed

    def num_tasks(self) -> int:
        """Return the number of tasks that read an epoch."""
        return math.ceil(len(self.groups) / GROUPS_PER_TASK)

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all crystals."""
        return sum(group.num_bytes for group in self.groups)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - as many as are best for the shards
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """Return the tasks that read an epoch, in its order."""
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
