"""Barlow Twins (Zbontar et al., ICML 2021, arXiv 2103.03230; paper eq. 7 and 8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.distributed import all_reduce_sum


def standardize(z: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Return z with zero mean and unit variance per column over all workers, and the number of rows."""
    count = all_reduce_sum(z.new_full((1,), len(z)))[0]
    centered = z - all_reduce_sum(z.sum(0)) / count
    variance = all_reduce_sum(centered.square().sum(0)) / count
    return centered * torch.rsqrt(variance + eps), count


def cross_correlation(z_a: Tensor, z_b: Tensor, divisor: int | None = None) -> Tensor:
    r"""Return :math:`C_{ij} = \frac{1}{n} \sum_b \hat z^A_{bi} \hat z^B_{bj}` over all workers, ``(d, d)``.

    Args:
        z_a: ``(n, d)``.
        z_b: ``(n, d)``.
        divisor: Divide by this instead of n (the published code does, by 128).

    """
    both, count = standardize(torch.cat([z_a, z_b], dim=1))
    a, b = both.chunk(2, dim=1)
    return all_reduce_sum(a.T @ b) / (count if divisor is None else divisor)


def barlow_twins(z_a: Tensor, z_b: Tensor, off_diagonal_weight: float = 0.0051, divisor: int | None = None) -> Tensor:
    r"""Return :math:`\sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2`."""
    c = cross_correlation(z_a, z_b, divisor)
    diagonal = torch.diagonal(c)
    on = (1 - diagonal).square().sum()
    off = c.square().sum() - diagonal.square().sum()
    return on + off_diagonal_weight * off


def divisor_of(config: PretrainConfig) -> int | None:
    """Return the divisor of the cross-correlation; None means the number of crystals in the batch."""
    return config.optimization.batch_size if config.loss.barlow_divisor == "nominal" else None


def options(config: PretrainConfig, batch: Batch) -> dict[str, Any]:  # noqa: ARG001
    """Return the options of :func:`barlow_twins`."""
    return {"off_diagonal_weight": config.loss.barlow_lambda, "divisor": divisor_of(config)}
