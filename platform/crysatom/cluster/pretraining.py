"""Pretraining under Ray Train: graphs held by each worker, or streamed to all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from crysatom.cluster.data import streamed_data, streamed_dataset
from crysatom.cluster.train import train_on_cluster
from crysatom.config import PretrainConfig
from crysatom.training.context import Context, Metrics
from crysatom.training.pretrain import PretrainOutcome, pretrain, resident_data


def pretrain_on_cluster(
    config: PretrainConfig,
    shards: Path,
    checkpoints: Path,
    *,
    record: Callable[[Metrics, str], None],
    show: Callable[[Metrics | str], None],
    streamed: bool,
) -> PretrainOutcome:
    """Pretrain on ``config.num_workers`` workers, see :func:`crysatom.cluster.train.train_on_cluster`.

    Args:
        config: What to train.
        shards: Folder of graph shards, readable by every worker.
        checkpoints: Folder for checkpoints, writable by every worker.
        record: Is told of epochs and of the hardware of workers here.
        show: Is told of epochs and lost workers here.
        streamed: Stream batches through Ray Data instead of holding all graphs in memory.

    """
    return train_on_cluster(
        partial(_pretrain, _with_absolute_paths(config), shards, streamed),
        config,
        checkpoints,
        record=record,
        show=show,
        stream=streamed_dataset(config, shards) if streamed else None,
    )


def _pretrain(config: PretrainConfig, shards: Path, streamed: bool, context: Context) -> PretrainOutcome:
    load = streamed_data if streamed else resident_data
    return pretrain(config, load(config, shards, context.device), context)


def _with_absolute_paths(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with a path that a worker finds too, whose working directory is another."""
    path = Path(config.node_features)
    return dataclasses.replace(config, node_features=str(path.resolve())) if path.exists() else config
