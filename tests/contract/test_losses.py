"""What every self-supervised loss promises: symmetry, indifference to order, sense at the extremes, gradients.

The tests iterate over ``LOSSES``: a new loss is tested without a change here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.crystals.formula import reduced_formula
from crysatom.ssl.losses import LOSSES
from crysatom.ssl.losses.barlow_twins import barlow_twins
from crysatom.ssl.losses.nt_xent import composition, nt_xent
from tests.synthetic import make_batch

Loss = Callable[[Tensor, Tensor], Tensor]


def batch_of(formulas: list[list[int]]) -> Batch:
    """Return crystals given as lists of atomic numbers."""
    sizes = torch.tensor([len(f) for f in formulas])
    numbers = torch.tensor([z for f in formulas for z in f])
    return make_batch(
        ptr=torch.nn.functional.pad(sizes.cumsum(0), (1, 0)),
        atomic_numbers=numbers,
        degree=torch.zeros_like(numbers),
        edge_ptr=torch.zeros(len(numbers) + 1, dtype=torch.long),
        edge_index=torch.zeros(2, 0, dtype=torch.long),
        distance=torch.zeros(0),
        material_key=torch.arange(len(formulas)),
    )


def in_the_objective(name: str) -> Loss:
    """Return a loss with the default options; crystals 2k and 2k + 1 have the same formula."""
    loss, config = LOSSES[name], PretrainConfig()
    return lambda a, b: loss(a, b, config, batch_of([[1 + k // 2] for k in range(len(a))]))


CASES: dict[str, Loss] = {name: loss.formula for name, loss in LOSSES.items()} | {
    f"{name} in the objective": in_the_objective(name) for name in LOSSES
}
every_loss = pytest.mark.parametrize("loss", CASES.values(), ids=CASES.keys())
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
"""For float64 sums of some hundred terms in another order."""


def views(n: int = 12, d: int = 5) -> tuple[Tensor, Tensor]:
    z = torch.randn(n, d, dtype=torch.float64)
    return z, z + 0.2 * torch.randn_like(z)


@every_loss
def test_the_views_may_be_swapped(loss: Loss) -> None:
    z_a, z_b = views()
    torch.testing.assert_close(loss(z_a, z_b), loss(z_b, z_a), **ROUNDING)


@every_loss
def test_the_order_of_crystals_does_not_matter(loss: Loss) -> None:
    z_a, z_b = views()
    order = torch.randperm(6).repeat_interleave(2) * 2 + torch.tensor([0, 1]).repeat(6)  # keeps equal labels together
    torch.testing.assert_close(loss(z_a[order], z_b[order]), loss(z_a, z_b), **ROUNDING)


@every_loss
def test_a_batch_of_one_crystal_has_a_finite_loss_and_gradient(loss: Loss) -> None:
    """The last batch of an epoch, or a held-out set, may be a single crystal."""
    z_a, z_b = (z.requires_grad_() for z in views(1))
    value = loss(z_a, z_b)
    assert torch.isfinite(value)
    if value.requires_grad:
        value.backward()
        assert torch.isfinite(z_a.grad).all()


@every_loss
def test_equal_views_lose_less_than_views_of_other_crystals(loss: Loss) -> None:
    z_a, z_b = views()
    assert loss(z_a, z_a) < loss(z_a, z_b) < loss(z_a, z_b.roll(2, 0))


@every_loss
def test_collapse_does_not_pay(loss: Loss) -> None:
    z_a, z_b = views(64)
    same = torch.ones_like(z_a) + 1e-4 * torch.randn_like(z_a)
    collapsed, matched = loss(same, same + 1e-4 * torch.randn_like(same)), loss(z_a, z_b)
    assert collapsed > matched, "vectors that are all alike must cost more than different ones whose views match"


@every_loss
def test_derivatives_match_finite_differences(loss: Loss) -> None:
    z_a, z_b = views(6, 3)
    assert torch.autograd.gradcheck(loss, (z_a.requires_grad_(), z_b.requires_grad_()))


def test_options_of_the_configuration_reach_the_formula() -> None:
    z_a, z_b = views()
    batch = batch_of([[1 + k // 2] for k in range(len(z_a))])
    config = PretrainConfig.of(barlow_lambda=0.1, barlow_divisor="nominal", batch_size=7, nt_xent_temperature=0.3)
    assert LOSSES["barlow_twins"](z_a, z_b, config, batch) == barlow_twins(z_a, z_b, 0.1, 7)
    labeled, plain = nt_xent(z_a, z_b, 0.3, composition(batch)), nt_xent(z_a, z_b, 0.3)
    assert LOSSES["nt_xent"](z_a, z_b, config, batch) == labeled != plain


def test_decorrelated_equal_views_have_no_barlow_twins_loss() -> None:
    """Columns of a Hadamard matrix are orthogonal, with mean 0 and variance 1; only the 1e-5 in the root remains."""
    h = torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64)
    z = torch.kron(torch.kron(h, h), h)[:, 1:]
    assert barlow_twins(z, z) < 1e-8


def test_supercells_and_polymorphs_have_the_same_composition() -> None:
    labels = composition(
        batch_of([[11, 17], [17, 11] * 32, [11] * 100 + [17] * 100, [22, 8, 8], [8, 8, 8, 22, 22, 8] * 7])
    )
    torch.testing.assert_close(labels[:3], labels[0].expand(3), rtol=0, atol=1e-12)
    torch.testing.assert_close(labels[3:], labels[3].expand(2), rtol=0, atol=1e-12)
    assert abs(labels[0] - labels[3]) > 1e-9


def test_different_formulas_have_different_compositions() -> None:
    """3,000 random crystals of 1 to 5 elements: the closest two distinct ones are distinguished."""
    rng = np.random.default_rng(0)
    formulas = [
        np.repeat(rng.integers(1, 104, n), rng.integers(1, 5, n)).tolist() for n in rng.integers(1, 6, 3000).tolist()
    ]
    names = [reduced_formula(f) for f in formulas]
    labels = composition(batch_of(formulas))
    order = torch.argsort(labels)
    same = torch.tensor([names[a] == names[b] for a, b in pairwise(order.tolist())])
    gaps = labels[order].diff()
    assert gaps[same].max() < 1e-12
    # About one pair in 1e9 is closer than 1e-9 by chance; there are 4.5e6 pairs.
    assert gaps[~same].min() > 1e-9
