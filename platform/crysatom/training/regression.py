"""Property prediction as it runs on every worker: build, train, predict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.config import DownstreamConfig
from crysatom.config.downstream import Architecture
from crysatom.graphs.batch import GraphTensors
from crysatom.graphs.shards import load
from crysatom.names import DISTILLATION, LOSS, MAE, MAX_ATOMIC_NUMBER, TEST, TRAIN, VAL, Criterion
from crysatom.nn.condensed import condensed
from crysatom.nn.pooling import pool
from crysatom.nn.products import products_in, slow_precision
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.predictors.registry import build_predictor
from crysatom.predictors.transfer import start_from_encoder
from crysatom.training.context import Context, Metrics
from crysatom.training.distillation import Distillation
from crysatom.training.encoder_files import PretrainedEncoder
from crysatom.training.loaders import Loader, ResidentLoader
from crysatom.training.loop import Loop, Selection
from crysatom.training.micro_batches import split
from crysatom.training.normalizer import Normalizer
from crysatom.vectors.table import AtomVectors

Array = NDArray[Any]

EVALUATION_BATCH = 256
"""Crystals in a batch for prediction only; it does not change the predictions."""


class Regression(nn.Module):
    """A predictor that returns a property: with normalization, and a reference per element if given.

    Sums over the global batch are taken in float64, as described in :mod:`crysatom.distributed`.

    Args:
        predictor: Predicts normalized targets.
        normalizer: Mean and spread of the training targets minus the reference.
        reference: ``(119,)``, each element's contribution, by atomic number; None: no reference.
        criterion: Loss of the normalized target.
        distillation: Part of the training loss that comes from a pretrained teacher; None: no such part. It is not
            saved with the model.

    """

    mean: Tensor
    std: Tensor
    reference: Tensor

    def __init__(
        self,
        predictor: Predictor,
        normalizer: Normalizer,
        reference: Array | None = None,
        criterion: Criterion = "mae",
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.predictor, self.criterion, self.distillation = predictor, criterion, distillation
        contributions = np.zeros(MAX_ATOMIC_NUMBER + 1) if reference is None else reference
        self.register_buffer("mean", torch.tensor(normalizer.mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(normalizer.std, dtype=torch.float64))
        self.register_buffer("reference", torch.tensor(contributions, dtype=torch.float64))

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:  # noqa: ARG002 - the loop's signature
        """Return the loss, and the mean absolute error in the unit of the property, over the global batch.

        In training mode with distillation the loss is (1 - w) times the property loss plus w times the distillation
        loss.

        Args:
            batch: Graphs with ``target`` (B,).
            epoch: Not used.

        """
        target = (batch.target - self.baseline(batch)) / self.std
        atoms = self.predictor.atoms(batch)
        error: Tensor = self.predictor.readout(atoms, batch).double() - target
        count = error.new_full((), len(error))
        total = distributed.all_reduce_sum(torch.stack([self._loss(error).sum(), error.abs().sum(), count]))
        terms = {
            LOSS: total[0] / total[2] + self.predictor.penalty(),
            MAE: (total[1] / total[2] * self.std).detach(),
        }
        if self.training and self.distillation is not None:
            terms[DISTILLATION] = self.distillation(atoms, batch)
            terms[LOSS] = torch.lerp(terms[LOSS], terms[DISTILLATION], self.distillation.weight)
        return terms

    def predict(self, batch: Batch) -> Tensor:
        """Return the property of B crystals, ``(B,)`` float64, in its unit."""
        prediction: Tensor = self.predictor(batch).double() * self.std + self.baseline(batch)
        return prediction

    def baseline(self, batch: Batch) -> Tensor:
        """Return the prediction for B crystals before any training, ``(B,)``."""
        return pool(self.reference[batch.atomic_numbers][:, None], batch)[:, 0] + self.mean

    def _loss(self, error: Tensor) -> Tensor:
        if self.criterion == "mae":
            return error.abs()
        if self.criterion == "mse":
            return error.square()
        return F.huber_loss(error, torch.zeros_like(error), reduction="none")


@torch.no_grad()
def predictions(model: Regression, loader: Loader, max_edges: int = 0) -> tuple[Array, Array]:
    """Predict all crystals of a loader with targets, in evaluation mode; each worker predicts its share.

    Args:
        model: Predicts.
        loader: Crystals.
        max_edges: Edges above which a share is predicted in parts; 0: never.

    Returns:
        ``(n,)`` indices of the crystals, ascending, and their ``(n,)`` float64 predictions; the same on all workers.

    """
    model.eval()
    crystals, values = [], []
    for batch in loader.epoch(0):
        crystals.append(distributed.all_gather_rows(batch.crystal))
        parts = [model.predict(part) for part in split(batch, max_edges)]
        values.append(distributed.all_gather_rows(torch.cat(parts)))
    indices, predicted = torch.cat(crystals).cpu().numpy(), torch.cat(values).cpu().numpy()
    order = np.argsort(indices)
    return indices[order], predicted[order]


@dataclass(frozen=True, kw_only=True)
class RegressionTask:
    """What to learn, beside the configuration; can be sent to workers.

    Attributes:
        shards: Folder of graph shards with M crystals.
        labels: ``(M,)`` float64, in the unit of the property; NaN for crystals without a label.
        parts: Ascending indices of the crystals of ``train``, ``val`` and, if they may be read, ``test``.
        vectors: Atom vectors as the predictor reads them.
        normalizer: Mean and spread of the training targets minus the reference.
        reference: ``(119,)`` contributions of the elements, or None.
        init: Encoder that initializes the predictor, or None.
        teacher: Encoder for distillation, or None.
        start: State of a trained model to start from, or None. Vectors, normalizer and reference are then those of this
            model.

    """

    shards: Path
    labels: Array
    parts: dict[str, Array]
    vectors: AtomVectors
    normalizer: Normalizer
    reference: Array | None
    init: PretrainedEncoder | None = None
    teacher: PretrainedEncoder | None = None
    start: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class RegressionOutcome:
    """Results of a training; equal on all workers except hardware and its speed.

    Attributes:
        history: Metrics of each epoch.
        selected_epoch: Epoch whose weights the model has.
        predictions: Predictions for ``val`` and ``test``, in the order of the task's parts.
        state: The model's tensors, on the CPU.
        num_parameters: Number of trained parameters.
        test_seconds: Seconds that this worker took to predict the test crystals.
        hardware: The workers' hardware, one line.

    """

    history: list[dict[str, float]]
    selected_epoch: int
    predictions: dict[str, Array]
    state: dict[str, Tensor]
    num_parameters: int
    test_seconds: float
    hardware: str


def spec_of(config: DownstreamConfig) -> PredictorSpec:
    """Return the specification of the configured predictor.

    Raises:
        ValueError: If it cannot be built.

    """
    return PredictorSpec(
        **{name: getattr(config.architecture, name) for name in Architecture.names() - {"predictor_options"}},
        cutoff=config.graph.cutoff,
        train_vectors=config.vectors.train_vectors,
        options=config.architecture.predictor_options,
    )


def build_regression(config: DownstreamConfig, task: RegressionTask) -> Regression:
    """Return the model with its seeded initial weights, equal on every machine.

    Pretrained weights replace some of them; the others do not change.
    """
    torch.manual_seed(config.seed)
    predictor = build_predictor(spec_of(config), task.vectors)
    if task.init is not None:
        start_from_encoder(predictor, task.init.weights, task.init.features, task.init.atomic_numbers)
    teacher = task.teacher
    distillation = (
        None
        if teacher is None
        else Distillation(teacher.build(), config.architecture.width, config.start.distill_weight)
    )
    model = Regression(predictor, task.normalizer, task.reference, config.optimization.criterion, distillation)
    if task.start is not None:
        model.load_state_dict(dict(task.start), strict=distillation is None)  # distillation adds weights
    return model


@dataclass(frozen=True, kw_only=True)
class ResidentGraphs:
    """The graphs of a folder in memory, condensed; many trainings can share them.

    Attributes:
        tensors: Graphs of M crystals, on the device of the training.
        material_ids: ``(M,)`` ids.

    """

    tensors: GraphTensors
    material_ids: Array

    @classmethod
    def read(cls, shards: Path, device: torch.device) -> ResidentGraphs:
        """Read all graphs of a folder of shards."""
        arrays = load(shards)
        return cls(tensors=condensed(GraphTensors.of(arrays)).to(device), material_ids=arrays.material_ids)


def labeled_data(
    config: DownstreamConfig, task: RegressionTask, device: torch.device, graphs: ResidentGraphs | None = None
) -> dict[str, ResidentLoader]:
    """Load the graphs into memory, unless they are given; return a loader for each part of the split."""
    graphs = graphs or ResidentGraphs.read(task.shards, device)
    targets = torch.tensor(task.labels, device=device)
    return {
        part: ResidentLoader(
            graphs.tensors,
            crystals,
            material_ids=graphs.material_ids,
            batch_size=config.optimization.batch_size
            if part == TRAIN
            else max(config.optimization.batch_size, EVALUATION_BATCH),
            tail=config.optimization.tail,
            seed=config.seed,
            targets=targets,
        )
        for part, crystals in task.parts.items()
    }


def train_predictor(
    config: DownstreamConfig,
    task: RegressionTask,
    context: Context,
    watch: Callable[[Metrics], bool] | None = None,
    graphs: ResidentGraphs | None = None,
) -> RegressionOutcome:
    """Train on this worker's share of the training crystals; predict the test crystals only at the end.

    Args:
        config: Configuration with one seed.
        task: What to learn; without test crystals in its parts, none are predicted.
        context: Where it runs.
        watch: Called after each epoch with its metrics; returning True stops the training.
        graphs: The graphs of the task's shards on the context's device; None: they are read.

    Raises:
        NonFiniteLossError: If the loss or the gradient of a batch is not finite.

    """
    precision = config.optimization.precision
    if warning := slow_precision(precision, context.device.type):
        context.log(warning)
    with products_in(precision):
        return _train_predictor(config, task, context, watch, graphs)


def _train_predictor(
    config: DownstreamConfig,
    task: RegressionTask,
    context: Context,
    watch: Callable[[Metrics], bool] | None,
    graphs: ResidentGraphs | None,
) -> RegressionOutcome:
    data = labeled_data(config, task, context.device, graphs)
    model = build_regression(config, task).to(context.device)
    optimization = config.optimization
    loop = Loop(
        model,
        data[TRAIN],
        data[VAL],
        optimization,
        context,
        optimizer=optimization.optimizer,
        milestones=optimization.milestones,
        selection=Selection(by=optimization.selected_by, patience=optimization.patience),
        balance=config.workers.balance,
        max_edges=config.workers.max_edges,
        measured=VAL,
        watch=watch,
    )
    history = loop.run()
    model.distillation = None
    predicted = {VAL: predictions(model, data[VAL], config.workers.max_edges)[1]}
    start = time.perf_counter()
    if TEST in data:  # trials of a sweep have none
        predicted[TEST] = predictions(model, data[TEST], config.workers.max_edges)[1]
    test_seconds = time.perf_counter() - start
    return RegressionOutcome(
        history=history,
        selected_epoch=loop.selected_epoch if optimization.selected_by else len(history) - 1,
        predictions=predicted,
        state={name: tensor.cpu() for name, tensor in model.state_dict().items()},
        num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        test_seconds=test_seconds,
        hardware=context.hardware(),
    )
