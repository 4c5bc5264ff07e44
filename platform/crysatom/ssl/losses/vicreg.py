"""VICReg (Bardes, Ponce & LeCun, ICLR 2022, arXiv 2105.04906)."""

from __future__ import annotations

import torch
from torch import Tensor

from crysatom.distributed import all_reduce_sum

INVARIANCE, VARIANCE, COVARIANCE = 1.0, 1.0, 0.04
"""The published 25, 25, 1, divided by 25 so that the sum has the scale of the reconstruction losses."""


def invariance(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the mean squared difference of the views over all workers (eq. 5)."""
    sums = all_reduce_sum(torch.stack([(z_a - z_b).square().sum(), z_a.new_full((), z_a.numel())]))
    return sums[0] / sums[1]


def covariance_matrix(z: Tensor) -> Tensor:
    """Return the unbiased covariance over all workers, ``(d, d)`` (eq. 3); zero for a single crystal."""
    count = all_reduce_sum(z.new_full((1,), len(z)))[0]
    centered = z - all_reduce_sum(z.sum(0)) / count
    return all_reduce_sum(centered.T @ centered) / (count - 1).clamp(min=1)


def variance(cov: Tensor, eps: float = 1e-4) -> Tensor:
    """Return the mean hinge on the standard deviation of each dimension (eq. 1 and 2)."""
    return torch.relu(1 - torch.sqrt(torch.diagonal(cov) + eps)).mean()


def covariance(cov: Tensor) -> Tensor:
    """Return the sum of squared off-diagonal entries per dimension (eq. 4)."""
    return (cov.square().sum() - torch.diagonal(cov).square().sum()) / len(cov)


def vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the weighted sum of the three terms (eq. 6); variance averaged over the views as in the authors' code."""
    cov_a, cov_b = covariance_matrix(z_a), covariance_matrix(z_b)
    return (
        INVARIANCE * invariance(z_a, z_b)
        + VARIANCE * (variance(cov_a) + variance(cov_b)) / 2
        + COVARIANCE * (covariance(cov_a) + covariance(cov_b))
    )
