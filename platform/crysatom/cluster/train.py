"""Training under Ray Train: the same work as in a plain process, on any number of workers."""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import time
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
from crysatom.cluster.messages import Forward, messages_to
from crysatom.cluster.resources import scaling, warn_if_late
from crysatom.cluster.session import started_here
from crysatom.config import TrainingWorkers
from crysatom.training import checkpoints
from crysatom.training.context import Action, Context, Metrics, PlainContext
from crysatom.training.machine import flushed_denormals

logger = logging.getLogger(__name__)

OutcomeT = TypeVar("OutcomeT")

STREAM = "train"
"""Ray Train's name of the dataset that it splits between the workers."""

DUMP_AFTER = 1.2
"""Timeout of the watchdog relative to that of a collective: workers that wait for a hung one report first."""

POLL_VARIABLE, POLL_S = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2"
"""How often Ray Train asks workers for reports. A worker waits until its last report is fetched, so Ray's default of 2
s would be the shortest possible epoch."""

WATCHER_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Enables Ray Train's process that watches for preemptions; a laptop needs none."""

CHECK_S = 5.0
"""Seconds between two checks for preemptions, the interval of Ray Train's own watcher."""

PREEMPTION_CHECKPOINT_S = 30.0
"""Seconds between checkpoints after a preemption was announced."""

START_VARIABLE, START_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30"
"""Seconds that an elastic training waits for workers on a lost machine before it continues with fewer."""

HEALTH_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
"""Seconds that Ray Train waits for a worker's answer. The default is 600 s, during which others may block."""

RAY_TRAIN = "ray_train"
"""Folder in the run's folder for Ray Train's own state."""


METRICS, HARDWARE = "metrics", "hardware"
"""Keys of a report to Ray Train."""


class RayContext(PlainContext):
    """A Ray Train worker.

    Checkpoints are the same as in a plain process and in the same folder, so a run may resume on any number of workers,
    with or without Ray. Ray Train receives the metrics, not the files.

    Args:
        folder: Folder of the checkpoints, on storage that all workers see.
        news: Queue of messages for the user.
        every: Seconds between checkpoints within an epoch.
        patience: Seconds without progress after which the watchdog ends this worker and prints where it hung.
        watched: Whether Ray Train watches for preemptions.

    """

    def __init__(self, folder: Path, news: Queue, *, every: float, patience: float, watched: bool) -> None:
        super().__init__(folder, device=str(ray.train.torch.get_device()), every=every)
        self.sentences, self.patience, self.watched = news, patience, watched
        self.checked_at = time.monotonic()
        self.warned = False
        self.news = self.hardware()

    def heartbeat(self) -> None:
        """Restart the watchdog's timer. It is a C thread, which can end a process whose Python threads are stuck."""
        faulthandler.dump_traceback_later(self.patience, exit=True)

    def stop_watchdog(self) -> None:
        """Stop the watchdog."""
        faulthandler.cancel_dump_traceback_later()

    def log(self, sentence: str) -> None:
        """Send a sentence to the user. All workers call this; rank 0 sends."""
        if distributed.rank() == 0:
            self.sentences.put(sentence)

    def next_action(self) -> Action:
        """Return what is due by time or by the request file, or CHECK if it is time to check for preemptions."""
        found = super().next_action()
        if found != Action.GO_ON or not self.watched or distributed.rank() != 0:
            return found
        if time.monotonic() - self.checked_at < CHECK_S:
            return Action.GO_ON
        self.checked_at = time.monotonic()
        return Action.CHECK

    def preemption_pending(self) -> bool:
        """Ask Ray Train; True only the first time, after which checkpoints are more frequent."""
        if self.warned or ray.train.get_preemption_info() is None:
            return False
        self.warned, self.every = True, min(self.every, PREEMPTION_CHECKPOINT_S)
        self.log("warning: a worker's machine is about to be preempted: saving now, and more often from now on")
        return True

    def publish(self, metrics: Metrics) -> None:
        """Send the metrics to Ray Train, the first time with the hardware. This is a barrier between the workers."""
        ray.train.report({METRICS: metrics, HARDWARE: self.news})
        self.news = ""

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the newest complete checkpoint as rank 0 sees it: views of a shared file system can differ."""
        newest = distributed.gather_objects(checkpoints.newest(self.folder) if distributed.rank() == 0 else None)[0]
        if newest is not None:
            self.log(f"resuming from checkpoint {newest.name}")
        yield newest


@dataclass(frozen=True)
class Observer(UserCallback):
    """Callback in Ray Train's controller: forwards reports, and raises errors that a restart cannot fix.

    Ray also sends it to every worker, which would import the modules of any object that it holds.

    Attributes:
        news: Queue for metrics with hardware, and for messages to the user.

    """

    news: Queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        """Forward a report. A failure to do so is logged and does not end the training."""
        report = metrics[0]  # rank 0's, which covers all workers
        try:
            self.news.put((report[METRICS], report[HARDWARE]))
        except Exception:  # an exception here would fail the whole run
            logger.exception("the metrics of epoch %s could not be published", report[METRICS].get("epoch"))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Let Ray Train restart the workers if some were lost; raise any other error, which would recur."""
        for error in worker_exceptions.values():
            if not may_be_lost_worker(error):
                raise error
        workers = ", ".join(str(rank) for rank in worker_exceptions)
        why = summary(worker_exceptions)
        self.news.put(f"warning: worker {workers} failed ({why}); training resumes from the last checkpoint")


