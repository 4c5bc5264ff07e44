"""Pretraining under Ray Train: the same loop as in a plain process, on any number of workers."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from crysatom import distributed
from crysatom.cluster.data import STREAM, streamed_data, streamed_dataset
from crysatom.cluster.session import available_cpus, started_here
from crysatom.config import PretrainConfig
from crysatom.training.context import Context, Metrics, Save
from crysatom.training.pretrain import PretrainOutcome, pretrain, resident_data

logger = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT_S = 300
"""A collective that takes longer means a lost worker; Ray's default of 30 minutes looks like a hang."""


class RayContext(Context):
    """A Ray Train worker."""

    def __init__(self) -> None:
        self.device = ray.train.torch.get_device()

    def report(self, metrics: Metrics, save: Save) -> None:
        """Hand metrics and checkpoint to Ray Train; a barrier between the workers."""
        if distributed.rank() != 0:
            ray.train.report(metrics)
            return
        folder = Path(tempfile.mkdtemp(prefix="crysatom-checkpoint-"))
        try:
            save(folder)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the last checkpoint, fetched from storage."""
        latest = ray.train.get_checkpoint()
        if latest is None:
            yield None
            return
        with latest.as_directory() as folder:
            yield Path(folder)


@dataclass(frozen=True)
class OnReport(UserCallback):
    """Passes on the metrics of each epoch, once, from the process that controls the workers.

    Attributes:
        publish: Called with rank 0's metrics.

    """

    publish: Callable[[Metrics], None]

    def after_report(self, run_context: Any, metrics: list[Metrics], checkpoint: Any) -> None:  # noqa: ARG002
        """Publish; a failure to do so is logged and does not end the training."""
        try:
            self.publish(metrics[0])
        except Exception:  # an exception here would fail the whole run
            logger.exception("the metrics of epoch %s could not be published", metrics[0].get("epoch"))


def _worker(arguments: dict[str, Any]) -> PretrainOutcome:
    config: PretrainConfig = arguments["config"]
    context = RayContext()
    if context.device.type == "cpu":
        torch.set_num_threads(config.threads_per_worker)
    data = (
        streamed_data(config, arguments["shards"], context.device)
        if arguments["streamed"]
        else resident_data(config, Path(arguments["shards"]), context.device)
    )
    return pretrain(config, data, context)


def train_on_cluster(
    config: PretrainConfig, shards: Path, folder: Path, publish: Callable[[Metrics], None], *, streamed: bool
) -> PretrainOutcome:
    """Pretrain on ``config.num_workers`` Ray Train workers; continues from the checkpoints in ``folder``.

    Args:
        config: What to train.
        shards: Folder of graph shards, readable by every worker.
        folder: The run's folder; checkpoints go into its ``checkpoints``.
        publish: Called with the metrics of each epoch, in the process that controls the workers.
        streamed: Stream batches through Ray Data instead of holding all graphs in memory.

    Raises:
        ValueError: If the machine cannot offer what the workers need.

    """
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config, "shards": str(shards), "streamed": streamed},
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=scaling(config, streamed=streamed),
        datasets={STREAM: streamed_dataset(config, shards)} if streamed else None,
        run_config=RunConfig(
            name="checkpoints",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[OnReport(publish)],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    outcome = trainer.fit().return_value
    assert isinstance(outcome, PretrainOutcome)
    return outcome


def scaling(config: PretrainConfig, *, streamed: bool) -> ScalingConfig:
    """Return what the workers ask of the cluster.

    Streaming leaves one CPU to Ray Data, which would otherwise wait for ever behind the workers it feeds.

    Raises:
        ValueError: If Ray runs on this machine alone and it has too little.

    """
    cpus = float(config.threads_per_worker)
    here = available_cpus()
    if streamed and config.num_workers * cpus > here - 1:
        cpus = max(0.1, (here - 1) / config.num_workers)
    wanted = config.num_workers * cpus
    if wanted > here:
        message = f"{config.num_workers} workers of {cpus:g} CPUs need {wanted:g} CPUs, this cluster has {here:g}"
        if started_here():
            raise ValueError(f"{message}; use fewer --num-workers or --threads-per-worker")
        logger.warning("%s: waiting until it has grown", message)
    return ScalingConfig(
        num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker={"CPU": cpus} | _gpu(config)
    )


def _gpu(config: PretrainConfig) -> dict[str, float]:
    return {"GPU": 1.0} if config.use_gpu else {}
