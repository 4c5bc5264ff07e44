"""Pretraining as it runs on every worker: build, train, extract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.config.pretraining import ALGORITHM_1, DECODER
from crysatom.graphs.batch import GraphTensors
from crysatom.graphs.shards import is_held_out, load
from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.nn.products import products_in, slow_precision
from crysatom.ssl.node_level import NodeLevelObjective
from crysatom.ssl.objective import Objective
from crysatom.training.context import Context, Metrics
from crysatom.training.element_table import decoded_vectors
from crysatom.training.encoder_files import PretrainedEncoder
from crysatom.training.loaders import Loader, ResidentLoader, SharedLoader
from crysatom.training.loop import Loop, Selection
from crysatom.training.micro_batches import MicroBatches, split
from crysatom.vectors.elements import ElementFeatures, element_features
from crysatom.vectors.extract import ElementMoments, LastBatchTable
from crysatom.vectors.table import AtomVectors

Watch = Callable[[Metrics, Callable[[], AtomVectors]], bool]


@dataclass(frozen=True, kw_only=True)
class PretrainData:
    """The loaders of a pretraining.

    Attributes:
        train: Training crystals.
        held_out: Crystals to evaluate; None if there are none.
        everything: All crystals, for the extraction.

    """

    train: SharedLoader
    held_out: Loader | None
    everything: Loader


@dataclass(frozen=True, kw_only=True)
class PretrainOutcome:
    """Results of a pretraining; equal on all workers.

    Attributes:
        vectors: One vector per element.
        encoder: Encoder that the vectors come from.
        history: Metrics of each epoch.
        selected_epoch: Epoch that the vectors come from.
        cross_correlation: ``(d, d)`` of a batch of all crystals for Barlow Twins, else None.
        hardware: The workers' hardware, one line.

    """

    vectors: AtomVectors
    encoder: PretrainedEncoder
    history: list[dict[str, float]]
    selected_epoch: int
    cross_correlation: np.ndarray | None
    hardware: str


def resident_data(config: PretrainConfig, folder: Path, device: torch.device) -> PretrainData:
    """Load all graphs of a shard folder into memory.

    Raises:
        ValueError: If fewer than two training crystals are left.

    """
    arrays = load(folder)
    tensors = GraphTensors.of(arrays).to(device)
    held_out = is_held_out(arrays.material_keys, config.holdout_fraction)
    if (~held_out).sum() < 2:
        raise ValueError(
            f"{held_out.sum()} of {len(held_out)} crystals are held out, too few are left to train on; "
            "lower --holdout-fraction"
        )

    def loader(crystals: np.ndarray) -> ResidentLoader:
        return ResidentLoader(
            tensors,
            np.flatnonzero(crystals),
            material_ids=arrays.material_ids,
            batch_size=config.optimization.batch_size,
            tail=config.optimization.tail,
            seed=config.seed,
        )

    return PretrainData(
        train=loader(~held_out),
        held_out=loader(held_out) if held_out.any() else None,
        everything=loader(np.ones_like(held_out)),
    )


def build(config: PretrainConfig, features: ElementFeatures) -> Objective | NodeLevelObjective:
    """Return the model with its seeded initial weights, equal on every machine."""
    torch.manual_seed(config.seed)
    objective = Objective if config.loss.objective == "crysatom" else NodeLevelObjective
    return objective(config, torch.from_numpy(features.features), torch.from_numpy(features.atomic_numbers))


def pretrain(
    config: PretrainConfig, data: PretrainData, context: Context, watch: Watch | None = None
) -> PretrainOutcome:
    """Train on this worker's share of the data and extract the element vectors.

    Args:
        config: What to train.
        data: Crystals to train on.
        context: Where it runs.
        watch: Called after each epoch with its metrics, which it may extend, and a function that extracts the current
            vectors. All workers call both together. Returning True stops the training.

    Raises:
        NonFiniteLossError: If the loss or the gradient of a batch is not finite.

    """
    precision = config.optimization.precision
    if warning := slow_precision(precision, context.device.type):
        context.log(warning)
    with products_in(precision):
        return _pretrain(config, data, context, watch)


def _pretrain(config: PretrainConfig, data: PretrainData, context: Context, watch: Watch | None) -> PretrainOutcome:
    features = element_features(config.encoder.node_features)
    model = build(config, features).to(context.device)
    recorder = Algorithm1Recorder(config.encoder.embedding_dim, context.device)
    published = config.extraction == ALGORITHM_1

    def vectors() -> AtomVectors:
        if published:
            return recorder.to_vectors()
        if config.extraction == DECODER:
            assert isinstance(model, Objective), "checked by the configuration"
            return decoded_vectors(model, data.everything, config.optimization.epochs, config.workers.max_edges)
        return extract(model, data.everything, config.workers.max_edges)

    loop = Loop(
        model,
        data.train,
        data.held_out,
        config.optimization,
        context,
        selection=Selection(by=config.selected_by),
        balance=config.workers.balance,
        max_edges=config.workers.max_edges,
        after_step=recorder.record if published else None,
        extra=recorder.tensors if published else None,
        watch=None if watch is None else lambda metrics: watch(metrics, vectors),
    )
    history = loop.run()
    matrix = None
    if isinstance(model, Objective) and config.loss.ssl_loss == "barlow_twins":
        micro_batches = MicroBatches(config.workers.max_edges)
        parts = micro_batches.split(next(iter(data.everything.epoch(0))))
        correlation = partial(model.cross_correlation, epoch=config.optimization.epochs)
        matrix = micro_batches.each(correlation, parts)[0].cpu().numpy()
    elements = torch.from_numpy(features.features), torch.from_numpy(features.atomic_numbers)
    return PretrainOutcome(
        vectors=vectors(),
        encoder=PretrainedEncoder.of(model.encoder, config.graph, *elements),
        history=history,
        selected_epoch=loop.selected_epoch,
        cross_correlation=matrix,
        hardware=context.hardware(),
    )


@torch.no_grad()
def extract(model: Objective | NodeLevelObjective, everything: Loader, max_edges: int = 0) -> AtomVectors:
    """Return each element's vector: the mean over all its sites, in evaluation mode, merged over workers.

    Args:
        model: Trained model.
        everything: All crystals.
        max_edges: Edges above which a share is computed in parts; 0: never.

    """
    model.eval()
    moments = ElementMoments.empty(model.config.encoder.embedding_dim, next(model.parameters()).device)
    for batch in everything.epoch(0):
        for part in split(batch, max_edges):
            moments = moments.update(model.atom_vectors(part), part.atomic_numbers)
    return moments.merge_across_workers().to_vectors({})


class Algorithm1Recorder:
    """The published extraction: a table that every batch overwrites, emptied at the start of each epoch.

    Args:
        dim: D, length of a vector.
        device: Device of the vectors.

    """

    def __init__(self, dim: int, device: torch.device) -> None:
        self.tensors: dict[str, Tensor] = {
            "count": torch.zeros(MAX_ATOMIC_NUMBER, dtype=torch.float64, device=device),
            "vectors": torch.zeros(MAX_ATOMIC_NUMBER, dim, dtype=torch.float64, device=device),
        }

    def record(self, batch: Batch, terms: dict[str, Any], first: bool) -> None:
        """Record a batch, with its vectors from before the weight update; an epoch's first batch empties the table."""
        if first:
            for tensor in self.tensors.values():
                tensor.zero_()
        table = self._table().update(terms["atoms"], batch.atomic_numbers)
        self.tensors["count"].copy_(table.count)
        self.tensors["vectors"].copy_(table.vectors)

    def to_vectors(self) -> AtomVectors:
        """Return the table."""
        return self._table().to_vectors({})

    def _table(self) -> LastBatchTable:
        return LastBatchTable(count=self.tensors["count"], vectors=self.tensors["vectors"])
