r"""Kernels of the gated sum in plain torch: the reference of the compiled ones, and the path of float64.

An edge j -> i of view v with the distance in row r has the message :math:`\sigma(y_f) \odot \mathrm{softplus}(y_c)`,
times ``edges.copies``, with :math:`[y_f, y_c]` from :class:`crysatom.nn.kernels.terms.Terms`.

Shapes: V views of N atoms, M = V N, C = 2D channels, R distinct distances, E edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.kernels.terms import Terms


def message_sums(terms: Terms, edges: Edges) -> Tensor:
    """Sum the messages that arrive at each atom.

    Returns:
        ``(M, D)``, or with ``edges.apart`` the message of each edge, ``(E, D)``.

    """
    gate, core = _arguments(terms, edges)
    messages = torch.sigmoid(gate) * _softplus(core)
    if edges.copies is not None:
        messages *= edges.copies[:, None]
    return messages if edges.apart else _sum_at(edges.center, messages, edges.num_atoms)


def message_grads(terms: Terms, grad_out: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the gradient with respect to y over the edges at each center, neighbor, and row of each view.

    Args:
        terms: Terms of y.
        grad_out: Gradient with respect to the result of :func:`message_sums`.
        edges: Edges, sorted by center.

    Returns:
        ``(M, C)``, ``(M, C)`` and ``(V, R, C)``.

    """
    gate, core = _arguments(terms, edges)
    grad = grad_out if edges.apart else grad_out[edges.center]
    if edges.copies is not None:
        grad = grad * edges.copies[:, None]
    grad = grad * torch.sigmoid(gate)
    dy = torch.cat([grad * torch.sigmoid(-gate) * _softplus(core), grad * torch.sigmoid(core)], dim=1)
    views, rows = edges.num_views, len(terms.edge)
    at_row = _sum_at(_view(edges) * rows + edges.row, dy, views * rows)
    return (
        _sum_at(edges.center, dy, edges.num_atoms),
        _sum_at(edges.neighbor, dy, edges.num_atoms),
        at_row.view(views, rows, dy.shape[1]),
    )


def _view(edges: Edges) -> Tensor:
    """View of each edge, ``(E,)``."""
    return edges.center // max(edges.num_atoms // edges.num_views, 1)


def _arguments(terms: Terms, edges: Edges) -> tuple[Tensor, Tensor]:
    """y_f and y_c of each edge, ``(E, D)`` each."""
    u = terms.center[edges.center] + terms.neighbor[edges.neighbor] + terms.edge[edges.row]
    view = _view(edges)
    gate, core = torch.addcmul(terms.offset[view], u, terms.gain[view]).chunk(2, dim=1)
    return gate, core


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=40)  # torch's own threshold of 20 cuts off 2e-9, which float64 shows


def _sum_at(index: Tensor, values: Tensor, size: int) -> Tensor:
    return values.new_zeros(size, values.shape[1]).index_add_(0, index, values)
