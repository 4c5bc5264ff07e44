"""Predictions and gradients on any number of workers, with different real crystals each, equal those of one process.

float64 and gloo; DistributedDataParallel as in training. Tolerance: 1e-9 relative to the largest entry,
a thousand times the effect of reordering sums of at most 1e4 float64 terms.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from crysatom import distributed
from crysatom.config.downstream import default
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.registry import PREDICTORS, build_predictor
from crysatom.vectors.table import AtomVectors
from tests.gloo import run_workers
from tests.graph_crystals import batch_of, small

TOLERANCE = 1e-9
SPLITS = {"even over 2": [6, 6], "uneven over 3": [7, 1, 4], "one idle of 3": [7, 5, 0]}


def evaluate(name: str, split: list[int] | None) -> dict[str, Tensor]:
    """Return loss, gradients and running statistics of one step, with trained vectors."""
    torch.manual_seed(1)
    spec = PredictorSpec(predictor=name, width=7, num_layers=2, hidden_dim=6, num_hidden=2, train_vectors=True)
    numbers = np.arange(1, 101)
    vectors = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    model = build_predictor(spec, AtomVectors(atomic_numbers=numbers, vectors=vectors)).double()
    crystals, targets = small(6, 12)[:12], torch.linspace(-1, 1, 12).double()
    wrapped: torch.nn.Module = model
    if split is not None:
        start = sum(split[: distributed.rank()])
        stop = start + split[distributed.rank()]
        crystals, targets = crystals[start:stop], targets[start:stop]
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    batch = batch_of(crystals, default(name).graph)
    for values in ("distance", "vector", "potential"):
        if values in batch:
            batch[values] = batch[values].double()
    loss = distributed.all_reduce_sum((wrapped(batch) - targets).square().sum()) / 12 + model.penalty()
    loss.backward()
    gradients = {f"grad {n}": p.grad for n, p in model.named_parameters() if p.requires_grad}
    norms = {n.removesuffix(".weight") for n, p in model.named_parameters() if p.requires_grad}
    statistics = {n: b for n, b in model.named_buffers() if "running" in n and n.rpartition(".")[0] in norms}
    return {"loss": loss.detach()} | gradients | statistics


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("name", PREDICTORS)
def test_workers_equal_one_process(name: str, split: list[int]) -> None:
    reference = evaluate(name, None)
    assert all(value.abs().max() > 0 for value in reference.values())
    for answer in run_workers(evaluate, len(split), name, split):
        assert answer.keys() == reference.keys()
        for key, value in reference.items():
            difference = (torch.as_tensor(answer[key]) - value).abs().max()
            assert difference <= TOLERANCE * max(1e-3, float(value.abs().max())), (key, float(difference))
