"""Normalization over views against torch's, and Gaussians against their formula. float64, tolerance of rounding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from crysatom.nn.bases import gaussian_basis, gaussian_centers
from crysatom.nn.edges import Edges
from crysatom.nn.gated_conv import GatedConv
from crysatom.nn.normalization import ViewBatchNorm, merge_statistics

TOLERANCE = {"rtol": 1e-11, "atol": 1e-11}
CHANNELS, ROWS = 4, 7


def pair(views: int) -> tuple[ViewBatchNorm, list[nn.BatchNorm1d]]:
    ours = ViewBatchNorm(CHANNELS).double()
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.normal_()
    theirs = [nn.BatchNorm1d(CHANNELS).double() for _ in range(views)]
    for norm in theirs:
        norm.weight, norm.bias = ours.weight, ours.bias
    return ours, theirs


@pytest.mark.parametrize("views", [1, 3])
def test_each_view_is_normalized_as_torch_does(views: int) -> None:
    ours, theirs = pair(views)
    x = (torch.randn(views * ROWS, CHANNELS, dtype=torch.float64) * 3 + 5).requires_grad_()
    expected = torch.cat([norm(part) for norm, part in zip(theirs, x.view(views, ROWS, -1), strict=True)])
    out = ours(x, views)
    torch.testing.assert_close(out, expected, **TOLERANCE)
    cotangent = torch.randn_like(out)
    leaves = [x, ours.weight, ours.bias]
    for one, two in zip(
        torch.autograd.grad(out, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(one, two, **TOLERANCE)


def test_running_statistics_follow_the_first_view_and_are_used_in_evaluation() -> None:
    ours, theirs = pair(2)
    for _ in range(5):
        x = torch.randn(2 * ROWS, CHANNELS, dtype=torch.float64) * 2 + 1
        ours(x, 2)
        theirs[0](x[:ROWS])
    torch.testing.assert_close(ours.running_mean, theirs[0].running_mean, **TOLERANCE)
    # torch tracks the unbiased variance; ours is the variance that normalizes the batch.
    decay, ratio = 0.9**5, (ROWS - 1) / ROWS
    torch.testing.assert_close(ours.running_var - decay, ratio * (theirs[0].running_var - decay), **TOLERANCE)
    ours.eval(), theirs[0].eval()
    theirs[0].running_var.copy_(ours.running_var)
    x = torch.randn(ROWS, CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(ours(x, 1), theirs[0](x), **TOLERANCE)


def test_derivatives_match_finite_differences() -> None:
    norm = ViewBatchNorm(CHANNELS).double()
    x = torch.randn(2 * ROWS, CHANNELS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: norm(x, 2), x)


def test_statistics_of_large_offsets_do_not_cancel() -> None:
    """Values of 1e4 with a deviation of 1 in float32: naive sums of squares would lose the variance."""
    norm = ViewBatchNorm(1)
    x = torch.randn(4096, 1) + 1e4
    out = norm(x, 1)
    assert abs(out.mean().item()) < 1e-2
    assert out.std().item() == pytest.approx(1, abs=1e-2)


def test_merging_one_worker_changes_nothing() -> None:
    x = torch.randn(9, 3, dtype=torch.float64)
    count, mean, variance = merge_statistics(
        torch.tensor([9.0], dtype=torch.float64), x.mean(0)[None], (x - x.mean(0)).square().sum(0)[None]
    )
    assert count.tolist() == [9]
    torch.testing.assert_close(mean[0], x.mean(0), **TOLERANCE)
    torch.testing.assert_close(variance[0], x.var(0, unbiased=False), **TOLERANCE)


def test_gaussians_are_those_of_the_formula() -> None:
    centers = gaussian_centers(8.0)
    assert len(centers) == 41
    assert centers[-1].item() == pytest.approx(8.0, abs=1e-12)
    distances = [0.0, 0.1, 2.35, 7.99, 8.0, 9.0]
    basis = gaussian_basis(torch.tensor(distances), centers)
    assert basis.dtype == torch.float64
    for row, d in zip(basis.tolist(), torch.tensor(distances).double().tolist(), strict=True):
        for k, value in enumerate(row):
            assert value == pytest.approx(math.exp(-(((d - 0.2 * k) / 0.2) ** 2)), rel=1e-9, abs=1e-300)


def naive_convolution(layer: GatedConv, h: torch.Tensor, edges: Edges) -> torch.Tensor:
    """The published layer: a linear map of [center, neighbor, edge] for every edge, then torch's normalizations."""
    width = layer.width
    inputs = torch.cat([h[edges.center], h[edges.neighbor], edges.basis[edges.row]], dim=1)
    u = layer.fc_full(inputs)
    norm = nn.functional.batch_norm
    y = norm(u, None, None, layer.bn1.weight, layer.bn1.bias, training=True)
    messages = torch.sigmoid(y[:, :width]) * nn.functional.softplus(y[:, width:])
    total = torch.zeros_like(h).index_add(0, edges.center, messages)
    return nn.functional.softplus(h + norm(total, None, None, layer.bn2.weight, layer.bn2.bias, training=True))


def test_convolution_is_the_published_layer() -> None:
    degree = torch.tensor([3, 0, 5, 2])
    center = torch.arange(4).repeat_interleave(degree)
    edges = Edges(
        num_views=1,
        num_atoms=4,
        edge_ptr=nn.functional.pad(degree.cumsum(0), (1, 0)),
        center=center,
        neighbor=torch.randint(4, (10,)),
        row=torch.arange(10),
        basis=torch.rand(10, 6, dtype=torch.float64),
    )
    layer = GatedConv(5, 6).double()
    h = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    leaves = [h, layer.fc_full.weight, layer.bn1.weight, layer.bn1.bias, layer.bn2.weight, layer.bn2.bias]
    out, expected = layer(h, edges), naive_convolution(layer, h, edges)
    torch.testing.assert_close(out, expected, **TOLERANCE)
    cotangent = torch.randn_like(out)
    for one, two in zip(
        torch.autograd.grad(out, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(one, two, **TOLERANCE)


def test_the_bias_that_normalization_removes_is_not_trained() -> None:
    layer = GatedConv(5, 6)
    assert {name for name, p in layer.named_parameters() if not p.requires_grad} == {"fc_full.bias"}
