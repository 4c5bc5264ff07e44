"""What the kernels of the gated sum read and return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Terms(NamedTuple):
    """Terms of u = S_i + T_j + E_r for an edge j -> i whose distance is in row r.

    Attributes:
        center: S, ``(M, C)``, contiguous.
        neighbor: T, ``(M, C)``, contiguous.
        edge: E, ``(R, C)``, contiguous.

    """

    center: Tensor
    neighbor: Tensor
    edge: Tensor


class Norm(NamedTuple):
    """Normalization of an edge of view v, [y_f, y_c] = gain_v (u - mean_v) + offset.

    Attributes:
        mean: ``(V, C)``.
        gain: ``(V, C)``.
        offset: ``(C,)``.

    """

    mean: Tensor
    gain: Tensor
    offset: Tensor


class Moments(NamedTuple):
    """Sums of d = u - shift_v over edges, each weighted by ``edges.count``.

    Attributes:
        at_center: Sum of d over the edges that arrive at each atom, ``(M, C)``.
        at_neighbor: Sum of d over the edges that leave each atom, ``(M, C)``.
        total: Sum of d over the edges of each view, ``(V, C)`` float64.
        squares: Sum of d^2 over the edges of each view, ``(V, C)`` float64.

    """

    at_center: Tensor
    at_neighbor: Tensor
    total: Tensor
    squares: Tensor


class Grads(NamedTuple):
    """Sums over edges of dy, the gradient with respect to [y_f, y_c], and of gain_v dy.

    Attributes:
        at_center: Sum of gain_v dy over the edges that arrive at each atom, ``(M, C)``.
        at_neighbor: Sum of gain_v dy over the edges that leave each atom, ``(M, C)``.
        at_row: Sum of gain_v dy over the edges whose distance is in each row, ``(R, C)``.
        total: Sum of dy over the edges of each view, ``(V, C)`` float64.
        product: Sum of dy (u - mean_v) over the edges of each view, ``(V, C)`` float64.

    """

    at_center: Tensor
    at_neighbor: Tensor
    at_row: Tensor
    total: Tensor
    product: Tensor
