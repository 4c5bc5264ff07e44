"""Property prediction under Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from crysatom.cluster.train import train_on_cluster
from crysatom.config import DownstreamConfig
from crysatom.training.context import Metrics
from crysatom.training.regression import RegressionOutcome, RegressionTask, train_predictor


def train_predictor_on_cluster(
    config: DownstreamConfig,
    task: RegressionTask,
    checkpoints: Path,
    *,
    record: Callable[[Metrics, str], None],
    show: Callable[[Metrics | str], None],
) -> RegressionOutcome:
    """Train on ``config.num_workers`` workers, see :func:`crysatom.cluster.train.train_on_cluster`."""
    work = partial(train_predictor, config, task)
    return train_on_cluster(work, config, checkpoints, record=record, show=show)
