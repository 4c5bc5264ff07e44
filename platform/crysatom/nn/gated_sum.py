r"""Normalized, gated messages of a crystal-graph convolution, summed at their atoms, in cache-sized pieces.

For an edge j -> i with distance features e (Xie & Grossman, PRL 120, 145301 (2018), eq. 5):

.. math:: u = S_i + T_j + W_e e, \quad
          m_i = \sum_{j \to i} \sigma(y_f) \odot \mathrm{softplus}(y_c), \quad [y_f, y_c] = \mathrm{BN}(u)

where S = W_c h + b and T = W_n h are computed once per *atom* instead of once per edge, which is the
published concatenated linear layer with the sums taken in another order. Autograd would keep some
twenty ``(E, 2D)`` intermediates; here each is recomputed from S and T, a piece at a time, so that
they never leave the processor's cache and memory grows with atoms, not with edges times width.

The batch normalization is over the edges of a view on *all* workers. Its backward pass is

.. math:: \partial u = \gamma r (\partial y - \overline{\partial y} - \hat x\, \overline{\partial y\, \hat x}),

linear in :math:`\partial y`, 1 and :math:`\hat x`: summing these three at the atoms first and combining
them when the means are known takes one pass over the edges instead of two. Their sums against the
distance features follow from per-atom sums (``Edges.center_basis`` and so on), again without edges.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom import distributed
from crysatom.nn.edges import Chunk, Edges
from crysatom.nn.normalization import merge_statistics


def _raw(chunk: Chunk, edges: Edges, center_term: Tensor, neighbor_term: Tensor, edge_term: Tensor) -> Tensor:
    """Return u of one chunk, ``(edges, 2D)``."""
    part = chunk.edges
    u = neighbor_term.index_select(0, edges.neighbor[part])
    u += edge_term.index_select(0, edges.row[part])
    u += center_term.index_select(0, edges.center[part])
    return u


def _per_view(x: Tensor, num_views: int) -> Tensor:
    """View ``(M, C)`` as ``(V, N, C)``."""
    return x.view(num_views, len(x) // num_views, x.shape[1])


def _edge_sums(edges: Edges, center_term: Tensor, neighbor_term: Tensor, weight: Tensor) -> Tensor:
    """Return the sum of u over the edges of each view, ``(V, 2D)``, from sums over atoms."""
    v = edges.num_views
    atoms = edges.in_degree[:, None] * center_term + edges.out_degree[:, None] * neighbor_term
    return _per_view(atoms, v).sum(1) + _per_view(edges.center_basis, v).sum(1) @ weight.T


def batch_statistics(
    edges: Edges, center_term: Tensor, neighbor_term: Tensor, weight: Tensor, edge_term: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of u per view over all workers, ``(V, 2D)`` each, and the edge counts ``(V,)``.

    The variance is taken about this worker's own mean, then merged.
    """
    n = edges.edges_per_view
    mean = _edge_sums(edges, center_term, neighbor_term, weight).double() / n.clamp(min=1)[:, None]
    centered = _per_view(center_term, edges.num_views) - mean.to(center_term.dtype)[:, None]
    centered = centered.view_as(center_term)
    squares = torch.zeros_like(mean)
    for chunk in edges.chunks(center_term.shape[1]):
        squares[chunk.view] += _raw(chunk, edges, centered, neighbor_term, edge_term).square_().sum(0)
    count, mean, variance = merge_statistics(n, mean, squares)
    return mean, variance, count


