"""A batch in micro-batches, in one process or several, has the loss, gradient and statistics of the whole batch.

Real crystals, float64. Tolerance: 1e-10 relative to the largest entry, a hundred times the effect of reordering sums of
at most 1e4 terms.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.config import PretrainConfig
from crysatom.config.downstream import default
from crysatom.graphs.batch import part_of
from crysatom.names import LOSS
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.registry import PREDICTORS, build_predictor
from crysatom.ssl.encoder import Encoder
from crysatom.ssl.node_level import NodeLevelObjective
from crysatom.ssl.objective import Objective
from crysatom.training.context import PlainContext
from crysatom.training.distillation import Distillation
from crysatom.training.loop import Loop
from crysatom.training.micro_batches import MicroBatches, edges_of, split
from crysatom.training.normalizer import Normalizer
from crysatom.training.pretrain import build, pretrain
from crysatom.training.regression import Regression, train_predictor
from crysatom.vectors.controls import one_hot
from crysatom.vectors.elements import element_features
from tests.distributed.test_objective import CONFIGS, SMALL
from tests.gloo import run_workers
from tests.graph_crystals import batch_of, prototypes, small
from tests.small_regressions import tiny as tiny_regression
from tests.small_regressions import volumes
from tests.small_runs import comparable, data_of, make_shards, one_thread, tiny  # noqa: F401

TOLERANCE = 1e-10
CASES = [*(f"ssl: {name}" for name in CONFIGS), *PREDICTORS, "distilled"]
LIMIT = 400
"""Edges: divides the crystals below into parts of which one is a single, larger crystal, and one is the last."""


def crystals_and_large() -> list[Any]:
    """12 small crystals and, among them, one of 40 atoms."""
    chosen = small(6, 12)[:12]
    large = next(c for c in prototypes() if len(c.atomic_numbers) == 40)
    return [*chosen[:5], large, *chosen[5:]]


def as_double(batch: Batch) -> Batch:
    for values in ("distance", "vector", "potential"):
        if values in batch:
            batch[values] = batch[values].double()
    return batch


def model_and_batch(case: str, width: int = 7) -> tuple[nn.Module, Batch]:
    torch.manual_seed(1)
    model: nn.Module
    if case.startswith("ssl: "):
        options: dict[str, Any] = {**SMALL, "embedding_dim": width, **CONFIGS[case.removeprefix("ssl: ")]}
        config = PretrainConfig.of(**options)
        features = (torch.rand(100, 20) < 0.2).float()
        model = (NodeLevelObjective if "objective" in options else Objective)(config, features, torch.arange(1, 101))
        return model.double(), as_double(batch_of(crystals_and_large(), config.graph))
    name = "cgcnn" if case == "distilled" else case
    spec = PredictorSpec(predictor=name, width=width, num_layers=2, hidden_dim=6, num_hidden=2, train_vectors=True)
    distillation = None
    if case == "distilled":
        features = (torch.rand(100, 20) < 0.3).float()
        teacher = Encoder(features, torch.arange(1, 101), width=5, num_layers=2, cutoff=8.0, learned_mask=False)
        distillation = Distillation(teacher.eval().requires_grad_(False), width, 0.4)
    predictor = build_predictor(spec, one_hot())
    model = Regression(predictor, Normalizer(mean=40.0, std=10.0), np.arange(119.0), "huber", distillation).double()
    batch = as_double(batch_of(crystals_and_large(), default(name).graph))
    batch.crystal = torch.arange(batch.num_graphs)
    batch.target = torch.from_numpy(np.random.default_rng(0).normal(40, 10, batch.num_graphs))
    return model, batch


def evaluate(
    case: str, max_edges: int, moved_from: int | None = None, shares: list[int] | None = None
) -> dict[str, Tensor]:
    """Return terms, gradient and running statistics of a step on this worker's share of the batch."""
    model, batch = model_and_batch(case)
    if shares is not None:
        start = sum(shares[: distributed.rank()])
        batch = part_of(batch, start, start + shares[distributed.rank()])
    parameters = [p for p in model.parameters() if p.requires_grad]

    def work(part: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = model(part, 3)
        terms[LOSS].backward()
        return {name: value.detach() for name, value in terms.items()}

    terms = MicroBatches(max_edges, moved_from).train(work, batch, parameters)
    gradients = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    statistics = {name: b for name, b in model.named_buffers() if "running" in name}
    return terms | gradients | statistics


def require_equal(answer: dict[str, Any], reference: dict[str, Tensor], rows: slice = slice(None)) -> None:
    assert answer.keys() == reference.keys()
    for name, value in reference.items():
        expected = value[rows] if name == "atoms" else value
        difference = (torch.as_tensor(answer[name]) - expected).abs()
        assert (difference <= TOLERANCE * max(1e-3, float(value.abs().max()))).all(), (name, float(difference.max()))


@pytest.mark.parametrize("moved_from", [None, 0], ids=["stay", "move to the host"])
@pytest.mark.parametrize("case", CASES)
def test_micro_batches_equal_the_whole_batch(case: str, moved_from: int | None) -> None:
    parts = split(model_and_batch(case)[1], LIMIT)
    assert 3 <= len(parts) <= 10
    alone = [part for part in parts if part.num_graphs == 1]
    assert any(sum(edges_of(part)) > LIMIT for part in alone)
    assert all(sum(edges_of(part)) <= LIMIT or part.num_graphs == 1 for part in parts)
    reference = evaluate(case, 0)
    assert all(torch.isfinite(value).all() for value in reference.values())
    require_equal(evaluate(case, LIMIT, moved_from), reference)


@pytest.mark.parametrize("case", CASES)
def test_workers_with_unequal_numbers_of_micro_batches_equal_one_process(case: str) -> None:
    shares = [9, 4]
    batch = model_and_batch(case)[1]
    bounds = [0, 9, 13]
    parts = [len(split(part_of(batch, *bounds[k : k + 2]), LIMIT)) for k in range(2)]
    assert parts[0] > parts[1] >= 1
    reference = evaluate(case, 0)
    for rank, answer in enumerate(run_workers(evaluate, 2, case, LIMIT, None, shares)):
        atoms = batch.ptr[bounds[rank : rank + 2]].tolist()
        require_equal(answer, reference, slice(*atoms))


@pytest.mark.parametrize("case", ["ssl: nt_xent", "ssl: masking and context", "cgcnn"])
def test_a_worker_may_be_idle_or_have_a_single_micro_batch(case: str) -> None:
    shares, bounds = [1, 0, 12], [0, 1, 1, 13]
    reference, ptr = evaluate(case, 0), model_and_batch(case)[1].ptr
    for rank, answer in enumerate(run_workers(evaluate, 3, case, LIMIT, None, shares)):
        require_equal(answer, reference, slice(*ptr[bounds[rank : rank + 2]].tolist()))


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), count=30)


