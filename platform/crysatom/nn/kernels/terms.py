"""What the kernels of the gated sum read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Terms:
    r"""Terms of :math:`y = g_v (S_i + T_j + E_r) + o_v` for an edge j -> i of view v whose distance is in row r.

    Attributes:
        center: S, ``(M, C)``, contiguous.
        neighbor: T, ``(M, C)``, contiguous.
        edge: E, ``(R, C)``, contiguous.
        gain: g, ``(V, C)``.
        offset: o, ``(V, C)``.

    """

    center: Tensor
    neighbor: Tensor
    edge: Tensor
    gain: Tensor
    offset: Tensor