class _GatedSum(torch.autograd.Function):
    """Forward and backward of the module's formula; see there."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - autograd takes tensors one by one
        ctx: Any,
        center_term: Tensor,
        neighbor_term: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        edges: Edges,
        eps: float,
        statistics: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        edge_term = edges.basis @ weight.T
        ctx.batch_mode = statistics is None
        if statistics is None:
            mean, variance, count = batch_statistics(edges, center_term, neighbor_term, weight, edge_term)
        else:
            mean, variance = (s.double().expand(edges.num_views, -1) for s in statistics)
            count = edges.edges_per_view
        rstd = torch.rsqrt(variance + eps)
        gain, offset = (rstd * scale).to(scale.dtype), (shift - mean * rstd * scale).to(scale.dtype)
        width = center_term.shape[1] // 2
        out = center_term.new_zeros(len(center_term), width)
        for chunk in edges.chunks(2 * width):
            u = _raw(chunk, edges, center_term, neighbor_term, edge_term)
            y = torch.addcmul(offset[chunk.view], u, gain[chunk.view], out=u)
            message = torch.sigmoid(y[:, :width]).mul_(F.softplus(y[:, width:]))
            out.index_add_(0, edges.center[chunk.edges], message)
        ctx.edges = edges
        ctx.save_for_backward(center_term, neighbor_term, weight, edge_term, scale, shift, mean, rstd, count)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        center_term, neighbor_term, weight, edge_term, scale, shift, mean64, rstd64, count = ctx.saved_tensors
        edges: Edges = ctx.edges
        mean, rstd = mean64.to(scale.dtype), rstd64.to(scale.dtype)
        gain = rstd * scale
        views, dims, width = edges.num_views, len(scale), len(scale) // 2
        centered = (_per_view(center_term, views) - mean[:, None]).view_as(center_term)

        # Sums of dy and of x-hat at the atoms, of dy at the distances, and of dy and dy * x-hat over all edges.
        dy_center, dy_neighbor, x_center, x_neighbor = (torch.zeros_like(center_term) for _ in range(4))
        dy_row = torch.zeros_like(edge_term)
        dy_sum, dyx_sum = (mean64.new_zeros(views, dims) for _ in range(2))
        for chunk in edges.chunks(dims):
            v, part = chunk.view, chunk.edges
            center, neighbor = edges.center[part], edges.neighbor[part]
            x = _raw(chunk, edges, centered, neighbor_term, edge_term).mul_(rstd[v])
            y = torch.addcmul(shift, x, scale)
            dy = _gate_backward(y, grad_out.index_select(0, center), width)
            dy_sum[v] += dy.sum(0)
            dyx_sum[v] += (dy * x).sum(0)
            dy_row.index_add_(0, edges.row[part], dy * gain[v])
            dy_center.index_add_(0, center, dy)
            dy_neighbor.index_add_(0, neighbor, dy)
            if ctx.batch_mode:
                x_center.index_add_(0, center, x)
                x_neighbor.index_add_(0, neighbor, x)

        grad_center, grad_neighbor = _per_view(dy_center, views), _per_view(dy_neighbor, views)
        grad_weight = dy_row.T @ edges.basis
        if ctx.batch_mode:
            sums = distributed.all_reduce_sum(torch.stack([dy_sum, dyx_sum])) / count.clamp(min=1)[:, None]
            k, kx = sums.to(scale.dtype)[..., None, :]
            x_basis = _normalized_against_basis(edges, centered, neighbor_term, weight) * rstd[:, :, None]
            in_degree, out_degree = (_per_view(d[:, None], views) for d in (edges.in_degree, edges.out_degree))
            grad_center = grad_center - in_degree * k - _per_view(x_center, views) * kx
            grad_neighbor = grad_neighbor - out_degree * k - _per_view(x_neighbor, views) * kx
            features = _per_view(edges.center_basis, views).sum(1)[:, None, :]
            grad_weight = grad_weight - ((k.mT * features + x_basis * kx.mT) * gain[:, :, None]).sum(0)
        return (
            (grad_center * gain[:, None]).reshape_as(center_term),
            (grad_neighbor * gain[:, None]).reshape_as(center_term),
            grad_weight,
            dyx_sum.sum(0).to(scale.dtype),
            dy_sum.sum(0).to(scale.dtype),
            None,
            None,
            None,
        )


def _gate_backward(y: Tensor, grad_message: Tensor, width: int) -> Tensor:
    """Return the gradient at y = [y_f, y_c] of sigmoid(y_f) * softplus(y_c); overwrites ``grad_message``."""
    gate, slope = torch.sigmoid(y[:, :width]), torch.sigmoid(y[:, width:])
    core = F.softplus(y[:, width:])
    dy = torch.empty_like(y)
    grad_message *= gate
    torch.mul(grad_message, slope, out=dy[:, width:])
    torch.mul(grad_message, torch.addcmul(core, core, gate, value=-1, out=core), out=dy[:, :width])
    return dy


def _normalized_against_basis(edges: Edges, centered: Tensor, neighbor_term: Tensor, weight: Tensor) -> Tensor:
    """Return the sum over each view's edges of (u - mean) times the features, ``(V, 2D, F)``."""
    v = edges.num_views
    by_center = _per_view(centered, v).mT @ _per_view(edges.center_basis, v)
    by_neighbor = _per_view(neighbor_term, v).mT @ _per_view(edges.neighbor_basis, v)
    return by_center + by_neighbor + weight @ edges.gram


def gated_sum(  # noqa: PLR0913 - what the formula holds
    center_term: Tensor,
    neighbor_term: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    edges: Edges,
    *,
    eps: float = 1e-5,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate the module's formula.

    Args:
        center_term: S, ``(M, 2D)``, contiguous.
        neighbor_term: T, ``(M, 2D)``, contiguous.
        weight: W_e, ``(2D, F)``.
        scale: Gamma of the batch normalization, ``(2D,)``.
        shift: Beta, ``(2D,)``.
        edges: Edges, sorted by center; their features take no gradient.
        eps: Added to the variance.
        statistics: Mean and variance ``(2D,)`` to normalize by; None: those of each view's edges.

    Returns:
        Summed messages ``(M, D)``; mean and (biased) variance used per view, ``(V, 2D)`` float64.

    """
    result: tuple[Tensor, Tensor, Tensor] = _GatedSum.apply(  # type: ignore[no-untyped-call]
        center_term, neighbor_term, weight, scale, shift, edges, eps, statistics
    )
    return result
