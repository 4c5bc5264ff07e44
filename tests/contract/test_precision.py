"""bfloat16 products: every model and objective computes nearly the same with them, and learns.

bfloat16 has 8 significant bits: rounding changes a number by up to 2^-9, or 0.2 %. Errors of the terms of a product are
independent, so that a sum of products has about that relative error. A few layers add up to about 1 % of the spread of
the predictions; tolerances are three times as large.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from crysatom import distributed
from crysatom.config import PretrainConfig
from crysatom.config.downstream import default
from crysatom.names import BF16, FLOAT32, LOSS, Precision
from crysatom.nn.products import Linear, linear, products_in
from crysatom.predictors.registry import PREDICTORS, build_predictor
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from crysatom.vectors.given import given_vectors
from tests.contract.test_predictors import targets_of, tiny
from tests.gloo import run_workers
from tests.graph_crystals import batch_of, small
from tests.synthetic import take

LOSS_TOLERANCE = 0.03
ALIGNED = 0.99
"""Least cosine between the gradients with both precisions."""

WORKERS_TOLERANCE = 2e-3
"""Between one process and two workers, relative to the loss: statistics differ in the last bits of float32, which may
round some numbers to the other neighbor in bfloat16."""

Evaluate = Callable[[], Tensor]


def prediction(name: str) -> tuple[nn.Module, Evaluate]:
    torch.manual_seed(0)
    crystals = small(8, 24)
    model = build_predictor(tiny(name, width=32, hidden_dim=32), given_vectors("onehot92"))
    batch, targets = batch_of(crystals, default(name).graph), targets_of(crystals)
    return model, lambda: (model(batch) - targets).square().mean()


def pretraining(objective: str) -> tuple[nn.Module, Evaluate]:
    config = PretrainConfig.of(objective=objective, embedding_dim=32, num_layers=2, projection_dim=8)
    model = build(config, element_features("elements"))
    batch = batch_of(small(8, 24), config.graph)

    def loss() -> Tensor:
        value: Tensor = model(batch, 0)[LOSS]
        return value

    return model, loss


CASES: dict[str, Callable[[], tuple[nn.Module, Evaluate]]] = {
    **{name: lambda name=name: prediction(name) for name in PREDICTORS},  # type: ignore[misc]
    **{name: lambda name=name: pretraining(name) for name in ("crysatom", "masking_context")},  # type: ignore[misc]
}


def evaluated(model: nn.Module, loss: Evaluate, precision: Precision) -> tuple[float, Tensor]:
    """Return the loss and its gradient."""
    model.zero_grad()
    with products_in(precision):
        value = loss()
    value.backward()
    assert value.dtype == torch.float32
    return value.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_nearly_those_of_float32(case: str) -> None:
    model, loss = CASES[case]()
    (exact, expected), (rounded, found) = (evaluated(model, loss, precision) for precision in (FLOAT32, BF16))
    assert exact != rounded, "no layer uses crysatom.nn.products: build hidden layers of its Linear, or call its linear"
    assert rounded == pytest.approx(exact, rel=LOSS_TOLERANCE)
    assert float(torch.cosine_similarity(expected, found, dim=0)) > ALIGNED
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(b.dtype != torch.bfloat16 for b in model.buffers())


@pytest.mark.parametrize("case", CASES)
def test_training_lowers_the_loss(case: str) -> None:
    model, loss = CASES[case]()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(20):
        losses.append(evaluated(model, loss, BF16)[0])
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def global_loss(workers: int) -> dict[str, Tensor]:
    """Return loss and gradient of a batch over a number of workers."""
    torch.manual_seed(0)
    config = PretrainConfig.of(embedding_dim=32, num_layers=2, projection_dim=8)
    model = build(config, element_features("elements"))
    batch = batch_of(small(8, 24), config.graph)
    if workers > 1:
        cuts = (0, 15, 24)
        batch = take(batch, *cuts[distributed.rank() :][:2])
    with products_in(BF16):
        value = model(batch, 0)[LOSS]
    value.backward()
    grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {LOSS: value.detach(), "grad": distributed.all_reduce_sum(grads) / workers}


def test_two_workers_compute_what_one_does() -> None:
    expected = global_loss(1)
    for answer in run_workers(global_loss, 2, 2):
        assert float(answer[LOSS]) == pytest.approx(float(expected[LOSS]), rel=WORKERS_TOLERANCE)
        assert float(torch.cosine_similarity(torch.as_tensor(answer["grad"]), expected["grad"], dim=0)) > 0.999


def test_the_product() -> None:
    x, weight, bias = torch.randn(3, 5, 40), torch.randn(7, 40), torch.randn(7)
    with products_in(BF16):
        found = linear(x, weight, bias)
        with products_in(FLOAT32):
            assert torch.equal(linear(x, weight, bias), nn.functional.linear(x, weight, bias))
        assert torch.equal(linear(x.double(), weight.double()), x.double() @ weight.double().T), "float64 is kept"
    exact = x.bfloat16().double() @ weight.bfloat16().double().T
    torch.testing.assert_close((found - bias).double(), exact, rtol=2**-8, atol=1e-5)
    layer = Linear(40, 7)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias)), "the block has ended"


def test_the_gradient_of_the_product() -> None:
    x, weight = torch.randn(3, 5, 40, requires_grad=True), torch.randn(7, 40, requires_grad=True)
    with products_in(BF16):
        found = torch.autograd.grad(linear(x, weight).square().sum(), (x, weight))
    expected = torch.autograd.grad(nn.functional.linear(x, weight).square().sum(), (x, weight))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.01
