r"""Normalized, gated messages of a crystal-graph convolution, summed at their atoms.

For an edge j -> i with distance features e (Xie & Grossman, PRL 120, 145301 (2018), eq. 5):

.. math:: u = S_i + T_j + W_e e, \quad
          m_i = \sum_{j \to i} \sigma(y_f) \odot \mathrm{softplus}(y_c), \quad [y_f, y_c] = \mathrm{BN}(u)

where S = W_c h + b and T = W_n h are computed once per *atom* instead of once per edge. This is the published
concatenated linear layer with its sums in another order. Autograd would keep about twenty ``(E, 2D)``
intermediates; :mod:`crysatom.nn.kernels` keeps none and recomputes y from S and T, so memory grows with atoms, not with
edges times width.

Only the parts that are not linear in the three terms are evaluated per edge; the rest follows from sums over atoms:

- Mean and variance of u over the edges of a view on *all* workers. The square of the sum of three terms is
  expanded; edges enter only through the sums of :math:`T_j + W_e e` at the atoms i.
- The normalization is a gain and an offset of each view, which the kernels apply.
- The backward pass of the normalization,

  .. math:: \partial u = \gamma r (\partial y - \overline{\partial y} - \hat x\, \overline{\partial y\, \hat x}),

  is linear in :math:`\partial y`, 1 and :math:`\hat x`. Only :math:`\partial y` is summed edge by edge, at
  centers, neighbors and distances; :math:`\overline{\partial y\, \hat x}` then follows from these sums.

Shapes: V views of N atoms, M = V N, C = 2D channels, R distinct distances, F features of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crysatom import distributed
from crysatom.nn.edges import Edges, blocks
from crysatom.nn.kernels import message_grads, message_sums
from crysatom.nn.kernels.terms import Terms
from crysatom.nn.normalization import merge_statistics


def _per_view(x: Tensor, num_views: int) -> Tensor:
    """View ``(M, C)`` as ``(V, N, C)``."""
    return x.view(num_views, len(x) // num_views, x.shape[1])


@dataclass(frozen=True)
class _Statistics:
    """Statistics of u over each view's edges.

    Attributes:
        mean: ``(V, C)`` float64, over all workers.
        variance: ``(V, C)`` float64, over all workers.
        count: ``(V,)`` float64, edges on all workers.
        level: ``(V, C)`` mean of T over this worker's edges.
        rest: ``(M, C)`` sum of T - level + W_e e at each atom.
        basis: ``(V, C, F)`` sum of (T - level + W_e e) times the features.

    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    level: Tensor
    rest: Tensor
    basis: Tensor


