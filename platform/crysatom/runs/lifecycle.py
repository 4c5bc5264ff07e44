"""The lifecycle of a run, the same for every job: claim its folder, track it in MLflow, train, finish or fail."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol, TypeVar

import torch

from crysatom.config import Group, TrainingWorkers, digest, recorded
from crysatom.config.secrets import scrubbed, without_password
from crysatom.runs.folder import CHECKPOINTS, RunFolder
from crysatom.runs.paths import Paths
from crysatom.runs.stop import checkpoint_on_signal
from crysatom.tracking.environment import environment_tags, source_tags
from crysatom.tracking.fields import CONFIG_DIGEST, DATA_DIGEST, HARDWARE, REASON
from crysatom.tracking.runs import Tracker
from crysatom.training import checkpoints
from crysatom.training.context import Context, Metrics, PlainContext
from crysatom.training.full_disk import explain_disk_full
from crysatom.training.machine import flushed_denormals, hardware

logger = logging.getLogger(__name__)

REASON_WIDTH = 500
"""Characters of a failure's reason in MLflow."""


class Outcome(Protocol):
    """The result of a training, as far as its run needs it."""

    @property
    def history(self) -> list[Metrics]:
        """Metrics of each epoch."""


OutcomeT = TypeVar("OutcomeT")
TrainingT = TypeVar("TrainingT", bound=Outcome)


@dataclass(kw_only=True)
class Run:
    """An open run.

    Attributes:
        folder: Its folder, claimed and locked.
        tracker: Its run in MLflow.
        again: Whether an earlier job finished it, so that there is nothing to do.
        ended: Whether it was finished or left.

    """

    folder: RunFolder
    tracker: Tracker
    again: bool
    ended: bool = False

    @property
    def path(self) -> Path:
        """Path of the folder."""
        return self.folder.path

    @property
    def address(self) -> dict[str, Any]:
        """Where the run is, for the report at the end of a job."""
        return {"folder": self.path, "tracking_uri": self.tracker.uri, "run_id": self.tracker.run_id}

    def train(
        self,
        work: Callable[[Context], TrainingT],
        workers: TrainingWorkers,
        *,
        epochs: int,
        line: Callable[[Metrics], str],
        stream: Any = None,
    ) -> TrainingT:
        """Train from the newest checkpoint; print and track each epoch.

        Args:
            work: Training that each worker does; can be pickled.
            workers: Number and needs of the workers.
            epochs: Epochs of the whole training.
            line: Results of an epoch, for the terminal.
            stream: Dataset of Ray Data that is split between the workers; None: they hold all graphs in memory.

        """
        done = f"continuing after epoch {self.folder.epochs_done()} of " if self.folder.epochs_done() else ""
        where = f"{workers.num_workers} workers" if workers.num_workers else "in this process"
        logger.info("%s: %s%d epochs, %s ...", self.path, done, epochs, where)

        def show(news: Metrics | str) -> None:
            print(news if isinstance(news, str) else progress(news, epochs, line(news)), flush=True)  # noqa: T201

        with checkpoint_on_signal(self.path / CHECKPOINTS):
            record = partial(record_epoch, self.tracker)
            outcome = launch(work, workers, self.path, record=record, show=show, stream=stream)
        log_epochs(self.tracker, outcome.history)  # missing if the run was killed right after its checkpoint
        return outcome

    def finish(self, status: str = "FINISHED", **facts: Any) -> None:
        """Mark the run as finished, with facts for its folder; the same command then has nothing to do."""
        self.folder.finish(run_id=self.tracker.run_id, **facts)
        self.leave(status)

    def leave(self, status: str) -> None:
        """End the MLflow run only; the same command continues with what is left to do."""
        self.ended = True
        self.tracker.finish(status)


@contextmanager
def opened(  # noqa: PLR0913 - what identifies a run, and how it is opened
    config: Group,
    paths: Paths,
    name: str,
    data_digest: str,
    *,
    tags: Mapping[str, str],
    experiment: str,
    resume: bool = False,
    repeat: bool = False,
    workers_report: bool = False,
) -> Iterator[Run]:
    """Open the run of a configuration on some data; the block ends it by :meth:`Run.finish` or :meth:`Run.leave`.

    The folder is claimed and locked. A finished run sends its pending records to MLflow and is yielded as finished.
    Any other run is started or resumed in MLflow, and marked as failed, with the reason, if the block raises.

    Args:
        config: Configuration of the job.
        paths: Paths of the job.
        name: Name of the run's folder, and of the run in MLflow.
        data_digest: Digest of the data that the run reads.
        tags: MLflow tags, beside those that every run has.
        experiment: Experiment in MLflow.
        resume: Continue an unfinished run from its checkpoint.
        repeat: Repeat the work even if the run is finished.
        workers_report: Workers on other machines will report their hardware.

    Raises:
        ValueError: If the folder may not be used; see :meth:`RunFolder.claimed`.
        FullDiskError: If results do not fit on the disk.

    """
    folder = RunFolder(paths.out / name)
    run = Run(folder=folder, tracker=Tracker.at(folder.path, paths.tracking_uri), again=False)
    with folder.claimed(config, data_digest, resume=resume) as finished:
        if finished and not repeat:
            run.tracker.settle()
            run.again = run.ended = True
            yield run
            return
        run.tracker.start(
            experiment=experiment,
            run_name=name,
            params=recorded(config),
            tags={DATA_DIGEST: data_digest, CONFIG_DIGEST: digest(config)}
            | dict(tags)
            | environment_tags("" if workers_report else hardware())
            | source_tags(),
            resume=True,  # the claim has already checked this
        )
        resumes = "resume" in config.names()
        with _note_on_interrupt(folder), _report_failure(run), explain_disk_full(folder.path, resumes=resumes):
            yield run
        assert run.ended, "the block neither finished nor left the run"


