"""Property prediction as every worker runs it: build, train, predict."""

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
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.predictors.registry import build_predictor
from crysatom.predictors.transfer import start_from_encoder
from crysatom.training.context import Context, Metrics
from crysatom.training.distillation import Distillation
from crysatom.training.encoder_files import PretrainedEncoder
from crysatom.training.loaders import Loader, ResidentLoader
from crysatom.training.loop import Loop, Selection
from crysatom.training.normalizer import Normalizer
from crysatom.vectors.table import AtomVectors

Array = NDArray[Any]

EVALUATION_BATCH = 256
"""Crystals in a batch that is only predicted: whatever it is, the predictions are the same."""


class Regression(nn.Module):
    """A predictor with what makes its output a property: normalization, and a reference per element if there is one.

    Sums over the global batch are taken in float64 and by the rule of :mod:`crysatom.distributed`.

    Args:
        predictor: Its outputs are normalized.
        normalizer: Of the training targets less the reference.
        reference: ``(119,)``, what each element contributes, by atomic number; None: nothing.
        criterion: Loss of the normalized target.
        distillation: Part of the training loss, by a pretrained teacher; None: no part. Not part of the model that
            is kept.

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

        In training mode the loss of a distilled predictor is (1 - w) of its own plus w of the distillation's.

        Args:
            batch: With ``target`` (B,).
            epoch: Of no importance here.

        """
        target = (batch.target - self.baseline(batch)) / self.std
        atoms = self.predictor.atoms(batch)
        error: Tensor = self.predictor.readout(atoms, batch).double() - target
        count = error.new_tensor(len(error))
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
        """Return what is predicted of B crystals before anything is learned, ``(B,)``."""
        return pool(self.reference[batch.atomic_numbers][:, None], batch)[:, 0] + self.mean

    def _loss(self, error: Tensor) -> Tensor:
        if self.criterion == "mae":
            return error.abs()
        if self.criterion == "mse":
            return error.square()
        return F.huber_loss(error, torch.zeros_like(error), reduction="none")


@torch.no_grad()
def predictions(model: Regression, loader: Loader) -> tuple[Array, Array]:
    """Predict all crystals of a loader with targets, in evaluation mode, each worker its share.

    Returns:
        ``(n,)`` indices of the crystals, ascending, and their ``(n,)`` float64 predictions; the same on all workers.

    """
    model.eval()
    crystals, values = [], []
    for batch in loader.epoch(0):
        crystals.append(distributed.all_gather_rows(batch.crystal))
        values.append(distributed.all_gather_rows(model.predict(batch)))
    indices, predicted = torch.cat(crystals).cpu().numpy(), torch.cat(values).cpu().numpy()
    order = np.argsort(indices)
    return indices[order], predicted[order]


@dataclass(frozen=True, kw_only=True)
class RegressionTask:
    """All that decides what is learned, beside the configuration; can be sent to workers.

    Attributes:
        shards: Folder of graph shards with M crystals.
        labels: ``(M,)`` float64, in the unit of the property; NaN for crystals without one.
        parts: Indices of the crystals of ``train``, ``val`` and, where it may be read, ``test``, ascending.
        vectors: As the predictor is to see them.
        normalizer: Of the training targets, less the reference.
        reference: ``(119,)``, or None.
        init: Encoder whose weights the predictor starts from, or None.
        teacher: Encoder that it is distilled from, or None.
        start: State of a trained model that the training starts from, or None. Vectors, normalizer and reference are
            then that model's.

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
    """What a training yields; equal on all workers but for their hardware and its speed.

    Attributes:
        history: Metrics of each epoch.
        selected_epoch: The epoch that the model is of.
        predictions: Of the crystals of ``val`` and ``test``, in the order of the task's parts.
        state: The model's tensors, on the CPU.
        num_parameters: Numbers of the model that were trained.
        test_seconds: Time that the prediction of the test crystals took on this worker.
        hardware: Of the workers, one line.

    """

    history: list[dict[str, float]]
    selected_epoch: int
    predictions: dict[str, Array]
    state: dict[str, Tensor]
    num_parameters: int
    test_seconds: float
    hardware: str


def spec_of(config: DownstreamConfig) -> PredictorSpec:
    """Return the predictor that a configuration asks for.

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

    Pretrained weights replace some; the others are those that it would have without.
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
        model.load_state_dict(dict(task.start), strict=distillation is None)  # which has weights of its own
    return model


def labeled_data(config: DownstreamConfig, task: RegressionTask, device: torch.device) -> dict[str, ResidentLoader]:
    """Load the graphs into memory; return a loader for each part of the split."""
    arrays = load(task.shards)
    tensors = condensed(GraphTensors.of(arrays)).to(device)
    targets = torch.tensor(task.labels, device=device)
    return {
        part: ResidentLoader(
            tensors,
            crystals,
            material_ids=arrays.material_ids,
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
) -> RegressionOutcome:
    """Train on this worker's share of the training crystals; at the end, and only then, predict the test crystals.

    Args:
        config: With one seed.
        task: What to learn; where its parts have no test crystals, none are predicted.
        context: Where it runs.
        watch: Called after each epoch with its metrics; True ends the training.

    Raises:
        NonFiniteLossError: If the loss of a batch is not a number.

    """
    data = labeled_data(config, task, context.device)
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
        measured=VAL,
        watch=watch,
    )
    history = loop.run()
    model.distillation = None
    predicted = {VAL: predictions(model, data[VAL])[1]}
    start = time.perf_counter()
    if TEST in data:  # trials of a sweep have none
        predicted[TEST] = predictions(model, data[TEST])[1]
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