def train(shards: str, folder: str, max_edges: int, options: dict[str, Any]) -> dict[str, Any]:
    """Train in float64; return the metrics of each epoch and the weights."""
    config = tiny(batch_size=9, epochs=3, gradient_clip=0.5, **options)
    data = data_of(config, Path(shards))
    for loader in (data.train, data.held_out):
        loader.tensors = dataclasses.replace(loader.tensors, distance=loader.tensors.distance.double())  # type: ignore[union-attr]
    model = build(config, element_features(config.encoder.node_features)).double()
    context = PlainContext(Path(folder))
    loop = Loop(model, data.train, data.held_out, config.optimization, context, max_edges=max_edges)
    history = comparable(loop.run())
    return {
        "metrics": np.array([list(epoch.values()) for epoch in history]),
        "weights": np.concatenate([p.detach().flatten().numpy() for p in model.parameters()]),
    }


@pytest.mark.parametrize("options", [{}, {"ssl_loss": "nt_xent", "ema_decay": 0.5}, {"objective": "masking_context"}])
def test_training_in_micro_batches_is_training(options: dict[str, Any], shards: Path, tmp_path: Path) -> None:
    reference = train(str(shards), str(tmp_path / "whole"), 0, options)
    answers = [train(str(shards), str(tmp_path / "one"), 60, options)]
    answers += run_workers(train, 2, str(shards), str(tmp_path / "two"), 60, options)
    for answer in answers:
        # Sums in another order, in float64; Adam divides gradients by their size, which enlarges the differences
        np.testing.assert_allclose(answer["metrics"], reference["metrics"], rtol=1e-9)
        assert np.abs(answer["weights"] - reference["weights"]).max() <= 1e-6 * np.abs(reference["weights"]).max()
    assert not np.array_equal(answers[0]["weights"], reference["weights"]), "nothing was divided"


@pytest.mark.parametrize("extraction", ["eval_mean", "algorithm_1"])
def test_vectors_and_figures_are_those_of_whole_batches(extraction: Any, shards: Path, tmp_path: Path) -> None:
    outcomes = []
    for max_edges in (0, 60):
        config = tiny(batch_size=9, epochs=1, lr=1e-6, extraction=extraction, max_edges=max_edges)
        outcomes.append(pretrain(config, data_of(config, shards), PlainContext(tmp_path / str(max_edges))))
    whole, parts = outcomes
    assert np.array_equal(parts.vectors.site_counts, whole.vectors.site_counts)
    np.testing.assert_allclose(parts.vectors.vectors, whole.vectors.vectors, atol=1e-5)
    assert whole.cross_correlation is not None
    np.testing.assert_allclose(parts.cross_correlation, whole.cross_correlation, atol=1e-4)


def test_predictions_are_those_of_whole_batches(tmp_path: Path) -> None:
    outcomes = []
    for max_edges in (0, 30):
        config = tiny_regression(epochs=2, lr=1e-5, max_edges=max_edges)
        task = volumes(tmp_path, config).task
        outcomes.append(train_predictor(config, task, PlainContext(tmp_path / str(max_edges))))
    whole, parts = outcomes
    for one, other in zip(comparable(parts.history), comparable(whole.history), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    for part, values in whole.predictions.items():
        np.testing.assert_allclose(parts.predictions[part], values, rtol=1e-5)
        assert not np.array_equal(parts.predictions[part], values), "nothing was divided"