def start_ray(num_workers: int) -> None:
    """Join the cluster that the job was submitted to, or start Ray here, if the job has workers."""
    if num_workers > 0:
        from crysatom.cluster.session import start_ray

        logger.info("starting Ray ...")
        start_ray()


def require_workers(workers: TrainingWorkers, *, streamed: bool = False) -> None:
    """Check that the workers of a training are available.

    Raises:
        ValueError: If the machine has too little, or data would be streamed without Ray.

    """
    if workers.num_workers > 0:
        from crysatom.cluster.resources import scaling

        scaling(workers, streamed=streamed)
    elif streamed:
        raise ValueError("the streamed loader needs Ray: set --num-workers to 1 or more")
    elif workers.use_gpu:
        require_gpu()


def require_gpu() -> None:
    """Check that this process can use a GPU.

    Raises:
        ValueError: If torch finds none.

    """
    if not torch.cuda.is_available():
        raise ValueError("--use-gpu: torch finds no CUDA device on this machine; use --no-use-gpu")


def launch(
    work: Callable[[Context], OutcomeT],
    workers: TrainingWorkers,
    folder: Path,
    *,
    record: Callable[[Metrics, str], None],
    show: Callable[[Metrics | str], None],
    stream: Any = None,
) -> OutcomeT:
    """Train in this process or, with workers, by Ray Train, from the newest checkpoint.

    Args:
        work: Training that each worker does; can be pickled.
        workers: Number and needs of the workers.
        folder: Folder of the run, which holds the checkpoints.
        record: Called with each epoch's metrics, and with the hardware of workers that report for the first time.
        show: Called with each epoch's metrics, and with sentences for the user.
        stream: Dataset of Ray Data that is split between the workers; None: they hold all graphs in memory.

    """
    if workers.num_workers > 0:
        from crysatom.cluster.train import train_on_cluster

        return train_on_cluster(work, workers, folder / CHECKPOINTS, record=record, show=show, stream=stream)

    def on_report(metrics: Metrics) -> None:
        show(metrics)
        record(metrics, "")

    torch.set_num_threads(workers.threads_per_worker)
    device = "cuda" if workers.use_gpu else "cpu"
    context = PlainContext(folder / CHECKPOINTS, on_report, device, every=60 * workers.checkpoint_minutes or math.inf)
    with flushed_denormals():
        return work(context)


@contextmanager
def _note_on_interrupt(folder: RunFolder) -> Iterator[None]:
    """Add the folder and its newest checkpoint to a KeyboardInterrupt, for the job's last message."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        newest = checkpoints.newest(folder.path / CHECKPOINTS)
        interrupt.add_note(
            f"the run is in {folder.path}" + (f", its newest checkpoint {newest.name}" if newest else "")
        )
        raise


@contextmanager
def _report_failure(run: Run) -> Iterator[None]:
    """End the MLflow run as FAILED with the reason, or as KILLED, if the block raises."""
    try:
        yield
    except BaseException as error:
        if run.ended:
            raise
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        if not killed:
            run.tracker.log_tags({REASON: shorten(scrubbed(f"{type(error).__name__}: {error}"), REASON_WIDTH)})
        run.leave("KILLED" if killed else "FAILED")
        raise


def record_epoch(tracker: Tracker, metrics: Metrics, hardware: str = "") -> None:
    """Log the metrics of an epoch and, if given, the hardware of the workers."""
    if hardware:
        tracker.log_tags({HARDWARE: hardware})
    log_epochs(tracker, [metrics])


def log_epochs(tracker: Tracker, history: Sequence[Metrics]) -> None:
    """Log the metrics of epochs; the tracker drops those that it already has."""
    for metrics in history:
        tracker.log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, int(metrics["epoch"]))


def progress(metrics: Mapping[str, float], epochs: int, results: str) -> str:
    """Return one line on an epoch: its number, its results, speed, time left."""
    done = int(metrics["epoch"]) + 1
    minutes, seconds = divmod(round(metrics["seconds"] * (epochs - done)), 60)
    speed = f"{metrics['crystals_per_second']:,.0f} crystals/s"
    return f"epoch {done:>3}/{epochs}  {results}  {speed}  {minutes}:{seconds:02d} left"


def where_to_look(tracking_uri: str, run_id: str) -> str:
    """Return the line that says where a run is in MLflow."""
    run = run_id or "(not yet sent)"
    shown = without_password(tracking_uri)
    if shown.startswith(("http://", "https://")):
        return f"MLflow run {run}; compare runs at {shown}"
    return f"MLflow run {run}; compare runs with: {shlex.join(['mlflow', 'ui', '--backend-store-uri', shown])}"
