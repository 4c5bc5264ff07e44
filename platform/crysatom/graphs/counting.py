"""Count indices without waiting for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def count(index: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """Return how often each number below ``size`` occurs, or the sum of its weights, ``(size,)``.

    On a GPU, ``torch.bincount`` makes the host wait for two values, the smallest and the largest index.

    Args:
        index: ``(n,)`` int64, in ``0..size - 1``.
        size: Number of counts.
        weights: ``(n,)``; None: one each, and the counts are int64.

    """
    if index.device.type == "cpu":
        return torch.bincount(index, weights, minlength=size)
    return scattered(index, size, weights)


def scattered(index: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """Return the same by adding in place, slower on a CPU."""
    weights = torch.ones_like(index) if weights is None else weights
    return weights.new_zeros(size).index_add(0, index, weights)
