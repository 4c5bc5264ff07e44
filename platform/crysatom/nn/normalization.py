r"""Batch normalization over all workers, with separate statistics for each view.

``torch.nn.SyncBatchNorm`` needs a GPU and has no views. Here rows are the atoms of V views, one after the other. The
mean and variance of a view are those of its rows on all workers together, however many each worker holds. Gradients
follow the rule of :mod:`crysatom.distributed`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crysatom import distributed


def merge_statistics(count: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge each worker's statistics (Chan, Golub & LeVeque 1979).

    Args:
        count: Rows of each view on this worker, ``(V,)`` float64.
        mean: Mean of these rows, ``(V, C)`` float64.
        squares: Summed squared deviations from that mean, ``(V, C)`` float64.

    Returns:
        Count ``(V,)``, mean and biased variance ``(V, C)`` over all workers.

    """
    n = count[:, None]
    packed = distributed.all_reduce_sum(torch.cat([n, n * mean, squares + n * mean.square()], dim=1))
    n = packed[:, :1].clamp(min=1)
    total, total_squares = packed[:, 1:].chunk(2, dim=1)
    mean = total / n
    return packed[:, 0], mean, (total_squares / n - mean.square()).clamp(min=0)


class _Normalize(torch.autograd.Function):
    """(x - mean) / std of each view, with the gradient through mean and std."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = weight.sum(1).double()
        weight_row, number = weight[:, None], rows.clamp(min=1)[:, None]
        local_mean = (weight_row @ x)[:, 0].double() / number
        rest = x - local_mean.to(x.dtype)[:, None]
        error = (weight_row @ rest)[:, 0].double() / number  # corrects the float32 running sum: 1e-5 of the spread
        local_mean = local_mean.to(x.dtype).double() + error
        squares = (weight_row @ rest.square())[:, 0].double() - rows[:, None] * error.square()
        count, mean, variance = merge_statistics(rows, local_mean, squares)
        rstd = torch.rsqrt(variance + eps)
        normalized = (x - mean.to(x.dtype)[:, None]) * rstd.to(x.dtype)[:, None]
        ctx.save_for_backward(normalized, rstd, count, weight)
        ctx.mark_non_differentiable(mean, variance)
        return normalized, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0]
        normalized, rstd, count, weight = ctx.saved_tensors
        sums = torch.stack([grad.sum(1), (grad * normalized).sum(1)]).double()
        k, kx = (distributed.all_reduce_sum(sums) / count.clamp(min=1)[:, None]).to(grad.dtype)[..., None, :]
        return (grad - weight[..., None] * (k + normalized * kx)) * rstd.to(grad.dtype)[:, None], None, None


class ViewBatchNorm(nn.Module):
    """Batch normalization of ``(V * N, C)`` rows, per view, over all workers.

    Args:
        num_channels: C.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.

    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor, num_views: int, weight: Tensor | None = None, *, track: bool = True) -> Tensor:
        """Normalize rows, in evaluation mode by the running statistics.

        Args:
            x: ``(V * N, C)``.
            num_views: V.
            weight: ``(V * N,)`` number of rows that each represents; None: one.
            track: Update the running statistics from the first view.

        """
        if self.training:
            views = x.view(num_views, len(x) // num_views, x.shape[1])
            weight = x.new_ones(len(x)) if weight is None else weight
            normalized, mean, variance = _Normalize.apply(  # type: ignore[no-untyped-call]
                views, self.eps, weight.view(views.shape[:2])
            )
            if track:
                self.track(mean, variance)
            x = normalized.view_as(x)
        else:
            x = (x - self.running_mean) * torch.rsqrt(self.running_var + self.eps)
        return torch.addcmul(self.bias, x, self.weight)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics by those of a batch, ``(V, C)``; once for all micro-batches."""
        if not distributed.is_first_part():
            return
        self.running_mean.lerp_(mean[0].to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance[0].to(self.running_var.dtype), self.momentum)
