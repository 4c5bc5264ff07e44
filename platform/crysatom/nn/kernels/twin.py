r"""Kernels of the gated sum in plain torch: the reference of the compiled ones, and the path of float64.

An edge k goes from atom j to atom i of view v; row r describes its distance. Its exponents, in units of ln 2, are

.. math:: x = [-y_f, y_c] / \ln 2 = C_i + N_j + E_{v, r}

and its message is :math:`\sigma(y_f) \odot \mathrm{softplus}(y_c)`, times ``edges.copies``.

Shapes: V views of N atoms, M = V N, C = 2D channels, R distinct distances. Tables are float32, float64, or bfloat16.
Results are float32, or float64 for float64 tables. On CUDA the order of the additions, and so the last bits, may vary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crysatom.nn.edges import Edges

LN2 = math.log(2)


def message_sums(of_center: Tensor, of_neighbor: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """Sum the messages that arrive at each atom.

    Args:
        of_center: C, ``(M, C)``.
        of_neighbor: N, ``(M, C)``.
        of_edge: E, ``(V, R, C)``.
        edges: Edges, sorted by center.

    Returns:
        ``(M, D)``, or with ``edges.apart`` the message of each edge, ``(E, D)``.

    """
    gate, core = _exponents(of_center, of_neighbor, of_edge, edges)
    messages = torch.sigmoid(-gate * LN2) * _softplus(core)
    if edges.copies is not None:
        messages *= edges.copies[:, None]
    return messages if edges.apart else _sum_at(edges.center, messages, edges.num_atoms)


def message_grads(
    of_center: Tensor, of_neighbor: Tensor, of_edge: Tensor, grad_out: Tensor, edges: Edges
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the gradients with respect to [y_f, y_c] at centers, neighbors, and rows.

    Args:
        of_center: C, ``(M, C)``.
        of_neighbor: N, ``(M, C)``.
        of_edge: E, ``(V, R, C)``.
        grad_out: Gradient with respect to the result of :func:`message_sums`.
        edges: Edges, sorted by center.

    Returns:
        ``(M, C)``, ``(M, C)``, and ``(V, R, C)``.

    """
    gate, core = _exponents(of_center, of_neighbor, of_edge, edges)
    grad = grad_out.to(core.dtype)
    grad = grad.clone() if edges.apart else grad[edges.center]
    if edges.copies is not None:
        grad *= edges.copies[:, None]
    grad *= torch.sigmoid(-gate * LN2)
    dy = torch.cat([grad * torch.sigmoid(gate * LN2) * _softplus(core), grad * torch.sigmoid(core * LN2)], dim=1)
    views, rows, channels = of_edge.shape
    at_row = _sum_at(_view(edges) * rows + edges.row, dy, views * rows)
    return (
        _sum_at(edges.center, dy, edges.num_atoms),
        _sum_at(edges.neighbor, dy, edges.num_atoms),
        at_row.view(views, rows, channels),
    )


def term_sums(of_neighbor: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """Return the sum of N_j + E_r over the edges that arrive at each atom, weighted by ``edges.count``.

    Args:
        of_neighbor: N, ``(M, C)``.
        of_edge: E, ``(R, C)``, the same for all views.
        edges: Edges, sorted by center.

    Returns:
        ``(M, C)``.

    """
    return _sum_at(edges.center, _counted(of_neighbor[edges.neighbor], of_edge, edges), edges.num_atoms)


def reverse_term_sums(of_center: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """Return the sum of C_i + E_r over the edges that leave each atom, weighted by ``edges.count``.

    Args:
        of_center: C, ``(M, C)``.
        of_edge: E, ``(R, C)``, the same for all views.
        edges: Edges, sorted by center.

    Returns:
        ``(M, C)``.

    """
    return _sum_at(edges.neighbor, _counted(of_center[edges.center], of_edge, edges), edges.num_atoms)


def _view(edges: Edges) -> Tensor:
    """View of each edge, ``(E,)``."""
    return edges.center // max(edges.num_atoms // edges.num_views, 1)


def _exponents(of_center: Tensor, of_neighbor: Tensor, of_edge: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """Exponents of each edge's gate and core, ``(E, D)`` each."""
    terms = of_center[edges.center], of_neighbor[edges.neighbor], of_edge[_view(edges), edges.row]
    center, neighbor, edge = (_wide(term) for term in terms)
    gate, core = (center + neighbor + edge).chunk(2, dim=1)
    return gate, core


def _counted(terms: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    terms = _wide(terms) + _wide(of_edge[edges.row])
    if edges.count is not None:
        terms *= edges.count[:, None]
    return terms


def _softplus(exponent: Tensor) -> Tensor:
    """ln(1 + 2^x); torch's own is the identity above 20."""
    return exponent.clamp(min=0) * LN2 + torch.log1p(torch.exp2(-exponent.abs()))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _sum_at(index: Tensor, values: Tensor, size: int) -> Tensor:
    return values.new_zeros(size, values.shape[1]).index_add_(0, index, values)
