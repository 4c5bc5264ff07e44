"""No basis of any model has a denormal value: on Intel CPUs a product with one takes 50 times as long.

No operation reads the denormal result of an exponential, except the one that replaces it by zero. Process-wide
flushing, which hides denormal numbers from the arithmetic, is off here.
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


class Exponentials(TorchDispatchMode):
    """Records the operations that read an exponential with denormal values."""

    def __init__(self) -> None:
        super().__init__()
        self.denormal: list[Tensor] = []
        self.readers: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.threshold.default:
            self.readers += [str(func) for arg in args for found in self.denormal if arg is found]
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.exp.default and denormal(result).any():
            self.denormal.append(result)
        return result


@pytest.fixture(autouse=True)
def _denormals_are_not_flushed() -> None:
    tiny = torch.tensor(torch.finfo(torch.float32).tiny)
    assert tiny / 2 > 0, "an earlier test left this thread with flushed denormals: the tests below would be blind"


def readers(model: nn.Module, batch: Batch, *more: int) -> list[str]:
    """Return the operations that read a denormal exponential in the forward pass."""
    with torch.no_grad(), Exponentials() as exponentials:
        model(batch, *more)
    return exponentials.readers


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", PREDICTORS)
def test_predictors(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = build_predictor(tiny(name), given_vectors("onehot92")).to(dtype)
    assert not readers(model, batch_of(small(8, 40), default(name).graph))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("recipe", ["default", "paper"])
@pytest.mark.parametrize("objective", ["crysatom", "masking_context"])
def test_pretraining(objective: str, recipe: str, dtype: torch.dtype) -> None:
    published = {"pad_short_lists": True, "ties": "truncate"} if recipe == "paper" else {}
    config = PretrainConfig.of(objective=objective, embedding_dim=16, num_layers=2, **published)
    model = build(config, element_features("elements")).to(dtype)
    assert not readers(model, batch_of(small(8, 40), config.graph), 0)


def test_a_plain_exponential_is_told() -> None:
    class Plain(nn.Module):
        def forward(self, batch: Batch) -> Tensor:
            return torch.exp(-((batch.distance[:, None] - torch.arange(41) / 5) * 5).square()) @ torch.ones(41, 2)

    assert readers(Plain(), batch_of(small(8, 40), default("cgcnn").graph)) == ["aten.mm.default"]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_exponential(dtype: torch.dtype) -> None:
    x = torch.linspace(1.1 * torch.log(torch.tensor(torch.finfo(dtype).tiny, dtype=dtype)).item(), 1, 100_001).to(dtype)
    plain, found = torch.exp(x), exp_or_zero(x)
    assert denormal(plain).any()
    assert not denormal(found).any()
    assert torch.equal(found[found > 0], plain[found > 0])
    assert exp_or_zero(torch.tensor([torch.nan, -torch.inf])).isnan().tolist() == [True, False]
