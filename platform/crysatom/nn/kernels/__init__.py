"""Kernels of the gated sum, chosen by device and type; :mod:`crysatom.nn.kernels.twin` defines what they compute."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch


@cache
def kernels(device: str, dtype: torch.dtype) -> Any:
    """Return the module of kernels for tensors of this type on this kind of device.

    Compiled kernels compute in float32. Float64 is left to the plain ones, and so is everything without numba (CPU) or
    Triton (CUDA; it comes with torch).
    """
    compiled = {"cpu": "numba", "cuda": "triton"}.get(device)
    if dtype == torch.float32 and compiled and find_spec(compiled):
        return import_module(f"{__name__}.{compiled}_{device}")
    return import_module(f"{__name__}.twin")