def _statistics(edges: Edges, terms: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> _Statistics:
    """Return the statistics of u from sums over atoms.

    The variance is computed about this worker's own mean, then merged. S and T are centered on their own means, so
    that no large products cancel.
    """
    views, (center_term, neighbor_term, edge_term) = edges.num_views, terms
    degrees = edges.in_degree[:, None], edges.out_degree[:, None]
    S, T, in_degree, out_degree = (_per_view(x, views) for x in (center_term, neighbor_term, *degrees))
    n = edges.edges_per_view.clamp(min=1).to(S.dtype)[:, None]
    level = (out_degree.mT @ T)[:, 0] / n
    T = T - level[:, None]
    rest = edges.at_center(T.flatten(0, 1), edges.neighbor) + edges.at_center(edge_term, edges.row)
    Q = _per_view(rest, views)
    mean = ((in_degree.mT @ S)[:, 0] + Q.sum(1)) / n
    basis = T.mT @ _per_view(edges.neighbor_basis, views)
    weight_gram = weight @ edges.gram
    squares = (weight * (2 * basis + weight_gram)).sum(2)
    for view in range(views):
        for part in blocks(S.shape[1], S.shape[2], S.device):
            s = S[view, part] - mean[view]
            products = torch.add(2 * Q[view, part], s * in_degree[view, part]).mul_(s)
            squares[view] += products.addcmul_(T[view, part] * out_degree[view, part], T[view, part]).sum(0)
    count, total_mean, variance = merge_statistics(
        edges.edges_per_view, mean.double() + level.double(), squares.double()
    )
    return _Statistics(total_mean, variance, count, level, rest, basis.add_(weight_gram))


def _column_dots(a: Tensor, level: Tensor, b: Tensor) -> Tensor:
    """Return the sum over rows of (a - level) * b, ``(C,)``."""
    total = b.new_zeros(b.shape[1])
    for part in blocks(len(b), b.shape[1], b.device):
        total += (a[part] - level).mul_(b[part]).sum(0)
    return total


def _through_normalization(  # noqa: PLR0913 - the symbols of the formula
    grad: Tensor, term: Tensor, rest: Tensor, degree: Tensor, *, mean: Tensor, k: Tensor, kx: Tensor, gain: Tensor
) -> None:
    """Turn the sums of dy at the atoms of a view into the gradient of S or T, in place.

    Args:
        grad: ``(N, C)`` sums of dy.
        term: ``(N, C)`` S or T.
        rest: ``(N, C)`` sum over an atom's edges of u minus ``term``.
        degree: ``(N, 1)`` number of these edges.
        mean: ``(C,)`` mean of u.
        k: ``(C,)`` mean of dy.
        kx: ``(C,)`` mean of dy times x, over the standard deviation of u.
        gain: ``(C,)``.

    """
    for part in blocks(len(grad), grad.shape[1], grad.device):
        x = (term[part] - mean).mul_(degree[part]).add_(rest[part])
        grad[part].addcmul_(degree[part], k, value=-1).addcmul_(x, kx, value=-1).mul_(gain)


class _GatedSum(torch.autograd.Function):
    """Forward and backward of the module's formula."""

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
        terms = center_term, neighbor_term, edge_term
        ctx.statistics = None
        if statistics is None:
            ctx.statistics = _statistics(edges, terms, weight)
            mean, variance = ctx.statistics.mean, ctx.statistics.variance
        else:
            mean, variance = (s.double().expand(edges.num_views, -1) for s in statistics)
        rstd = torch.rsqrt(variance + eps)
        gain, offset = (rstd * scale).to(scale.dtype), (shift - mean * rstd * scale).to(scale.dtype)
        out = message_sums(Terms(*terms, gain, offset), edges)
        ctx.edges = edges
        ctx.save_for_backward(center_term, neighbor_term, weight, edge_term, mean, rstd, gain, offset)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        center_term, neighbor_term, weight, edge_term, mean64, rstd64, gain, offset = ctx.saved_tensors
        edges, stats, views = ctx.edges, ctx.statistics, ctx.edges.num_views
        mean, rstd = mean64.to(gain.dtype), rstd64.to(gain.dtype)
        level = torch.zeros_like(mean) if stats is None else stats.level
        terms = Terms(center_term, neighbor_term, edge_term, gain, offset)
        at_center, at_neighbor, at_row = message_grads(terms, grad_out, edges)
        S, T, dy_center, dy_neighbor = (
            _per_view(x, views) for x in (center_term, neighbor_term, at_center, at_neighbor)
        )
        dy_basis = at_row.mT @ edges.basis
        grad_weight = (dy_basis * gain[:, :, None]).sum(0)
        dy_sum, dyx_sum = dy_center.sum(1).double(), torch.empty_like(mean64)
        for view in range(views):
            dyx_sum[view] = rstd[view] * (
                _column_dots(S[view], mean[view] - level[view], dy_center[view])
                + _column_dots(T[view], level[view], dy_neighbor[view])
                + (weight * dy_basis[view]).sum(1)
            )
        if stats is None:
            dy_center, dy_neighbor = dy_center * gain[:, None], dy_neighbor * gain[:, None]
        else:
            sums = distributed.all_reduce_sum(torch.stack([dy_sum, dyx_sum])) / stats.count.clamp(min=1)[:, None]
            means = sums.to(gain.dtype)
            k, kx = means[0], means[1] * rstd
            rests = stats.rest, edges.at_neighbor(center_term, edges.center) + edges.at_neighbor(edge_term, edges.row)
            shifts = mean - level, mean
            degrees = edges.in_degree, edges.out_degree
            for view in range(views):
                for grad, term, rest, degree, shift in zip(
                    (dy_center, dy_neighbor), (S, T), rests, degrees, shifts, strict=True
                ):
                    _through_normalization(
                        grad[view],
                        term[view],
                        _per_view(rest, views)[view],
                        _per_view(degree[:, None], views)[view],
                        mean=shift[view],
                        k=k[view],
                        kx=kx[view],
                        gain=gain[view],
                    )
            of_center = _per_view(edges.center_basis, views)
            x_basis = S.mT @ of_center + stats.basis - (mean - level)[:, :, None] * of_center.sum(1)[:, None]
            mean_part = k[:, :, None] * of_center.sum(1)[:, None] + kx[:, :, None] * x_basis
            grad_weight = grad_weight - (mean_part * gain[:, :, None]).sum(0)
        return (
            dy_center.view_as(center_term),
            dy_neighbor.view_as(neighbor_term),
            grad_weight,
            dyx_sum.sum(0).to(gain.dtype),
            dy_sum.sum(0).to(gain.dtype),
            None,
            None,
            None,
        )


def gated_sum(  # noqa: PLR0913 - the terms of the formula
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
        Summed messages ``(M, D)``, or with ``edges.apart`` the message of each edge, ``(E, D)``; mean and (biased)
        variance used per view, ``(V, 2D)`` float64.

    """
    result: tuple[Tensor, Tensor, Tensor] = _GatedSum.apply(  # type: ignore[no-untyped-call]
        center_term, neighbor_term, weight, scale, shift, edges, eps, statistics
    )
    return result
