"""Normalization statistics with uneven and empty workers equal those of all rows (float64, rounding only)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crysatom import distributed
from crysatom.nn.normalization import ViewBatchNorm
from tests.gloo import run_workers

CHANNELS, VIEWS, ROWS = 3, 2, 8
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(VIEWS, ROWS, CHANNELS, dtype=torch.float64, generator=generator) * 2 + 3


def normalize(split: list[int]) -> dict[str, Tensor]:
    """Normalize this worker's rows of each view; differentiate the global scalar."""
    start = sum(split[: distributed.rank()])
    norm = ViewBatchNorm(CHANNELS).double()
    x = rows()[:, start : start + split[distributed.rank()]].flatten(0, 1).requires_grad_()
    out = norm(x, VIEWS)
    weight = torch.arange(ROWS, dtype=torch.float64)[start : start + split[distributed.rank()], None].repeat(VIEWS, 1)
    distributed.all_reduce_sum((out * weight).pow(3).sum()).backward()
    return {
        "out": out.detach().view(VIEWS, -1, CHANNELS),
        "gradient": x.grad.view(VIEWS, -1, CHANNELS) / distributed.world_size(),
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }


@pytest.mark.parametrize("split", [[4, 4], [7, 1], [1, 0, 7], [0, 0, 8]], ids=str)
def test_any_split_gives_the_same_normalization(split: list[int]) -> None:
    expected = normalize([ROWS])
    answers = [{k: torch.as_tensor(v) for k, v in a.items()} for a in run_workers(normalize, len(split), split)]
    for name in ("out", "gradient"):
        torch.testing.assert_close(torch.cat([a[name] for a in answers], dim=1), expected[name], **TOLERANCE)
    for name in ("mean", "variance"):
        for answer in answers:
            torch.testing.assert_close(answer[name], expected[name], **TOLERANCE)
