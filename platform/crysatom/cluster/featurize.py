"""Featurize on a Ray cluster: every CPU makes shards, and itself reads the table's rows and writes the files.

Table and output folder must be visible to all nodes. Only shard numbers and counts are sent through Ray, so memory
does not grow with the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import ray.data

from crysatom.cluster.ingest import ingest
from crysatom.config import FeaturizeConfig
from crysatom.graphs.featurize import FeaturizeReport, run
from crysatom.graphs.shard_task import ShardRecord, ShardTask, make_shard


def featurize(config: FeaturizeConfig) -> FeaturizeReport:
    """Turn crystals into graph shards, byte for byte those of :func:`crysatom.graphs.featurize.featurize_plain`.

    Raises:
        ValueError: If the crystals cannot be read, or the folder holds something else.

    """
    return run(config, ingest, _map_shards)


def _map_shards(tasks: list[ShardTask]) -> Iterator[ShardRecord]:
    """Make shards on the cluster; yield their records as they finish."""
    if not tasks:
        return
    dataset = ray.data.range(len(tasks), override_num_blocks=len(tasks))
    dataset.context.enable_progress_bars = False
    make: Callable[[dict[str, Any]], dict[str, Any]] = partial(_make, tasks)
    for row in dataset.map(make).iter_rows():
        yield ShardRecord(**json.loads(row["record"]))


def _make(tasks: list[ShardTask], row: dict[str, Any]) -> dict[str, Any]:
    return {"record": json.dumps(asdict(make_shard(tasks[row["id"]])))}
