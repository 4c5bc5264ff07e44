"""Self-supervised losses against the formulas of their papers, with loops over crystals and dimensions.

float64. Tolerance 1e-10 relative: sums of some hundred terms in another order, and square roots near zero.
"""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from crysatom.ssl.losses.barlow_twins import barlow_twins, cross_correlation
from crysatom.ssl.losses.nt_xent import nt_xent
from crysatom.ssl.losses.vicreg import vicreg

TOLERANCE = 1e-10
N, D = 9, 4


@pytest.fixture(name="views")
def _views() -> tuple[Tensor, Tensor]:
    z = torch.randn(N, D, dtype=torch.float64) * torch.tensor([0.3, 1.0, 2.0, 0.1]) + 1
    return z, z + 0.3 * torch.randn_like(z)


def barlow_of_paper(z_a: Tensor, z_b: Tensor, weight: float, divisor: int) -> float:
    """Zbontar et al. 2021, eq. 1 and algorithm 1: batch normalization without affine map, then C = A^T B / n."""
    bn = torch.nn.BatchNorm1d(z_a.shape[1], affine=False).double()
    a, b = bn(z_a), bn(z_b)
    loss = 0.0
    for i, j in product(range(a.shape[1]), repeat=2):
        c = sum(float(a[k, i] * b[k, j]) for k in range(len(a))) / divisor
        loss += (1 - c) ** 2 if i == j else weight * c**2
    return loss


def vicreg_of_paper(z_a: Tensor, z_b: Tensor, weights: tuple[float, float, float]) -> float:
    """Bardes et al. 2022, eq. 1 to 6; the hinge averaged over the two views, as in the authors' code."""

    def variance(z: Tensor) -> float:
        return sum(max(0.0, 1 - math.sqrt(float(z[:, j].var()) + 1e-4)) for j in range(D)) / D

    def covariance(z: Tensor) -> float:
        centered = z - z.mean(0)
        c = sum(torch.outer(row, row) for row in centered) / (len(z) - 1)
        return sum(float(c[i, j]) ** 2 for i, j in product(range(D), repeat=2) if i != j) / D

    similarity = sum(float((a - b).square().mean()) for a, b in zip(z_a, z_b, strict=True)) / len(z_a)
    hinge, spread = variance(z_a) / 2 + variance(z_b) / 2, covariance(z_a) + covariance(z_b)
    return weights[0] * similarity + weights[1] * hinge + weights[2] * spread


def nt_xent_of_paper(z_a: Tensor, z_b: Tensor, temperature: float, formulas: list[str] | None = None) -> float:
    """Chen et al. 2020, eq. 1, averaged over the 2n views; crystals of the anchor's formula are not negatives."""
    z, n = torch.cat([z_a, z_b]), len(z_a)
    names = [str(k) for k in range(n)] if formulas is None else formulas

    def similarity(i: int, k: int) -> float:
        return float(z[i] @ z[k] / (z[i].norm() * z[k].norm())) / temperature

    loss = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = [k for k in range(2 * n) if k == partner or (k != i and names[k % n] != names[i % n])]
        loss -= similarity(i, partner) - math.log(sum(math.exp(similarity(i, k)) for k in others))
    return loss / (2 * n)


def test_barlow_twins(views: tuple[Tensor, Tensor]) -> None:
    for divisor in (None, 128):
        expected = barlow_of_paper(*views, 0.0051, divisor or N)
        assert barlow_twins(*views, 0.0051, divisor).item() == pytest.approx(expected, rel=TOLERANCE)


def test_cross_correlation_is_pearsons(views: tuple[Tensor, Tensor]) -> None:
    """Except for the 1e-5 added to variances of at least 0.01: a relative difference of at most 1e-3."""
    pearson = torch.corrcoef(torch.cat(views, dim=1).T)[:D, D:]
    torch.testing.assert_close(cross_correlation(*views), pearson, rtol=1e-3, atol=1e-3)


def test_vicreg(views: tuple[Tensor, Tensor]) -> None:
    # The authors' 25, 25, 1, divided by 25.
    assert vicreg(*views).item() == pytest.approx(vicreg_of_paper(*views, (1, 1, 1 / 25)), rel=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent(views: tuple[Tensor, Tensor], temperature: float) -> None:
    expected = nt_xent_of_paper(*views, temperature)
    assert nt_xent(*views, temperature).item() == pytest.approx(expected, rel=TOLERANCE)
    different = torch.arange(N, dtype=torch.float64)
    assert nt_xent(*views, temperature, different).item() == pytest.approx(expected, rel=TOLERANCE)


def test_nt_xent_takes_no_negatives_of_the_same_formula(views: tuple[Tensor, Tensor]) -> None:
    formulas = ["NaCl", "Si", "NaCl", "TiO2", "TiO2", "NaCl", "Fe", "Cu", "Si"]
    labels = torch.tensor([sorted(set(formulas)).index(f) / 7 for f in formulas], dtype=torch.float64)
    expected = nt_xent_of_paper(*views, 0.5, formulas)
    assert nt_xent(*views, 0.5, labels).item() == pytest.approx(expected, rel=TOLERANCE)
    assert abs(expected - nt_xent_of_paper(*views, 0.5)) > 1e-3