def _worker(arguments: dict[str, Any]) -> Any:
    """Run the work. It comes as an object reference, so that Ray's controller does not import its modules."""
    context = RayContext(Path(arguments["checkpoints"]), arguments["news"], **arguments["options"])
    if context.device.type == "cpu":
        torch.set_num_threads(arguments["threads"])
    if distributed.rank() == 0:
        logging.getLogger("crysatom").addHandler(Forward(arguments["news"]))
        how = "streamed" if arguments["streamed"] else "in memory"
        arguments["news"].put(f"training on {distributed.world_size()} x {context.device.type}, graphs {how}")
    try:
        with flushed_denormals():
            return ray.get(arguments["work"])(context)
    except Exception as error:
        error.add_note(f"in worker {distributed.rank()}:\n{traceback.format_exc()}")  # tracebacks are not pickled
        raise
    finally:
        context.stop_watchdog()


def train_on_cluster(
    work: Callable[[Context], OutcomeT],
    workers: TrainingWorkers,
    checkpoints: Path,
    *,
    record: Callable[[Metrics, str], None],
    show: Callable[[Metrics | str], None],
    stream: ray.data.Dataset | None = None,
) -> OutcomeT:
    """Train on Ray Train workers, from the newest checkpoint if there is one.

    Args:
        work: What each worker does in its context; can be pickled, and finds its inputs on any machine.
        workers: Number of workers, and what each needs.
        checkpoints: Folder for checkpoints, writable by every worker.
        record: Called in a thread of this process with the metrics of each epoch, and with the hardware when workers
            report for the first time (else an empty text).
        show: Called in the same thread with the metrics of each epoch, and with messages about lost workers.
        stream: Dataset that is split between the workers as :data:`STREAM`; None: they hold all graphs in memory.

    Returns:
        The result of rank 0's work.

    Raises:
        ValueError: If the machine lacks what the workers need.
        NonFiniteLossError: If the loss or the gradient of a batch is not finite.
        LostWorkersError: If workers were lost more than ``workers.max_failures`` times.
        StoppedError: If a stop was requested.

    """
    patience = DUMP_AFTER * workers.hang_timeout
    settings = {POLL_VARIABLE: POLL_S, HEALTH_VARIABLE: str(patience)}
    settings |= {START_VARIABLE: START_S} if workers.max_workers else {}
    settings |= {WATCHER_VARIABLE: "0"} if started_here() else {}
    options = {
        "every": 60 * workers.checkpoint_minutes or math.inf,
        "patience": patience,
        "watched": (settings | os.environ).get(WATCHER_VARIABLE) != "0",
    }

    def handle(message: str | tuple[Metrics, str]) -> None:
        if isinstance(message, str):
            show(message)
        else:
            show(message[0])
            record(*message)

    streamed = stream is not None
    resources = scaling(workers, streamed=streamed)
    backend = "nccl" if workers.use_gpu else "gloo"
    with (
        _environment(settings),
        warn_if_late(workers.num_workers, resources.resources_per_worker) as in_time,
        messages_to(handle, in_time) as news,
    ):
        arguments = {"work": ray.put(work), "threads": workers.threads_per_worker, "streamed": streamed, "news": news}
        arguments["options"] = options
        trainer = _Trainer(
            _worker,
            train_loop_config={"checkpoints": str(checkpoints), **arguments},
            torch_config=TorchConfig(backend=backend, timeout_s=math.ceil(workers.hang_timeout)),
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


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables that Ray Train reads when a training starts, except those that the user has set."""
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to the job: Ray's own handler exits with code 0 and without a checkpoint."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _fit(trainer: TorchTrainer, max_failures: int) -> Any:
    try:
        return trainer.fit().return_value
    except ControllerError as error:
        raise error.controller_failure from None
    except TrainingFailedError as error:
        raise LostWorkersError(
            f"workers failed more than {max_failures} times (--max-failures), the last with: {summary(error)}; "
            "continue with --resume"
        ) from error
