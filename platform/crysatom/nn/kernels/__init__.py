"""Kernels of the gated sum, chosen by device and type; :mod:`crysatom.nn.kernels.twin` defines what they compute."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.kernels.terms import Terms


@cache
def chosen(device: str, dtype: torch.dtype) -> ModuleType:
    """Return the kernels for tensors of this type on this kind of device.

    Compiled kernels compute in float32. Without numba (CPU) or Triton (CUDA; it comes with torch), and for float64,
    the plain ones are used.
    """
    compiled = {"cpu": "numba", "cuda": "triton"}.get(device)
    if dtype == torch.float32 and compiled and find_spec(compiled):
        return import_module(f"{__name__}.{compiled}_{device}")
    return import_module(f"{__name__}.twin")


def message_sums(terms: Terms, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.message_sums`."""
    out: Tensor = chosen(terms.center.device.type, terms.center.dtype).message_sums(terms, edges)
    return out


def message_grads(terms: Terms, grad_out: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`crysatom.nn.kernels.twin.message_grads`."""
    grads: tuple[Tensor, Tensor, Tensor] = chosen(terms.center.device.type, terms.center.dtype).message_grads(
        terms, grad_out, edges
    )
    return grads
