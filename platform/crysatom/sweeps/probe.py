"""Evaluate atom vectors during a pretraining: train a small predictor and measure its validation errors."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from crysatom import distributed
from crysatom.config import DownstreamConfig
from crysatom.crystals.csv_files import write_csv
from crysatom.names import MAE, MAE_OVER_MAD, PREDICTION, PROBE, PROPERTY, TARGET, VAL
from crysatom.training.context import Metrics, SilentContext
from crysatom.training.metrics import mae, mae_over_mad
from crysatom.training.regression import RegressionTask, train_predictor
from crysatom.vectors.spectrum import as_read
from crysatom.vectors.table import AtomVectors

STOP = "stop"
"""File in a trial's folder that stops its training after the current epoch."""

PROBE_CSV = "validation_predictions.csv"
CRYSTAL = "crystal"
"""Index of a crystal in the shards; a column of :data:`PROBE_CSV`."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Trains a predictor of each property with given frozen vectors; never reads a test crystal.

    The workers of the pretraining do this together. The random state of the pretraining is not changed.

    Attributes:
        config: Configuration of the predictors, which select the last epoch; every seed of it is trained.
        tasks: Task of each property, without test crystals; their vectors are replaced.
        elements: For each property, atomic numbers of the elements over which vectors are scaled.
        epochs: Numbers of epochs after which the probe runs.
        folder: Folder for the latest predictions, and of :data:`STOP`.

    """

    config: DownstreamConfig
    tasks: Mapping[str, RegressionTask]
    elements: Mapping[str, NDArray[np.int64]]
    epochs: frozenset[int]
    folder: Path

    def watch(self, device: torch.device, metrics: Metrics, vectors: Callable[[], AtomVectors]) -> bool:
        """Add the probe to the metrics of an epoch if it is due; return whether the trial is to stop."""
        if int(metrics["epoch"]) + 1 in self.epochs:
            metrics |= self.measure(vectors(), device)
        return stop_requested(self.folder)

    def measure(self, vectors: AtomVectors, device: torch.device) -> Metrics:
        """Return the validation errors of predictors with these vectors.

        Returns:
            :data:`~crysatom.names.PROBE`, and for each property the means over the seeds.

        Raises:
            ValueError: If a crystal has an element without a vector.

        """
        start = time.perf_counter()
        metrics: Metrics = {}
        tables = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else ()):
            for name, task in self.tasks.items():
                choice, power = self.config.vectors, self.config.vectors.vector_spectrum
                assert not isinstance(power, str), "a sweep refuses 'auto'"
                table = as_read(vectors, choice.vector_scale, power, self.elements[name])
                crystals = task.parts[VAL]
                target = task.labels[crystals]
                predicted = [
                    train_predictor(
                        self.config.replace(seeds=(seed,)),
                        dataclasses.replace(task, vectors=table),
                        SilentContext(device),
                    ).predictions[VAL]
                    for seed in self.config.seeds
                ]
                metrics[f"probe_{name}/{MAE}"] = _mean([mae(target, values) for values in predicted])
                metrics[f"probe_{name}/{MAE_OVER_MAD}"] = _mean([mae_over_mad(target, values) for values in predicted])
                tables += [_table(name, crystals, target, values) for values in predicted]
        if distributed.rank() == 0:
            write_predictions(self.folder, tables)
        metrics[PROBE] = _mean([metrics[f"probe_{name}/{MAE_OVER_MAD}"] for name in self.tasks])
        metrics["probe/seconds"] = time.perf_counter() - start
        return metrics


def stop_requested(folder: Path) -> bool:
    """Return whether the trial's STOP file exists, as rank 0 sees it. All workers call this together."""
    return bool(distributed.gather_objects((folder / STOP).exists())[0])


def predictions_table(name: str, task: RegressionTask, predicted: NDArray[Any]) -> pd.DataFrame:
    """Return the predictions of the validation crystals of a task, one row each."""
    return _table(name, task.parts[VAL], task.labels[task.parts[VAL]], predicted)


def write_predictions(folder: Path, tables: list[pd.DataFrame]) -> None:
    """Replace the predictions in a trial's folder atomically."""
    write_csv(pd.concat(tables), folder / PROBE_CSV)


def _table(name: str, crystals: NDArray[Any], target: NDArray[Any], predicted: NDArray[Any]) -> pd.DataFrame:
    return pd.DataFrame({PROPERTY: name, CRYSTAL: crystals, TARGET: target, PREDICTION: predicted})


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
