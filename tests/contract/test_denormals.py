"""No layer reads a denormal number: on Intel CPUs a product with one takes 50 times as long.

Every operand of a matrix product in the forward pass of every model is 0 or at least the smallest normal number.
Process-wide flushing, which hides denormal numbers from the arithmetic, is off here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.config.downstream import default
from crysatom.nn.bases import exp_or_zero
from crysatom.predictors.registry import PREDICTORS, build_predictor
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from crysatom.vectors.given import given_vectors
from tests.contract.test_predictors import tiny
from tests.graph_crystals import batch_of, small

TYPES = (torch.float32, torch.float64)


def denormal(x: Tensor) -> Tensor:
    return (x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)


class Operands(TorchDispatchMode):
    """Counts values, and denormal values, that matrix products read."""

    PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)

    def __init__(self) -> None:
        super().__init__()
        self.values = self.denormal = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.PRODUCTS:
            self.values += sum(x.numel() for x in args if isinstance(x, Tensor))
            self.denormal += sum(int(denormal(x).sum()) for x in args if isinstance(x, Tensor))
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _denormals_are_not_flushed() -> None:
    tiny = torch.tensor(torch.finfo(torch.float32).tiny)
    assert tiny / 2 > 0, "an earlier test left this thread with flushed denormals: the tests below would be blind"


def forward(model: nn.Module, batch: Batch, *more: int) -> Operands:
    with torch.no_grad(), Operands() as operands:
        model(batch, *more)
    return operands


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", PREDICTORS)
def test_predictors(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = build_predictor(tiny(name), given_vectors("onehot92")).to(dtype)
    operands = forward(model, batch_of(small(8, 40), default(name).graph))
    assert operands.values > 10_000
    assert operands.denormal == 0


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("recipe", ["default", "paper"])
@pytest.mark.parametrize("objective", ["crysatom", "masking_context"])
def test_pretraining(objective: str, recipe: str, dtype: torch.dtype) -> None:
    config = PretrainConfig.of(
        objective=objective, embedding_dim=16, num_layers=2, pad_short_lists=recipe == "paper", ties="truncate"
    )
    model = build(config, element_features("elements")).to(dtype)
    operands = forward(model, batch_of(small(8, 40), config.graph), 0)
    assert operands.values > 10_000
    assert operands.denormal == 0


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_exponential(dtype: torch.dtype) -> None:
    x = torch.linspace(1.1 * torch.log(torch.tensor(torch.finfo(dtype).tiny, dtype=dtype)).item(), 1, 100_001).to(dtype)
    plain, found = torch.exp(x), exp_or_zero(x)
    assert denormal(plain).any()
    assert not denormal(found).any()
    assert not denormal(found.square()).any()
    assert torch.equal(found[found > 0], plain[found > 0])
    assert exp_or_zero(torch.tensor([torch.nan, -torch.inf])).isnan().tolist() == [True, False]
