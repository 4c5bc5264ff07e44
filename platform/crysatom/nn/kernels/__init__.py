"""Kernels of the gated sum, chosen by device and type; :mod:`crysatom.nn.kernels.twin` defines what they compute."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.kernels import twin

HAS_TRITON = find_spec("triton") is not None
"""Triton comes with torch for CUDA."""


def _kernels(x: Tensor) -> ModuleType:
    if x.device.type == "cuda" and x.dtype in {torch.float32, torch.bfloat16} and HAS_TRITON:
        from crysatom.nn.kernels import triton_cuda

        return triton_cuda
    return twin


def message_sums(of_center: Tensor, of_neighbor: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.message_sums`."""
    out: Tensor = _kernels(of_center).message_sums(of_center, of_neighbor, of_edge, edges)
    return out


def message_grads(
    of_center: Tensor, of_neighbor: Tensor, of_edge: Tensor, grad_out: Tensor, edges: Edges
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`crysatom.nn.kernels.twin.message_grads`."""
    grads: tuple[Tensor, Tensor, Tensor] = _kernels(of_center).message_grads(
        of_center, of_neighbor, of_edge, grad_out, edges
    )
    return grads


def term_sums(of_neighbor: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.term_sums`."""
    out: Tensor = _kernels(of_neighbor).term_sums(of_neighbor, of_edge, edges)
    return out


def reverse_term_sums(of_center: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.reverse_term_sums`."""
    out: Tensor = _kernels(of_center).reverse_term_sums(of_center, of_edge, edges)
    return out
