"""What every run of a training does: tell MLflow and the terminal how it goes, and how it ended."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from crysatom.config import digest, recorded
from crysatom.config.secrets import scrubbed, without_password
from crysatom.pipelines.run_folder import CHECKPOINTS, RunFolder
from crysatom.tracking.environment import environment_tags, source_tags
from crysatom.tracking.fields import CONFIG_DIGEST, DATA, DATA_DIGEST, HARDWARE, REASON
from crysatom.tracking.runs import Tracker
from crysatom.training import checkpoints
from crysatom.training.context import Metrics, PlainContext
from crysatom.training.full_disk import said_if_full
from crysatom.training.machine import hardware

REASON_WIDTH = 500
"""Characters of a failure's reason in MLflow."""


@dataclass(frozen=True)
class Publish:
    """Tells the terminal and MLflow about an epoch.

    Attributes:
        tracker: The run in MLflow.
        line: What the terminal shows of an epoch.

    """

    tracker: Tracker
    line: Callable[[Metrics], str]

    def __call__(self, metrics: Metrics) -> None:
        """Do both, where one process does everything."""
        self.show(metrics)
        self.record(metrics)

    def show(self, news: Metrics | str) -> None:
        """Print a line on an epoch, or a sentence."""
        print(news if isinstance(news, str) else self.line(news), flush=True)  # noqa: T201 - progress

    def record(self, metrics: Metrics, hardware: str = "") -> None:
        """Tell MLflow about an epoch and, if it is news, what the workers run on."""
        if hardware:
            self.tracker.log_tags({HARDWARE: hardware})
        log_epochs(self.tracker, [metrics])


def plain_context(config: Any, folder: Path, on_report: Callable[[Metrics], None]) -> PlainContext:
    """Return the context of a training in this process.

    Args:
        config: Of the training.
        folder: Of the run.
        on_report: Is told of epochs.

    """
    torch.set_num_threads(config.threads_per_worker)
    device = "cuda" if config.use_gpu else "cpu"
    return PlainContext(folder / CHECKPOINTS, on_report, device, every=60 * config.checkpoint_minutes or math.inf)


@contextmanager
def tracked(
    folder: RunFolder, tracker: Tracker, config: Any, *, experiment: str, tags: Mapping[str, str]
) -> Iterator[None]:
    """Begin the run in MLflow, or go on with it; should what is done meanwhile fail, end it so.

    Args:
        folder: Of the run, claimed and held.
        tracker: Of the run.
        config: Of the job.
        experiment: In MLflow.
        tags: Beside those that every run has.

    Raises:
        FullDiskError: If results do not fit on the disk.

    """
    note = folder.read()
    identity = {DATA: config.data, DATA_DIGEST: note["data_digest"], CONFIG_DIGEST: digest(config)}
    here = "" if config.num_workers else hardware()  # workers will tell of theirs
    tracker.start(
        experiment=experiment,
        run_name=folder.path.name,
        params=recorded(config),
        tags=identity | dict(tags) | environment_tags(here) | source_tags(),
        resume=True,  # whether it may be is decided: the folder was claimed
    )
    with saying_what_is_kept(folder), ending_as_it_does(tracker), said_if_full(folder.path):
        yield


@contextmanager
def saying_what_is_kept(folder: RunFolder) -> Iterator[None]:
    """Note on Ctrl-C where the run is and how far it got, for the last words of the job."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        newest = checkpoints.newest(folder.path / CHECKPOINTS)
        interrupt.add_note(
            f"the run is in {folder.path}" + (f", its newest checkpoint {newest.name}" if newest else "")
        )
        raise


@contextmanager
def ending_as_it_does(tracker: Tracker) -> Iterator[None]:
    """Tell MLflow that the run failed, and why, or was killed, should it be."""
    try:
        yield
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        if not killed:
            tracker.log_tags({REASON: shorten(scrubbed(f"{type(error).__name__}: {error}"), REASON_WIDTH)})
        tracker.finish("KILLED" if killed else "FAILED")
        raise


def log_epochs(tracker: Tracker, history: Sequence[Metrics]) -> None:
    """Tell MLflow the metrics of epochs; what it knows already is left out."""
    for metrics in history:
        tracker.log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, int(metrics["epoch"]))


def progress(metrics: Mapping[str, float], epochs: int, results: str) -> str:
    """Return one line on an epoch: its number, its results, speed, time left."""
    done = int(metrics["epoch"]) + 1
    minutes, seconds = divmod(round(metrics["seconds"] * (epochs - done)), 60)
    speed = f"{metrics['crystals_per_second']:,.0f} crystals/s"
    return f"epoch {done:>3}/{epochs}  {results}  {speed}  {minutes}:{seconds:02d} left"


def where_to_look(tracking_uri: str, run_id: str) -> str:
    """Return the line that tells a user where a run is in MLflow."""
    run = run_id or "(not yet sent)"
    shown = without_password(tracking_uri)
    if shown.startswith(("http://", "https://")):
        return f"MLflow run {run}; compare runs at {shown}"
    return f"MLflow run {run}; compare runs with: {shlex.join(['mlflow', 'ui', '--backend-store-uri', shown])}"


def require_gpu() -> None:
    """Check that this process can use a GPU.

    Raises:
        ValueError: If torch finds none.

    """
    if not torch.cuda.is_available():
        raise ValueError("--use-gpu: torch finds no CUDA device on this machine; use --no-use-gpu")
