"""One trial of a sweep, in a process of its own: train, judge by validation crystals, leave what was learned."""

from __future__ import annotations

import dataclasses
import logging
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd

from crysatom.config import DownstreamConfig, PretrainConfig, TrainingWorkers, recorded
from crysatom.crystals.csv_files import write_csv
from crysatom.names import MAE, PROBE, VAL
from crysatom.runs.lifecycle import launch
from crysatom.sweeps.probe import Probe, predictions_table, told_to_stop, write_predictions
from crysatom.training import checkpoints
from crysatom.training.context import Context, Metrics
from crysatom.training.encoder_files import ENCODER, save_encoder
from crysatom.training.metrics import mad
from crysatom.training.pretrain import PretrainOutcome, pretrain, resident_data
from crysatom.training.regression import RegressionOutcome, RegressionTask, train_predictor
from crysatom.vectors.files import write_vectors

logger = logging.getLogger(__name__)

WARNING = "warning: "
"""Before what workers warn of."""

OutcomeT = TypeVar("OutcomeT")
Report = Callable[[Mapping[str, Any]], None]

EPOCHS_DONE = "epochs_done"
METRICS, HISTORY, FAILED, SAID = "metrics", "history", "failed", "said"
"""What is in a report: of an epoch; of all epochs, at the end; why the trial failed; what it warned of."""

TRIALS = "trials"
HISTORY_CSV = "history.csv"
VECTORS = "vectors"
ERROR_TXT = "error.txt"


class Objective(Protocol):
    """What a trial does with its configuration."""

    def run(self, config: Any, folder: Path, record: Callable[..., None]) -> list[Metrics]:
        """Train in a folder, from its last checkpoint; record metrics of each epoch; return those of all."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Pretraining, whose vectors are judged several times on the way.

    Attributes:
        shards: Graphs of all crystals.
        probe: Judges vectors; its folder is replaced by the trial's.

    """

    shards: Path
    probe: Probe

    def run(self, config: PretrainConfig, folder: Path, record: Callable[..., None]) -> list[Metrics]:
        """Pretrain; leave vectors and encoder in the folder."""
        probe = dataclasses.replace(self.probe, folder=folder)
        outcome = _train(partial(_pretrain, config, self.shards, probe), config.workers, folder, record)
        provenance = {"config": recorded(config)}
        write_vectors(dataclasses.replace(outcome.vectors, provenance=provenance), folder / VECTORS)
        save_encoder(folder / ENCODER, outcome.encoder, provenance)
        return outcome.history


def _pretrain(config: PretrainConfig, shards: Path, probe: Probe, context: Context) -> PretrainOutcome:
    data = resident_data(config, shards, context.device)
    return pretrain(config, data, context, watch=partial(probe.watch, context.device))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Training of a predictor, judged in the epochs in which the vectors of a pretraining would be.

    Attributes:
        name: Of the property.
        task: Without test crystals.
        epochs: Numbers of epochs after which it is judged.

    """

    name: str
    task: RegressionTask
    epochs: frozenset[int]

    def run(self, config: DownstreamConfig, folder: Path, record: Callable[..., None]) -> list[Metrics]:
        """Train; leave the predictions of the validation crystals in the folder."""
        judge = _Judge(folder, mad(self.task.labels[self.task.parts[VAL]]), config, self.epochs)
        outcome = _train(partial(_predict, config, self.task, judge), config.workers, folder, record)
        write_predictions(folder, [predictions_table(self.name, self.task, outcome.predictions[VAL])])
        return outcome.history


@dataclass(frozen=True)
class _Judge:
    """Adds what the model that would be kept has for an error, relative to predicting the mean."""

    folder: Path
    deviation: float
    config: DownstreamConfig
    epochs: frozenset[int]

    def watch(self, best: list[float], metrics: Metrics) -> bool:
        error = metrics[f"{VAL}/{MAE}"]
        best[0] = min(best[0], error) if self.config.optimization.selected_by else error
        if int(metrics["epoch"]) + 1 in self.epochs:
            metrics[PROBE] = best[0] / self.deviation
        return told_to_stop(self.folder)


def _predict(config: DownstreamConfig, task: RegressionTask, judge: _Judge, context: Context) -> RegressionOutcome:
    with context.checkpoint() as newest:
        past = [] if newest is None else checkpoints.load(newest)[1]["history"]
    best = min((epoch[f"{VAL}/{MAE}"] for epoch in past), default=math.inf)
    return train_predictor(config, task, context, watch=partial(judge.watch, [best]))


def _train(
    work: Callable[[Context], OutcomeT], workers: TrainingWorkers, folder: Path, record: Callable[..., None]
) -> OutcomeT:
    return launch(work, workers, folder, record=record, show=_log)


def _log(message: Metrics | str) -> None:
    """Log what workers of a trial say; their warnings are reported. Metrics are recorded, not logged."""
    if not isinstance(message, str):
        return
    if message.startswith(WARNING):
        logger.warning(message.removeprefix(WARNING))
    else:
        logger.info(message)


class _Reported(logging.Handler):
    """Reports what a trial warns of: a user does not read the logs of its process."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report one line."""
        self.report({SAID: f"{record.levelname.lower()}: {record.getMessage()}"})


def run_trial(objective: Objective, configs: Mapping[str, Any], folder: Path, name: str, report: Report) -> None:
    """Do the work of one trial, and report how it goes and how it ended; the reason of a failure, too.

    Args:
        objective: What to do.
        configs: By name of the trial.
        folder: Of the trials' own folders.
        name: Of this trial.
        report: Takes the reports.

    """
    mine = folder / name
    mine.mkdir(parents=True, exist_ok=True)
    warnings, ours = _Reported(report), logging.getLogger("crysatom")
    ours.addHandler(warnings)

    def record(metrics: Metrics, hardware: str = "") -> None:  # noqa: ARG001 - of workers
        probe = {PROBE: metrics[PROBE]} if PROBE in metrics else {}
        report({METRICS: metrics, EPOCHS_DONE: int(metrics["epoch"]) + 1, **probe})

    try:
        history = objective.run(configs[name], mine, record)
        write_csv(pd.DataFrame(history), mine / HISTORY_CSV)
    except Exception as error:  # noqa: BLE001 - whatever it is, the sweep goes on
        (mine / ERROR_TXT).write_text(traceback.format_exc())
        first = next(iter(str(error).splitlines()), "")
        report({FAILED: f"{type(error).__name__}: {first}"})
    else:
        report({HISTORY: history})
    finally:
        ours.removeHandler(warnings)
