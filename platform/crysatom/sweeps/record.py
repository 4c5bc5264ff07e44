"""The record of a sweep's trials: on disk, in MLflow, on the terminal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from crysatom.config import TuneConfig
from crysatom.names import PROBE
from crysatom.runs.lifecycle import log_epochs
from crysatom.sweeps.probe import STOP
from crysatom.sweeps.trial import FAILED, HISTORY, MESSAGE, METRICS
from crysatom.tracking import fields
from crysatom.tracking.runs import Tracker
from crysatom.training.context import Metrics
from crysatom.writing import write_text

TRIAL_JSON = "trial.json"
REASON_WIDTH = 200
"""Characters of a reason on the terminal; the table has the whole reason."""

FINISHED, FAILED_TRIAL = "finished", "failed"
"""How a trial ended: finished, failed, or stopped by halving (fields.STOPPED)."""


@dataclass(kw_only=True)
class Trial:
    """Record of one trial; its file is replaced at every change.

    Attributes:
        folder: Folder of the trial.
        settings: Settings that differ between trials.
        history: Metrics of the completed epochs.
        ended: How it ended; empty if it has not.
        reason: Reason of a failure.

    """

    folder: Path
    settings: dict[str, Any]
    history: list[Metrics] = dataclasses.field(default_factory=list)
    ended: str = ""
    reason: str = ""

    @classmethod
    def at(cls, folder: Path, settings: dict[str, Any]) -> Trial:
        """Return the trial of a folder, started or not; a failed trial is tried again."""
        file = folder / TRIAL_JSON
        known = json.loads(file.read_text()) if file.exists() else {}
        trial = cls(folder=folder, settings=settings, **known)
        if trial.ended == FAILED_TRIAL:
            trial.ended = trial.reason = ""
        return trial

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    @property
    def label(self) -> str:
        """Its settings as text."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items())

    @property
    def probes(self) -> list[Metrics]:
        """Metrics of the epochs with a probe."""
        return [metrics for metrics in self.history if PROBE in metrics]

    @property
    def score(self) -> float:
        """The last probe; NaN before the first."""
        return self.probes[-1][PROBE] if self.probes else float("nan")

    @property
    def seconds(self) -> float:
        """Seconds of training and probes."""
        return sum(epoch["seconds"] + epoch.get("probe/seconds", 0.0) for epoch in self.history)

    def add(self, epochs: list[Metrics]) -> list[Metrics]:
        """Add epochs; return those that are new."""
        known = {epoch["epoch"] for epoch in self.history}
        new = [epoch for epoch in epochs if epoch["epoch"] not in known]
        # the final report may include epochs from before the sweep was killed
        self.history = sorted([*self.history, *new], key=lambda epoch: epoch["epoch"])
        return new

    def write(self) -> None:
        """Replace the file atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"history": self.history, "ended": self.ended, "reason": self.reason}
        write_text(self.folder / TRIAL_JSON, json.dumps(content))


class Record:
    """Records what trials report: on disk, in MLflow and on the terminal. Only one process writes.

    Args:
        trials: Trials by name.
        parent: The sweep's run in MLflow.
        config: Configuration of the sweep.
        epochs: Epochs of a full trial.

    """

    def __init__(self, trials: Mapping[str, Trial], parent: Tracker, config: TuneConfig, epochs: int) -> None:
        self.trials, self.parent, self.config, self.epochs = trials, parent, config, epochs
        self.trackers: dict[str, Tracker] = {}

    def started(self, name: str) -> None:
        """Start or resume the trial's run in MLflow."""
        trial = self.trials[name]
        trial.write()
        self.trackers[name] = Tracker.at(trial.folder, self.parent.uri).start(
            experiment=self.config.tracking.experiment,
            run_name=trial.label if len(trial.label) < 100 else name,
            params=trial.settings,
            tags={fields.SPACE: self.config.space},
            resume=True,
            parent=self.parent.folder,
        )
        self._print(trial, f"started, {trial.label}")

    def reported(self, name: str, report: Mapping[str, Any]) -> None:
        """Record the epochs, and how the trial ended if it did."""
        trial = self.trials[name]
        new = trial.add([report[METRICS]] if METRICS in report else report.get(HISTORY, []))
        log_epochs(self.trackers[name], new)
        for metrics in new:
            if PROBE in metrics:
                self._print(trial, f"epoch {int(metrics['epoch']) + 1}/{self.epochs}, MAE/MAD {metrics[PROBE]:.4f}")
        if MESSAGE in report:
            self._print(trial, report[MESSAGE])
        if FAILED in report:
            self._end(trial, FAILED_TRIAL, report[FAILED])
        elif HISTORY in report:
            stopped = len(trial.history) < self.epochs and (trial.folder / STOP).exists()
            self._end(trial, fields.STOPPED if stopped else FINISHED)
        elif new:
            trial.write()

    def lost(self, name: str, reason: str) -> None:
        """Record that the trial's process ended before its work did."""
        self._end(self.trials[name], FAILED_TRIAL, reason)

    def stop(self, name: str) -> None:
        """Ask the trial to stop, as Tune decided."""
        self.trials[name].folder.joinpath(STOP).touch()

    def interrupted(self) -> None:
        """End the MLflow runs of trials that have not ended, so that they can be resumed."""
        for name, tracker in self.trackers.items():
            if not self.trials[name].ended:
                tracker.finish("KILLED")

    def _end(self, trial: Trial, how: str, reason: str = "") -> None:
        if trial.name not in self.trackers:  # its process was lost before the work started
            self.started(trial.name)
        trial.ended, trial.reason = how, reason
        trial.write()
        tracker = self.trackers[trial.name]
        tracker.log_tags({fields.ENDED: how, fields.REASON: reason})
        tracker.finish("FAILED" if how == FAILED_TRIAL else "FINISHED")
        self._print(trial, f"{how}{': ' * bool(reason)}{shorten(reason, REASON_WIDTH)}")

    def _print(self, trial: Trial, what: str) -> None:
        print(f"trial {trial.name}: {what}", flush=True)  # noqa: T201 - progress
