"""One cell: train a predictor on a draw and return its errors, in this process or on a Ray worker."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crysatom.config import DownstreamConfig
from crysatom.config.few_labels import COMPOSITION
from crysatom.graphs.shards import load_atoms
from crysatom.names import AUTO, MAX_ATOMIC_NUMBER, TEST, TRAIN, VAL
from crysatom.studies.few_labels.composition import kernel_ridge, mean_vectors
from crysatom.training.context import SilentContext
from crysatom.training.machine import flushed_denormals
from crysatom.training.normalizer import Normalizer
from crysatom.training.regression import RegressionTask, ResidentGraphs, train_predictor
from crysatom.vectors.spectrum import as_read, power_of
from crysatom.vectors.spectrum_choice import Compositions, best_power, errors_by_power
from crysatom.vectors.spectrum_choice import sample as sample_of
from crysatom.vectors.table import AtomVectors

Array = NDArray[Any]

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Crystals and labels of a draw, as positions in the shards that a predictor reads.

    Attributes:
        shards: Folder of graph shards.
        parts: Ascending positions of the crystals for ``train``, ``val`` and ``test``, the evaluated ones.
        labels: Their labels, in the same order.
        trained: Atomic numbers of the elements in the training crystals.

    """

    shards: Path
    parts: dict[str, Array]
    labels: dict[str, Array]
    trained: Array


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a process needs to train a cell.

    Attributes:
        title: The cell for people; unique.
        identity: Digest of the cell.
        predictor: Predictor, or 'composition'.
        config: Configuration of the training, with one seed.
        sample: Crystals and labels.
        vectors: Table that covers their elements, not scaled.
        known: Atomic numbers of the elements that the table had before missing ones were predicted.

    """

    title: str
    identity: str
    predictor: str
    config: DownstreamConfig
    sample: Sample
    vectors: AtomVectors
    known: Array


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Result of a cell.

    Attributes:
        errors: Absolute errors of the evaluated crystals, float32.
        val_mae: Mean absolute error of the validation crystals.
        epochs: Trained epochs.
        selected_epoch: Epoch of the model, from 0.
        seconds: Seconds of training and predictions, without the reading of graphs.
        power: Power of the spectrum of the vectors, chosen on the validation crystals for 'auto'.

    """

    errors: Array
    val_mae: float
    epochs: int
    selected_epoch: int
    seconds: float
    power: float

    def to_text(self) -> str:
        """Return the result as JSON, in which it travels between processes."""
        names = ("val_mae", "epochs", "selected_epoch", "seconds", "power")
        facts = {name: getattr(self, name) for name in names}
        return json.dumps({**facts, "errors": base64.b64encode(self.errors.astype("<f4").tobytes()).decode()})

    @classmethod
    def from_text(cls, text: str) -> Trained:
        """Return the result that :meth:`to_text` wrote."""
        facts = json.loads(text)
        return cls(**{**facts, "errors": np.frombuffer(base64.b64decode(facts["errors"]), "<f4")})


def do(work: Work) -> str:
    """Train a cell with one thread; return its :class:`Trained` as text."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with flushed_denormals():
            return (_ridge(work) if work.predictor == COMPOSITION else _network(work)).to_text()
    finally:
        torch.set_num_threads(threads)


def _network(work: Work) -> Trained:
    sample = work.sample
    graphs = _graphs(sample.shards)
    start = time.perf_counter()
    table = _vectors(work)
    labels = np.full(graphs.tensors.num_crystals, np.nan)
    for part, crystals in sample.parts.items():
        labels[crystals] = sample.labels[part]
    task = RegressionTask(
        shards=sample.shards,
        labels=labels,
        parts=sample.parts,
        vectors=table,
        normalizer=Normalizer.of(sample.labels[TRAIN]),
        reference=None,
    )
    outcome = train_predictor(work.config, task, SilentContext(CPU), graphs=graphs)
    errors = {part: np.abs(outcome.predictions[part] - sample.labels[part]) for part in (VAL, TEST)}
    return Trained(
        errors=errors[TEST].astype(np.float32),
        val_mae=float(errors[VAL].mean()),
        epochs=len(outcome.history),
        selected_epoch=outcome.selected_epoch,
        seconds=time.perf_counter() - start,
        power=power_of(table.provenance),
    )


def _ridge(work: Work) -> Trained:
    sample = work.sample
    counts = element_counts(sample.shards)
    start = time.perf_counter()
    table = _vectors(work)
    rows = np.zeros((MAX_ATOMIC_NUMBER, table.dim))
    rows[table.atomic_numbers - 1] = table.vectors
    train, val, test = (mean_vectors(counts[sample.parts[part]], rows) for part in (TRAIN, VAL, TEST))
    outcome = kernel_ridge((train, val, test), sample.labels[TRAIN], sample.labels[VAL])
    return Trained(
        errors=np.abs(outcome.test - sample.labels[TEST]).astype(np.float32),
        val_mae=float(np.abs(outcome.val - sample.labels[VAL]).mean()),
        epochs=0,
        selected_epoch=0,
        seconds=time.perf_counter() - start,
        power=power_of(table.provenance),
    )


def _vectors(work: Work) -> AtomVectors:
    numbers = work.vectors.atomic_numbers.copy()  # Ray's arrays are read-only, which torch warns of
    given = dataclasses.replace(work.vectors, atomic_numbers=numbers)
    choice, sample = work.config.vectors, work.sample

    def read(power: float) -> AtomVectors:
        return as_read(given, choice.vector_scale, power, sample.trained, work.known)

    if choice.vector_spectrum != AUTO:
        return read(choice.vector_spectrum)
    train, val = (_compositions(sample, part) for part in (TRAIN, VAL))
    return read(best_power(errors_by_power(read, train, val)))


def _compositions(sample: Sample, part: str) -> Compositions:
    kept = sample_of(np.arange(len(sample.parts[part])))
    counts = element_counts(sample.shards)[sample.parts[part][kept]].astype(np.float64)
    shares = np.pad(counts / counts.sum(axis=1, keepdims=True), ((0, 0), (1, 0)))  # by atomic number
    return Compositions(shares=shares, target=sample.labels[part][kept])


@functools.lru_cache(maxsize=2)
def _graphs(shards: Path) -> ResidentGraphs:
    """Return the graphs of a folder, read once per process."""
    return ResidentGraphs.read(shards, CPU)


@functools.lru_cache(maxsize=2)
def element_counts(shards: Path) -> Array:
    """Return the number of atoms of each element in each crystal of a folder, ``(M, 118)``, hydrogen first."""
    ids, ptr, numbers = load_atoms(shards)
    cell = np.repeat(np.arange(len(ids)), np.diff(ptr)) * MAX_ATOMIC_NUMBER + numbers.astype(np.int64) - 1
    return np.bincount(cell, minlength=len(ids) * MAX_ATOMIC_NUMBER).reshape(len(ids), -1).astype(np.uint16)
