"""A batch in micro-batches, in one process or several, has the loss, gradient and statistics of the whole batch.

Real crystals, float64. Tolerance: 1e-10 relative to the largest entry, a hundred times the effect of reordering sums of
at most 1e4 terms.
"""

from __future__ import annotations

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
from crysatom.training.distillation import Distillation
from crysatom.training.micro_batches import MicroBatches, average_gradients, edges_of, split
from crysatom.training.normalizer import Normalizer
from crysatom.training.regression import Regression
from crysatom.vectors.controls import one_hot
from tests.distributed.test_objective import CONFIGS, SMALL
from tests.gloo import run_workers
from tests.graph_crystals import batch_of, prototypes, small

TOLERANCE = 1e-10
CASES = [*(f"ssl: {name}" for name in CONFIGS), *PREDICTORS, "distilled"]
LIMIT = 400
"""Edges: divides the crystals below into parts of which one is a single, larger crystal, and one is the last."""


def crystals_and_large() -> list[Any]:
    """12 small crystals and, among them, one of 40 atoms."""
    chosen = small(6, 12)[:12]
    large = next(c for c in prototypes() if len(c.atomic_numbers) == 40)  # noqa: PLR2004
    return [*chosen[:5], large, *chosen[5:]]


def as_double(batch: Batch) -> Batch:
    for values in ("distance", "vector", "potential"):
        if values in batch:
            batch[values] = batch[values].double()
    return batch


def model_and_batch(case: str) -> tuple[nn.Module, Batch]:
    torch.manual_seed(1)
    model: nn.Module
    if case.startswith("ssl: "):
        options: dict[str, Any] = {**SMALL, **CONFIGS[case.removeprefix("ssl: ")]}
        config = PretrainConfig.of(**options)
        features = (torch.rand(100, 20) < 0.2).float()
        model = (NodeLevelObjective if "objective" in options else Objective)(config, features, torch.arange(1, 101))
        return model.double(), as_double(batch_of(crystals_and_large(), config.graph))
    name = "cgcnn" if case == "distilled" else case
    spec = PredictorSpec(predictor=name, width=7, num_layers=2, hidden_dim=6, num_hidden=2, train_vectors=True)
    distillation = None
    if case == "distilled":
        features = (torch.rand(100, 20) < 0.3).float()
        teacher = Encoder(features, torch.arange(1, 101), width=5, num_layers=2, cutoff=8.0, learned_mask=False)
        distillation = Distillation(teacher.eval().requires_grad_(False), 7, 0.4)
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
        difference = (torch.as_tensor(answer[name]) - expected).abs().max()
        assert difference <= TOLERANCE * max(1e-3, float(expected.abs().max())), (name, float(difference))


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
