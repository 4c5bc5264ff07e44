r"""Normalized, gated messages of a crystal-graph convolution, summed at their atoms.

For an edge j -> i with distance features e (Xie & Grossman, PRL 120, 145301 (2018), eq. 5):

.. math:: u = S_i + T_j + W_e e, \quad
          m_i = \sum_{j \to i} \sigma(y_f) \odot \mathrm{softplus}(y_c), \quad [y_f, y_c] = \mathrm{BN}(u)

where S = W_c h + b and T = W_n h are computed once per *atom* instead of once per edge. This is the published
concatenated linear layer with its sums in another order. Autograd would keep about twenty ``(E, 2D)``
intermediates. :mod:`crysatom.nn.kernels` keeps none: it computes u again in each of three passes over the edges, so
memory grows with atoms and distances, not with edges. The passes sum u and its square; the messages; and
:math:`\partial y`.

Mean and variance of u are those over the edges of a view on *all* workers. The backward pass of the normalization,

.. math:: \partial u = g (\partial y - \overline{\partial y} - \hat x\, \overline{\partial y\, \hat x}), \quad
          \hat x = (u - \mu) / s, \quad g = \gamma / s,

is linear in :math:`\partial y`, 1 and u, whose sums at the atoms and distances are known from the passes.

Shapes: V views of N atoms, M = V N, C = 2D channels, R distinct distances, F features of each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crysatom import distributed
from crysatom.nn.edges import Edges
from crysatom.nn.kernels import kernels
from crysatom.nn.kernels.terms import Moments, Norm, Terms
from crysatom.nn.normalization import merge_statistics


def _per_view(x: Tensor, num_views: int) -> Tensor:
    """View ``(M, C)`` as ``(V, N, C)``."""
    return x.view(num_views, len(x) // num_views, x.shape[1])


def _mean_of_terms(terms: Terms, num_views: int) -> Tensor:
    """Return an estimate of the mean of u in each view from some hundred rows, ``(V, C)``."""
    each = _per_view(terms.center, num_views), _per_view(terms.neighbor, num_views), terms.edge[None]
    some = (x[:, :: max(1, x.shape[1] // 100)] for x in each)
    center, neighbor, edge = (x.sum(1) / max(x.shape[1], 1) for x in some)
    return center + neighbor + edge


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
        kernel = kernels(scale.device.type, scale.dtype)
        terms = Terms(center_term, neighbor_term, edges.basis @ weight.T)
        sums: tuple[Tensor, ...] = ()
        if statistics is None:
            near = _mean_of_terms(terms, edges.num_views)
            found: Moments = kernel.moments(terms, near, edges)
            number = edges.edges_per_view.clamp(min=1)[:, None]
            error = found.total / number
            squares = found.squares - number * error.square()
            count, mean, variance = merge_statistics(edges.edges_per_view, near.double() + error, squares)
            sums = near, count, found.at_center, found.at_neighbor
        else:
            mean, variance = (s.double().expand(edges.num_views, -1) for s in statistics)
        rstd = torch.rsqrt(variance + eps)
        norm = Norm(mean.to(scale.dtype), (rstd * scale).to(scale.dtype), shift)
        ctx.edges = edges
        ctx.save_for_backward(*terms, *norm, weight, mean, rstd, *sums)
        ctx.mark_non_differentiable(mean, variance)
        return kernel.message_sums(terms, norm, edges), mean, variance

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        center_term, neighbor_term, edge_term, center, gain, offset, weight, mean, rstd, *sums = ctx.saved_tensors
        edges, views, dtype = ctx.edges, ctx.edges.num_views, gain.dtype
        terms, norm = Terms(center_term, neighbor_term, edge_term), Norm(center, gain, offset)
        dy = kernels(gain.device.type, dtype).message_grads(terms, norm, grad_out, edges)
        of_scale, of_shift = (dy.product * rstd).sum(0), dy.total.sum(0)
        of_center, of_neighbor = _per_view(dy.at_center, views), _per_view(dy.at_neighbor, views)
        of_weight = dy.at_row.T @ edges.basis
        if sums:
            near, count, *at_atoms = sums
            both = torch.stack([dy.total, dy.product * rstd])
            k, kx = distributed.all_reduce_sum(both) * gain / count.clamp(min=1)[:, None]
            kx = kx * rstd
            # The sum of k + kx (u - mean) is that of kx (u - near), known from the forward pass, and of a constant.
            slope, constant = kx.to(dtype)[:, None], (k - kx * (mean - near)).to(dtype)[:, None]
            degrees = edges.in_degree, edges.out_degree
            for grad, sum_of_u, degree in zip((of_center, of_neighbor), at_atoms, degrees, strict=True):
                grad.addcmul_(_per_view(sum_of_u, views), slope, value=-1)
                grad.addcmul_(_per_view(degree[:, None], views), constant, value=-1)
            at_center, at_neighbor = (_per_view(x, views).mT for x in (edges.center_basis, edges.neighbor_basis))
            basis = at_center.sum(2, keepdim=True)
            u_basis = at_center @ _per_view(center_term, views) + at_neighbor @ _per_view(neighbor_term, views)
            u_basis += edges.gram @ weight.T - basis * near[:, None]
            of_weight -= (u_basis * slope + basis * constant).sum(0).T
        return (
            dy.at_center,
            dy.at_neighbor,
            of_weight,
            of_scale.to(dtype),
            of_shift.to(dtype),
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
