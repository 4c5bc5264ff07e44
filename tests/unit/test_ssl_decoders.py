"""Decoders and reconstruction losses against explicit torch code on every pair and atom.

float64; tolerance 1e-12 relative to values of order one: the factored form sums in another order.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn.pooling import pool
from crysatom.ssl.decoders import (
    NO_EDGE_WEIGHT,
    ConnectivityDecoder,
    ProjectionHead,
    connectivity_loss,
    edge_counts,
    feature_loss,
    pair_ptr,
    size_buckets,
)
from tests.synthetic import random_batch

WIDTH = 6
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
SIZES = {"mixed": [3, 1, 12, 5, 1, 8, 2], "one atom": [1], "one crystal": [9], "equal": [4, 4, 4], "large": [70, 2]}


def offsets(sizes: list[int]) -> Tensor:
    return F.pad(torch.tensor(sizes, dtype=torch.long).cumsum(0), (1, 0))


def all_pairs(ptr: Tensor) -> tuple[Tensor, Tensor]:
    """Every ordered pair (i, j) of atoms of the same crystal, crystal by crystal, row by row."""
    pairs = [(i, j) for a, b in itertools.pairwise(ptr) for i in range(a, b) for j in range(a, b)]
    index = torch.tensor(pairs).reshape(-1, 2)
    return index[:, 0], index[:, 1]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_connectivity_logits_are_those_of_the_bilinear_layer(sizes: list[int]) -> None:
    decoder = ConnectivityDecoder(WIDTH).double()
    ptr = offsets(sizes)
    atoms = torch.randn(int(ptr[-1]), WIDTH, dtype=torch.float64, requires_grad=True)
    i, j = all_pairs(ptr)
    expected = decoder.mix(decoder.bilinear(atoms[i], atoms[j]))
    logits = decoder(atoms, ptr)
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    leaves = [atoms, *decoder.parameters()]
    cotangent = torch.randn_like(logits)
    ours, theirs = (torch.autograd.grad(x, leaves, cotangent) for x in (logits, expected))
    for mine, reference in zip(ours, theirs, strict=True):
        # Sums over up to 4,904 pairs: the scale is that of the largest entry.
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-12 * max(1.0, float(reference.abs().max())))


def test_connectivity_of_no_crystals_is_empty_and_has_gradients() -> None:
    decoder = ConnectivityDecoder(WIDTH)
    logits = decoder(torch.zeros(0, WIDTH), torch.zeros(1, dtype=torch.long))
    assert logits.shape == (0, 6)
    logits.sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in decoder.parameters())


@pytest.mark.parametrize("sizes", [[], [1], [1, 2, 3, 4, 5, 6, 7, 8, 500, 499, 16, 17], list(range(1, 200))])
def test_buckets_hold_each_crystal_once_and_are_narrow(sizes: list[int]) -> None:
    buckets = size_buckets(torch.tensor(sizes, dtype=torch.long))
    assert sorted(torch.cat([b for b, _ in buckets]).tolist() if buckets else []) == list(range(len(sizes)))
    for members, held in buckets:
        assert held == [sizes[k] for k in members.tolist()]
        assert max(held) <= 1.5 * min(held)


def test_edge_counts_are_those_of_a_loop() -> None:
    batch = random_batch(9)
    i, j = all_pairs(batch.ptr)
    edges = batch.edge_index.T.tolist()
    # random_batch has crystals of one atom with more than 5 edges to itself, and pairs without any.
    expected = [min(5, edges.count([b, a])) for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    assert edge_counts(batch, len(i)).tolist() == expected
    assert {0, 5} <= set(expected)
    assert pair_ptr(batch.ptr).tolist() == offsets([int(n) ** 2 for n in batch.ptr.diff()]).tolist()


def test_feature_loss_is_the_mean_binary_cross_entropy() -> None:
    logits, target = torch.randn(7, 5, dtype=torch.float64), (torch.rand(7, 5) < 0.3).double()
    p = torch.sigmoid(logits)
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(feature_loss(logits, target), expected, **TOLERANCE)


@pytest.mark.parametrize("per_crystal", [False, True])
def test_connectivity_loss_is_torchs_weighted_likelihood(per_crystal: bool) -> None:
    ptr = offsets([3, 1, 6])
    starts = pair_ptr(ptr)
    logits = torch.randn(int(starts[-1]), 6, dtype=torch.float64)
    target = torch.randint(0, 6, (len(logits),))
    criterion = torch.nn.NLLLoss(weight=torch.tensor([NO_EDGE_WEIGHT, 1, 1, 1, 1, 1], dtype=torch.float64))
    scores = F.log_softmax(logits, dim=1)
    if per_crystal:
        parts = [criterion(scores[a:b], target[a:b]) for a, b in itertools.pairwise(starts)]
        expected = torch.stack(parts).mean()
    else:
        expected = criterion(scores, target)
    torch.testing.assert_close(connectivity_loss(logits, target, ptr, per_crystal=per_crystal), expected, **TOLERANCE)


def test_a_crystal_counts_once_however_many_atoms_it_has() -> None:
    small, large = offsets([2]), offsets([9])
    logits = {p: torch.randn(int(p[-1]) ** 2, 6, dtype=torch.float64) for p in (small, large)}
    target = {p: torch.randint(0, 6, (int(p[-1]) ** 2,)) for p in (small, large)}
    alone = [connectivity_loss(logits[p], target[p], p, per_crystal=True) for p in (small, large)]
    together = connectivity_loss(
        torch.cat(list(logits.values())), torch.cat(list(target.values())), offsets([2, 9]), per_crystal=True
    )
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2, **TOLERANCE)


def test_pooling_is_the_mean_over_atoms() -> None:
    batch = random_batch(5)
    h = torch.randn(batch.num_nodes, 4, dtype=torch.float64)
    expected = torch.stack([h[a:b].mean(0) for a, b in zip(batch.ptr[:-1], batch.ptr[1:], strict=True)])
    torch.testing.assert_close(pool(h, batch), expected, **TOLERANCE)


def test_projection_head_is_that_of_the_paper() -> None:
    """Paper eq. 6 as released: softplus, W, then linear, softplus, linear."""
    head = ProjectionHead(5, 3).double()
    names = [name for name, _ in head.named_parameters()]
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(3, 5), (3,), (3, 3), (3,), (3, 3), (3,)]
    w, b, w1, b1, w2, b2 = (dict(head.named_parameters())[n] for n in names)
    z = torch.randn(4, 5, dtype=torch.float64)
    expected = F.softplus(F.softplus(F.softplus(z) @ w.T + b) @ w1.T + b1) @ w2.T + b2
    torch.testing.assert_close(head(z), expected, **TOLERANCE)
