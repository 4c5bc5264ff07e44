"""Edge-gated convolution that allocates few arrays of the size of the edges and keeps intermediates in the cache.

Line graphs have about fourteen times as many edges as crystal graphs. A straightforward layer makes about thirty arrays
of their size. On a CPU the memory of each is mapped and zeroed again in every step, which takes half the time. Here a
layer keeps two, the gates' exponents and the new edges, and recomputes the rest in blocks.

Shapes: n nodes, m edges, width C.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crysatom import distributed
from crysatom.nn.edges import blocks
from crysatom.nn.equivalence import Multigraph
from crysatom.nn.normalization import ViewBatchNorm, merge_statistics
from crysatom.nn.products import Linear


class EdgeGatedConv(nn.Module):
    """Convolution of nodes with gates that update the edges (Bresson & Laurent, arXiv 1711.07553, with residuals).

    For the edge e from j to i: m = A h_j + B h_i + C e; h_i + SiLU(norm(U h_i + sum_j s(m) V h_j / sum_j s(m)));
    e + SiLU(norm(m)); s is the sigmoid.

    Args:
        width: Width of nodes and edges, C.
        last: Return the edges unchanged, since no layer reads them.

    """

    EPS: ClassVar[float] = 1e-6
    """Added to the sum of gates, as published."""

    def __init__(self, width: int, *, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.source_gate = Linear(width, width)
        self.target_gate = Linear(width, width)
        self.edge_gate = Linear(width, width)
        self.source_update = Linear(width, width)
        self.target_update = Linear(width, width)
        self.norm_nodes = ViewBatchNorm(width)
        self.norm_edges = ViewBatchNorm(width)
        self.norm_edges.requires_grad_(requires_grad=not last)

    def forward(self, h: Tensor, e: Tensor, graph: Multigraph) -> tuple[Tensor, Tensor]:
        """Return the updated nodes ``(n, C)`` and edges ``(m, C)`` of the graph."""
        m = add_ends(self.edge_gate(e), self.source_gate(h), self.target_gate(h), graph)
        messages, gates = gated_sums(m, self.source_update(h), graph)
        mean = messages / (gates + self.EPS)
        new = h + F.silu(self.norm_nodes(self.target_update(h) + mean, 1, graph.nodes.to(h.dtype)))
        return new, e if self.last else residual(self.norm_edges, e, m, graph.edges.to(m.dtype))


def add_ends(m: Tensor, of_source: Tensor, of_target: Tensor, graph: Multigraph) -> Tensor:
    """Add the rows ``(n, C)`` of both end nodes to the edges ``(m, C)``, in place."""
    total: Tensor = _AddEnds.apply(m, of_source, of_target, graph.source, graph.target)  # type: ignore[no-untyped-call]
    return total


def gated_sums(m: Tensor, values: Tensor, graph: Multigraph) -> tuple[Tensor, Tensor]:
    """Return, at each node, the sum of gated source values and the sum of gates, ``(n, C)`` each.

    Args:
        m: ``(m, C)`` arguments of the sigmoid of the gates.
        values: ``(n, C)``.
        graph: Nodes and edges; each edge is weighted by its copies.

    """
    copies = graph.copies.to(m.dtype)
    sums: tuple[Tensor, Tensor] = _GatedSums.apply(  # type: ignore[no-untyped-call]
        m, values, graph.source, graph.target, copies
    )
    return sums


def residual(norm: ViewBatchNorm, e: Tensor, m: Tensor, count: Tensor) -> Tensor:
    """Return ``e + SiLU(norm(m))``, ``(m, C)``.

    Args:
        norm: Batch normalization.
        e: ``(m, C)``.
        m: ``(m, C)``.
        count: ``(m,)`` number of rows that each represents.

    """
    if not norm.training:
        return e + F.silu(norm(m, 1))
    affine = torch.stack([norm.weight, norm.bias])
    out, mean, variance = _Residual.apply(e, m, affine, count, norm.eps)  # type: ignore[no-untyped-call]
    norm.track(mean, variance)
    return torch.as_tensor(out)


class _AddEnds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, of_source: Tensor, of_target: Tensor, source: Tensor, target: Tensor) -> Tensor:
        ctx.mark_dirty(m)
        ctx.save_for_backward(source, target)
        ctx.nodes = len(of_source)
        for some in blocks(len(m), m.shape[1], m.device):
            m[some] += of_source.index_select(0, source[some])
            m[some] += of_target.index_select(0, target[some])
        return m

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        source, target = ctx.saved_tensors
        grad = grads[0]
        zeros = grad.new_zeros(ctx.nodes, grad.shape[1])
        return grad, zeros.index_add(0, source, grad), zeros.index_add(0, target, grad), None, None


class _GatedSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, m: Tensor, values: Tensor, source: Tensor, target: Tensor, copies: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(m, values, source, target, copies)
        messages, gates = torch.zeros_like(values), torch.zeros_like(values)
        for some in blocks(len(m), m.shape[1], m.device):
            gate = torch.sigmoid(m[some]).mul_(copies[some, None])
            gates.index_add_(0, target[some], gate)
            messages.index_add_(0, target[some], gate.mul_(values.index_select(0, source[some])))
        return messages, gates

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        m, values, source, target, copies = ctx.saved_tensors
        of_messages, of_gates = grads
        grad_m, grad_values = torch.empty_like(m), torch.zeros_like(values)
        for some in blocks(len(m), m.shape[1], m.device):
            sigmoid = torch.sigmoid(m[some])
            gate = sigmoid * copies[some, None]
            grad = of_messages.index_select(0, target[some])
            grad_values.index_add_(0, source[some], gate * grad)
            grad.mul_(values.index_select(0, source[some])).add_(of_gates.index_select(0, target[some]))
            torch.mul(grad.mul_(gate), sigmoid.neg_().add_(1), out=grad_m[some])
        return grad_m, grad_values, None, None, None


class _Residual(torch.autograd.Function):
    """``e + SiLU(weight * (m - mean) / std + bias)``, with statistics over all workers, see :class:`ViewBatchNorm`."""

    @staticmethod
    def forward(
        ctx: Any, e: Tensor, m: Tensor, affine: Tensor, count: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = affine
        number = count.sum().double()
        total, squares, error = (torch.zeros_like(weight, dtype=torch.float64) for _ in range(3))
        for some in blocks(len(m), m.shape[1], m.device):
            total += count[some] @ m[some]
        local = (total / number.clamp(min=1)).to(m.dtype)
        for some in blocks(len(m), m.shape[1], m.device):
            rest = m[some] - local
            error += count[some] @ rest
            squares += count[some] @ rest.square_()
        error /= number.clamp(min=1)
        squares -= number * error.square()
        every, mean, variance = merge_statistics(number[None], (local.double() + error)[None], squares[None])
        rstd = torch.rsqrt(variance[0] + eps)
        center, rstd = mean[0].to(m.dtype), rstd.to(m.dtype)
        out = torch.empty_like(e)
        for some in blocks(len(m), m.shape[1], m.device):
            z = (m[some] - center).mul_(rstd * weight).add_(bias)
            torch.add(e[some], F.silu(z, inplace=True), out=out[some])
        ctx.save_for_backward(m, affine, count, center, rstd, every)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        m, affine, count, center, rstd, every = ctx.saved_tensors
        weight, bias = affine
        grad = grads[0].contiguous()
        grad_weight, grad_bias = (torch.zeros_like(weight, dtype=torch.float64) for _ in range(2))
        grad_m = torch.empty_like(m)  # holds the gradient before the norm, until its sums are known
        for some in blocks(len(m), m.shape[1], m.device):
            x = (m[some] - center).mul_(rstd)
            z = torch.addcmul(bias, x, weight)
            sigmoid = torch.sigmoid(z)
            inner = torch.mul(grad[some], sigmoid.mul(z.mul_(1 - sigmoid).add_(1)), out=grad_m[some])
            grad_bias += inner.sum(0)
            grad_weight += x.mul_(inner).sum(0)
        sums = distributed.all_reduce_sum(torch.stack([grad_bias, grad_weight])) / every.clamp(min=1)
        k, kx = (sums * weight.double()).to(m.dtype)
        for some in blocks(len(m), m.shape[1], m.device):
            x = (m[some] - center).mul_(rstd).mul_(kx).add_(k).mul_(count[some, None])
            grad_m[some].mul_(weight).sub_(x).mul_(rstd)
        return grad, grad_m, torch.stack([grad_weight, grad_bias]).to(affine.dtype), None, None
