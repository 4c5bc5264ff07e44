"""One trial of a sweep, in its own process: train, evaluate on validation crystals, save the results."""

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

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crysatom.config import DownstreamConfig, PretrainConfig, TrainingWorkers, recorded
from crysatom.config.downstream import Vectors
from crysatom.crystals.csv_files import write_csv
from crysatom.names import AUTO, MAE, PROBE, VAL, VectorScale
from crysatom.runs.lifecycle import launch
from crysatom.sweeps.probe import Probe, predictions_table, stop_requested, write_predictions
from crysatom.training import checkpoints
from crysatom.training.context import Context, Metrics
from crysatom.training.encoder_files import ENCODER, save_encoder
from crysatom.training.metrics import mad
from crysatom.training.pretrain import PretrainOutcome, pretrain, resident_data
from crysatom.training.regression import RegressionOutcome, RegressionTask, train_predictor
from crysatom.vectors.files import write_vectors
from crysatom.vectors.spectrum import as_read, power_of

logger = logging.getLogger(__name__)

WARNING = "warning: "
"""Prefix of a worker's warnings."""

OutcomeT = TypeVar("OutcomeT")
Report = Callable[[Mapping[str, Any]], None]

EPOCHS_DONE = "epochs_done"
METRICS, HISTORY, FAILED, MESSAGE = "metrics", "history", "failed", "said"
"""Keys of a report: metrics of an epoch; of all epochs, at the end; reason of a failure; a warning."""

TRIALS = "trials"
HISTORY_CSV = "history.csv"
VECTORS = "vectors"
ERROR_TXT = "error.txt"


class Objective(Protocol):
    """The work of a trial with its configuration."""

    def run(self, config: Any, folder: Path, record: Callable[..., None]) -> list[Metrics]:
        """Train in a folder, from its last checkpoint; record each epoch's metrics; return those of all epochs."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Pretraining, whose vectors are evaluated several times during training.

    Attributes:
        shards: Graphs of all crystals.
        probe: Evaluates vectors; its folder is replaced by the trial's.

    """

    shards: Path
    probe: Probe

    def run(self, config: PretrainConfig, folder: Path, record: Callable[..., None]) -> list[Metrics]:
        """Pretrain; save vectors and encoder in the folder."""
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
    """Training of a predictor, evaluated after the same epochs as a pretraining's vectors would be.

    Attributes:
        name: Name of the property.
        task: Task without test crystals.
        epochs: Numbers of epochs after which it is evaluated.
        elements: Atomic numbers of the elements over which vectors are scaled.

    """

    name: str
    task: RegressionTask
    epochs: frozenset[int]
    elements: NDArray[np.int64]

    def run(self, config: DownstreamConfig, folder: Path, record: Callable[..., None]) -> list[Metrics]:
        """Train; save the predictions of the validation crystals in the folder."""
        evaluator = _Evaluator(folder, mad(self.task.labels[self.task.parts[VAL]]), config, self.epochs)
        outcome = _train(
            partial(_predict, config, self.task_of(config.vectors), evaluator), config.workers, folder, record
        )
        write_predictions(folder, [predictions_table(self.name, self.task, outcome.predictions[VAL])])
        return outcome.history

    def task_of(self, choice: Vectors) -> RegressionTask:
        """Return the task with the spectrum of a trial; all trials share the scaled vectors."""
        table, power = self.task.vectors, choice.vector_spectrum
        if power in (AUTO, power_of(table.provenance)):
            return self.task
        filled = table.provenance.get("filled", ())
        known = [z for z, symbol in zip(table.atomic_numbers, table.symbols, strict=True) if symbol not in filled]
        how: VectorScale = "none" if choice.vector_scale == "none" else "rms"
        return dataclasses.replace(self.task, vectors=as_read(table, how, power, self.elements, known))


@dataclass(frozen=True)
class _Evaluator:
    """Adds to the metrics the selected model's error, relative to predicting the mean."""

    folder: Path
    deviation: float
    config: DownstreamConfig
    epochs: frozenset[int]

    def watch(self, best: list[float], metrics: Metrics) -> bool:
        error = metrics[f"{VAL}/{MAE}"]
        best[0] = min(best[0], error) if self.config.optimization.selected_by else error
        if int(metrics["epoch"]) + 1 in self.epochs:
            metrics[PROBE] = best[0] / self.deviation
        return stop_requested(self.folder)


def _predict(
    config: DownstreamConfig, task: RegressionTask, evaluator: _Evaluator, context: Context
) -> RegressionOutcome:
    with context.checkpoint() as newest:
        past = [] if newest is None else checkpoints.load(newest)[1]["history"]
    best = min((epoch[f"{VAL}/{MAE}"] for epoch in past), default=math.inf)
    return train_predictor(config, task, context, watch=partial(evaluator.watch, [best]))


def _train(
    work: Callable[[Context], OutcomeT], workers: TrainingWorkers, folder: Path, record: Callable[..., None]
) -> OutcomeT:
    return launch(work, workers, folder, record=record, show=_log)


def _log(message: Metrics | str) -> None:
    """Log messages of a trial's workers; warnings are also reported. Metrics are recorded elsewhere."""
    if not isinstance(message, str):
        return
    if message.startswith(WARNING):
        logger.warning(message.removeprefix(WARNING))
    else:
        logger.info(message)


class _Reported(logging.Handler):
    """Reports a trial's warnings, because users do not read the logs of its process."""

    def __init__(self, report: Report) -> None:
        """Report one record."""
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report one line."""
        self.report({MESSAGE: f"{record.levelname.lower()}: {record.getMessage()}"})


def run_trial(objective: Objective, configs: Mapping[str, Any], folder: Path, name: str, report: Report) -> None:
    """Do the work of one trial; report its progress and its end, including the reason of a failure.

    Args:
        objective: What to do.
        configs: Configurations by trial name.
        folder: Parent folder of the trials' folders.
        name: Name of this trial.
        report: Called with each report.

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
    except Exception as error:  # noqa: BLE001 - whatever it is, the sweep continues
        (mine / ERROR_TXT).write_text(traceback.format_exc())
        first = next(iter(str(error).splitlines()), "")
        report({FAILED: f"{type(error).__name__}: {first}"})
    else:
        report({HISTORY: history})
    finally:
        ours.removeHandler(warnings)
