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

logger = logging.getLogger(__name__)

OutcomeT = TypeVar("OutcomeT")

STREAM = "train"
"""What Ray Train calls the data that it splits between the workers."""

DUMP_AFTER = 1.2
"""Times the patience with a collective: those that wait for a hung worker should have said so before it is ended."""

POLL_VARIABLE, POLL_S = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2"
"""How often Ray Train asks workers for reports. A worker waits until its last report was fetched, so that Ray's
default of 2 s would be the least time of an epoch."""

WATCHER_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Ray Train watches by a process of its own whether machines are about to be taken away; a laptop is not."""

ASK_S = 5.0
"""Time between two questions whether one is; Ray Train's watcher looks as often."""

TO_BE_LOST_S = 30.0
"""Time between checkpoints from then on."""

START_VARIABLE, START_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30"
"""How long an elastic training waits for workers on a machine that may be gone, before it does with fewer."""

HEALTH_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
"""How long Ray Train waits for the answer of a worker: by default 600 s, during which others may wait in a report."""

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
        news: Takes sentences for the user.
        every: Seconds between checkpoints within an epoch.
        patience: Seconds without progress after which this worker ends itself, telling where it hung.
        watched: Whether Ray Train knows of machines that are about to be taken away.

    """

    def __init__(self, folder: Path, news: Queue, *, every: float, patience: float, watched: bool) -> None:
        super().__init__(folder, device=str(ray.train.torch.get_device()), every=every)
        self.sentences, self.patience, self.watched = news, patience, watched
        self.asked_at = time.monotonic()
        self.warned = False
        self.news = self.hardware()

    def heartbeat(self) -> None:
        """Wind up the watchdog: a C thread, which ends even a process whose Python threads are stuck."""
        faulthandler.dump_traceback_later(self.patience, exit=True)

    def stop_watchdog(self) -> None:
        """Stop the watchdog."""
        faulthandler.cancel_dump_traceback_later()

    def say(self, sentence: str) -> None:
        """Tell the user; once, though all workers call this."""
        if distributed.rank() == 0:
            self.sentences.put(sentence)

    def next_action(self) -> Action:
        """Return what time or a file ask for, or whether it is time to ask the machines."""
        found = super().next_action()
        if found != Action.GO_ON or not self.watched or distributed.rank() != 0:
            return found
        if time.monotonic() - self.asked_at < ASK_S:
            return Action.GO_ON
        self.asked_at = time.monotonic()
        return Action.ASK

    def about_to_be_lost(self) -> bool:
        """Ask Ray Train; True the first time, after which checkpoints are more frequent."""
        if self.warned or ray.train.get_preemption_info() is None:
            return False
        self.warned, self.every = True, min(self.every, TO_BE_LOST_S)
        self.say("warning: a worker's machine is about to be taken away: saving now, and more often from now on")
        return True

    def publish(self, metrics: Metrics) -> None:
        """Hand the metrics to Ray Train, the first time with what the workers run on; a barrier between them."""
        ray.train.report({METRICS: metrics, HARDWARE: self.news})
        self.news = ""

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the newest whole checkpoint, by the eyes of rank 0: shared file systems differ between machines."""
        newest = distributed.gather_objects(checkpoints.newest(self.folder) if distributed.rank() == 0 else None)[0]
        if newest is not None:
            self.say(f"going on from checkpoint {newest.name}")
        yield newest


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
        why = summary(worker_exceptions)
        self.news.put(f"warning: worker {workers} failed ({why}); training goes on from the last checkpoint")


def _worker(arguments: dict[str, Any]) -> Any:
    """Do the work, which comes as a reference: Ray's controller would import all that it needs if it saw it."""
    context = RayContext(Path(arguments["checkpoints"]), arguments["news"], **arguments["care"])
    if context.device.type == "cpu":
        torch.set_num_threads(arguments["threads"])
    if distributed.rank() == 0:
        logging.getLogger("crysatom").addHandler(Forward(arguments["news"]))
        how = "streamed" if arguments["streamed"] else "in memory"
        arguments["news"].put(f"training on {distributed.world_size()} x {context.device.type}, graphs {how}")
    try:
        return ray.get(arguments["work"])(context)
    except Exception as error:
        error.add_note(f"in worker {distributed.rank()}:\n{traceback.format_exc()}")  # a traceback does not travel
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
        StoppedError: If it was asked to end.

    """
    patience = DUMP_AFTER * workers.hang_timeout
    settings = {POLL_VARIABLE: POLL_S, HEALTH_VARIABLE: str(patience)}
    settings |= {START_VARIABLE: START_S} if workers.max_workers else {}
    settings |= {WATCHER_VARIABLE: "0"} if started_here() else {}
    care = {
        "every": 60 * workers.checkpoint_minutes or math.inf,
        "patience": patience,
        "watched": (settings | os.environ).get(WATCHER_VARIABLE) != "0",
    }

    def tell(message: str | tuple[Metrics, str]) -> None:
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
        messages_to(tell, in_time) as news,
    ):
        arguments = {"work": ray.put(work), "threads": workers.threads_per_worker, "streamed": streamed, "news": news}
        arguments["care"] = care
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
    """Set variables that Ray Train reads when a training starts, but those that the user has set."""
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to the job: Ray's own handler ends it without a checkpoint, and with code 0."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


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
