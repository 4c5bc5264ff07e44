"""Expand distances into features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_centers(cutoff: float, step: float = 0.2) -> Tensor:
    """Return centers 0, step, ..., cutoff in angstrom; 41 for the published 8 angstrom and 0.2 angstrom."""
    return torch.arange(round(cutoff / step) + 1, dtype=torch.float64) * step


def exp_or_zero(x: Tensor) -> Tensor:
    """Return exp(x), with 0 instead of denormal numbers (below 1.2e-38 in float32).

    On Intel CPUs a product with a denormal number takes 50 times as long, and narrow Gaussians yield many.
    """
    return F.threshold(torch.exp(x), torch.finfo(x.dtype).tiny, 0.0)


def gaussian_basis(distance: Tensor, centers: Tensor) -> Tensor:
    r"""Expand distances in Gaussians, :math:`\exp(-(d - \mu)^2 / s^2)` with s the spacing of the centers.

    Xie & Grossman, PRL 120, 145301 (2018), supplement. Note that s is not a standard deviation.

    Args:
        distance: ``(E,)`` in angstrom.
        centers: ``(F,)`` in angstrom, evenly spaced.

    Returns:
        ``(E, F)``, in the type of ``centers``.

    """
    spacing = centers[1] - centers[0]
    return exp_or_zero(-(((distance.to(centers.dtype)[:, None] - centers) / spacing) ** 2))


def radial_basis(value: Tensor, centers: Tensor, gamma: float) -> Tensor:
    r"""Expand values in Gaussians, :math:`\exp(-\gamma (x - \mu)^2)`.

    In ALIGNN and models derived from it, gamma is one over the spacing of the centers, not over its square: with fine
    grids these Gaussians are wide.

    Args:
        value: ``(E,)``.
        centers: ``(F,)``.
        gamma: Exponent factor; its unit is that of the value to the power of -2.

    Returns:
        ``(E, F)``, in the type of ``centers``.

    """
    return exp_or_zero(-gamma * (value.to(centers.dtype)[:, None] - centers).square())


def expand_different(distance: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features ``(R, F)`` of the R distinct distances, and the row of each edge ``(E,)``.

    In crystals most distances occur many times: about 5 times in batches of JARVIS-DFT.

    Args:
        distance: ``(E,)`` in angstrom.
        centers: ``(F,)`` in angstrom, evenly spaced.

    """
    different, row = torch.unique(distance, return_inverse=True)
    return gaussian_basis(different, centers), row
