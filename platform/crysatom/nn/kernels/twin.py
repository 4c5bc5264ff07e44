r"""Kernels of the gated sum in plain torch: the reference of the compiled ones, and the path of float64.

An edge j -> i with the distance in row r has :math:`u = S_i + T_j + E_r` (:class:`crysatom.nn.kernels.terms.Terms`),
:math:`[y_f, y_c] = g_v (u - \mu_v) + o` (:class:`~crysatom.nn.kernels.terms.Norm`) and the message
:math:`\sigma(y_f) \odot \mathrm{softplus}(y_c)`, times ``edges.copies``.

Shapes: V views of N atoms, M = V N, C = 2D channels, R distinct distances, E edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.kernels.terms import Grads, Moments, Norm, Terms


def moments(terms: Terms, shift: Tensor, edges: Edges) -> Moments:
    """Sum u - shift and its square over edges.

    Args:
        terms: Terms of u.
        shift: ``(V, C)``, near the mean of u, so that no digits are lost.
        edges: Edges, sorted by center.

    """
    d = _less(shift, terms, edges)
    weighted = d if edges.count is None else d * edges.count[:, None]
    view = _view(edges)
    return Moments(
        _sum_at(edges.center, weighted, edges.num_atoms),
        _sum_at(edges.neighbor, weighted, edges.num_atoms),
        _sum_at(view, weighted.double(), edges.num_views),
        _sum_at(view, (weighted * d).double(), edges.num_views),
    )


def message_sums(terms: Terms, norm: Norm, edges: Edges) -> Tensor:
    """Sum the messages that arrive at each atom.

    Returns:
        ``(M, D)``, or with ``edges.apart`` the message of each edge, ``(E, D)``.

    """
    gate, core = _normalized(_less(norm.mean, terms, edges), norm, edges)
    messages = torch.sigmoid(gate) * _softplus(core)
    if edges.copies is not None:
        messages *= edges.copies[:, None]
    return messages if edges.apart else _sum_at(edges.center, messages, edges.num_atoms)


def message_grads(terms: Terms, norm: Norm, grad_out: Tensor, edges: Edges) -> Grads:
    """Sum the gradient with respect to y over edges, given that with respect to the result of :func:`message_sums`."""
    d = _less(norm.mean, terms, edges)
    gate, core = _normalized(d, norm, edges)
    grad = grad_out if edges.apart else grad_out[edges.center]
    if edges.copies is not None:
        grad = grad * edges.copies[:, None]
    grad = grad * torch.sigmoid(gate)
    dy = torch.cat([grad * torch.sigmoid(-gate) * _softplus(core), grad * torch.sigmoid(core)], dim=1)
    view, views = _view(edges), edges.num_views
    scaled = dy * norm.gain[view]
    return Grads(
        _sum_at(edges.center, scaled, edges.num_atoms),
        _sum_at(edges.neighbor, scaled, edges.num_atoms),
        _sum_at(edges.row, scaled, len(terms.edge)),
        _sum_at(view, dy.double(), views),
        _sum_at(view, (dy * d).double(), views),
    )


def _view(edges: Edges) -> Tensor:
    """Return the view of each edge, ``(E,)``."""
    return edges.center // max(edges.num_atoms // edges.num_views, 1)


def _less(reference: Tensor, terms: Terms, edges: Edges) -> Tensor:
    """Return u of each edge less a reference ``(V, C)`` of its view, ``(E, C)``."""
    u = terms.center[edges.center] + terms.neighbor[edges.neighbor] + terms.edge[edges.row]
    return u - reference[_view(edges)]


def _normalized(d: Tensor, norm: Norm, edges: Edges) -> tuple[Tensor, ...]:
    """Return y_f and y_c of each edge, ``(E, D)`` each."""
    return torch.addcmul(norm.offset, d, norm.gain[_view(edges)]).chunk(2, dim=1)


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=40)  # torch's own threshold of 20 cuts off 2e-9, which float64 shows


def _sum_at(index: Tensor, values: Tensor, size: int) -> Tensor:
    return values.new_zeros(size, values.shape[1]).index_add_(0, index, values)
