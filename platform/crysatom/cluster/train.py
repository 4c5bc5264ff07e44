"""Training under Ray Train: the same work as in a plain process, on any number of workers."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from crysatom import distributed
from crysatom.cluster.failures import LostWorkersError, may_be_lost_worker, summary
from crysatom.cluster.messages import messages_to
from crysatom.cluster.resources import Workers, said_if_late, scaling
from crysatom.cluster.session import started_here
from crysatom.training.context import Context, Metrics, PlainContext

logger = logging.getLogger(__name__)

OutcomeT = TypeVar("OutcomeT")

STREAM = "train"
"""What Ray Train calls the data that it splits between the workers."""

COLLECTIVE_TIMEOUT_S = 300
"""A collective that takes longer means a lost worker; Ray's default of 30 minutes looks like a hang."""

POLL_VARIABLE, POLL_S = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2"
"""How often Ray Train asks workers for reports. A worker waits until its last report was fetched, so that Ray's
default of 2 s would be the least time of an epoch."""

WATCHER_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Ray Train watches by a process of its own whether machines are about to be taken away; a laptop is not."""

RAY_TRAIN = "ray_train"
"""Folder of the run in which Ray Train keeps its own notes."""


METRICS, HARDWARE = "metrics", "hardware"
"""What is in a report to Ray Train."""


class RayContext(PlainContext):
    """A Ray Train worker.

    Checkpoints are those of a plain process, in the same folder, so that a run may be continued on any number
    of workers, with Ray or without. Ray Train is told that there are metrics, not of the files.

    Args:
        folder: Where checkpoints are kept, on storage that all workers see.

    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, device=str(ray.train.torch.get_device()))
        self.news = self.hardware()

    def publish(self, metrics: Metrics) -> None:
        """Hand the metrics to Ray Train, the first time with what the workers run on; a barrier between them."""
        ray.train.report({METRICS: metrics, HARDWARE: self.news})
        self.news = ""

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the newest whole checkpoint, by the eyes of rank 0: shared file systems differ between machines."""
        with super().checkpoint() as newest:
            yield distributed.gather_objects(newest)[0]


@dataclass(frozen=True)
class Observer(UserCallback):
    """Sits in the process that controls the workers: passes on news, ends what cannot be mended.

    Ray sends it to every worker too, so that whatever it held would be imported there.

    Attributes:
        news: Takes metrics with hardware, and sentences, for the process of the job.

    """

    news: Queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        """Pass on; a failure to do so is logged and does not end the training."""
        report = metrics[0]  # rank 0's, which speaks of all
        try:
            self.news.put((report[METRICS], report[HARDWARE]))
        except Exception:  # an exception here would fail the whole run
            logger.exception("the metrics of epoch %s could not be published", report[METRICS].get("epoch"))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Let Ray Train start the workers anew if some were lost; raise what would only happen again."""
        for error in worker_exceptions.values():
            if not may_be_lost_worker(error):
                raise error
        workers = ", ".join(str(rank) for rank in worker_exceptions)
        self.news.put(f"worker {workers} failed ({summary(worker_exceptions)}); training goes on from the last epoch")


def _worker(arguments: dict[str, Any]) -> Any:
    """Do the work, which comes as a reference: Ray's controller would import all that it needs if it saw it."""
    context = RayContext(Path(arguments["checkpoints"]))
    if context.device.type == "cpu":
        torch.set_num_threads(arguments["threads"])
    if distributed.rank() == 0:
        how = "streamed" if arguments["streamed"] else "in memory"
        arguments["news"].put(f"training on {distributed.world_size()} x {context.device.type}, graphs {how}")
    try:
        return ray.get(arguments["work"])(context)
    except Exception as error:
        error.add_note(f"in worker {distributed.rank()}:\n{traceback.format_exc()}")  # a traceback does not travel
        raise


def train_on_cluster(
    work: Callable[[Context], OutcomeT],
    workers: Workers,
    checkpoints: Path,
    *,
    record: Callable[[Metrics, str], None],
    show: Callable[[Metrics | str], None],
    stream: ray.data.Dataset | None = None,
) -> OutcomeT:
    """Train on Ray Train workers, from the newest checkpoint if there is one.

    Args:
        work: What each worker does in its context; can be pickled, and finds what it needs wherever it runs.
        workers: How many, and what each needs.
        checkpoints: Folder for checkpoints, writable by every worker.
        record: Called with the metrics of each epoch, and with the hardware of workers that report for the first
            time (else with an empty text), in a thread of this process.
        show: Called with the metrics of each epoch, and with sentences about lost workers, likewise.
        stream: Split between the workers as :data:`STREAM`; None: they hold all graphs in memory.

    Returns:
        What the work of the first worker returned.

    Raises:
        ValueError: If the machine cannot offer what the workers need.
        NonFiniteLossError: If the loss of a batch is not a number.
        LostWorkersError: If workers were lost more than ``workers.max_failures`` times.

    """
    os.environ.setdefault(POLL_VARIABLE, POLL_S)
    if started_here():
        os.environ.setdefault(WATCHER_VARIABLE, "0")

    def tell(message: str | tuple[Metrics, str]) -> None:
        if isinstance(message, str):
            show(message)
        else:
            show(message[0])
            record(*message)

    streamed = stream is not None
    resources = scaling(workers, streamed=streamed)
    with (
        said_if_late(workers.num_workers, resources.resources_per_worker) as in_time,
        messages_to(tell, in_time) as news,
    ):
        arguments = {"work": ray.put(work), "threads": workers.threads_per_worker, "streamed": streamed, "news": news}
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"checkpoints": str(checkpoints), **arguments},
            torch_config=TorchConfig(backend="nccl" if workers.use_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
            scaling_config=resources,
            datasets={STREAM: stream} if streamed else None,
            run_config=RunConfig(
                name=RAY_TRAIN,
                storage_path=str(checkpoints.parent),
                failure_config=FailureConfig(max_failures=workers.max_failures),
                callbacks=[Observer(news)],
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        )
        outcome: OutcomeT = _fit(trainer, workers.max_failures)
    return outcome


def _fit(trainer: TorchTrainer, max_failures: int) -> Any:
    try:
        return trainer.fit().return_value
    except ControllerError as error:
        raise error.controller_failure from None
    except TrainingFailedError as error:
        raise LostWorkersError(
            f"workers failed more than {max_failures} times (--max-failures), at last so: {summary(error)}; "
            "continue with --resume"
        ) from error
