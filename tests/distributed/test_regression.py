"""Loss and gradient of a regression on any number of workers, with different crystals each, equal those of one.

float64 and gloo, DistributedDataParallel as in training; the tolerance is that of ``test_objective.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from crysatom import distributed
from crysatom.names import DISTILLATION, LOSS, MAE
from crysatom.nn.bases import gaussian_centers
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.registry import build_predictor
from crysatom.ssl.encoder import Encoder
from crysatom.training.distillation import Distillation
from crysatom.training.normalizer import Normalizer
from crysatom.training.regression import Regression, predictions
from crysatom.vectors.controls import one_hot
from tests.gloo import run_workers
from tests.synthetic import random_batch, take, with_copies

TOLERANCE = 1e-9
SPLITS = {"even over 2": [6, 6], "uneven over 3": [7, 1, 4], "one idle of 3": [7, 5, 0]}
TARGETS = np.random.default_rng(0).normal(40, 10, 12)


def teacher_of(width: int) -> Encoder:
    features = (torch.rand(100, 20) < 0.3).float()
    shape = {"width": width, "num_layers": 2, "cutoff": 8.0, "learned_mask": False}
    return Encoder(features, torch.arange(1, 101), **shape).eval().requires_grad_(False)


def model_and_batch(criterion: Any, teacher_width: int = 0) -> tuple[Regression, Any]:
    torch.manual_seed(1)
    spec = PredictorSpec(width=7, num_layers=2, hidden_dim=6, train_vectors=True)
    predictor: Any = build_predictor(spec, one_hot()).double()
    predictor.centers = gaussian_centers(spec.cutoff, spec.basis_step)
    batch = with_copies(random_batch(12, dtype=torch.float64, max_atoms=5))
    batch.target, batch.crystal = torch.from_numpy(TARGETS), torch.arange(12)
    distillation = Distillation(teacher_of(teacher_width), 7, 0.4).double() if teacher_width else None
    normalizer = Normalizer(mean=40.0, std=10.0)
    return Regression(predictor, normalizer, np.arange(119.0), criterion, distillation), batch


def share_of(batch: Any, split: list[int]) -> Any:
    start = sum(split[: distributed.rank()])
    part = take(batch, start, start + split[distributed.rank()])
    chosen = slice(start, start + split[distributed.rank()])
    part.target, part.crystal = batch.target[chosen], batch.crystal[chosen]
    return part


def evaluate(criterion: Any, split: list[int] | None, teacher_width: int = 0) -> dict[str, Tensor]:
    """Return loss, error, parameter gradients and running statistics after one step's backward pass."""
    model, batch = model_and_batch(criterion, teacher_width)
    wrapped: torch.nn.Module = model
    if split is not None:
        batch = share_of(batch, split)
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    terms = wrapped(batch, 0)
    terms[LOSS].backward()
    gradients = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.requires_grad}
    statistics = {name: b for name, b in model.named_buffers() if "running" in name}
    return {name: value.detach() for name, value in terms.items()} | gradients | statistics


def require_equal(answers: list[dict[str, Any]], reference: dict[str, Tensor]) -> None:
    assert all(value.abs().max() > 0 for value in reference.values())
    for answer in answers:
        assert answer.keys() == reference.keys()
        for name, value in reference.items():
            difference = (torch.as_tensor(answer[name]) - value).abs().max()
            assert difference <= TOLERANCE * max(1e-3, float(value.abs().max())), (name, float(difference))


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("criterion", ["mae", "mse", "huber"])
def test_workers_equal_one_process(criterion: str, split: list[int]) -> None:
    require_equal(run_workers(evaluate, len(split), criterion, split), evaluate(criterion, None))


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("teacher_width", [7, 5], ids=["as wide", "through a map"])
def test_distilling_workers_equal_one_process(teacher_width: int, split: list[int]) -> None:
    reference = evaluate("mae", None, teacher_width)
    assert {LOSS, MAE, DISTILLATION} <= reference.keys()
    assert ("grad distillation.map.weight" in reference) == (teacher_width != 7)
    require_equal(run_workers(evaluate, len(split), "mae", split, teacher_width), reference)


class _OneBatch:
    """Loader with one batch; crystals are in reverse order of rank."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def epoch(self, epoch: int) -> Any:
        assert epoch == 0
        yield self.batch


def predict(split: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    model, batch = model_and_batch("mae")
    loader: Any = _OneBatch(batch if split is None else share_of(batch, split))
    return predictions(model, loader)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
def test_predictions_of_all_workers_come_together(split: list[int]) -> None:
    crystals, values = predict(None)
    assert crystals.tolist() == list(range(12))
    for found, predicted in run_workers(predict, len(split), split):
        assert found.tolist() == crystals.tolist()
        np.testing.assert_allclose(predicted, values, rtol=1e-9)
