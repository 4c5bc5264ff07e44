"""SkipAtom from counts. Antunes, Grau-Crespo & Butler, npj Comput. Mater. 8, 44 (2022).

A network with one hidden, linear layer predicts the element of a bonded neighbor from that of a site; its first weights
are the vectors. The published code reads one pair at a time, 15 million in an epoch. It can only learn from the counts
n_ab of pairs of elements, so the same loss is a sum over pairs of *elements*,

    L = - sum_ab (n_ab / n) log softmax_b((v_a + c) W + d),

evaluated exactly, without sampling. With at least as many dimensions as elements, the minimum is the entropy of
neighbors given the element. Any sufficiently rich geometry of the vectors reaches it; which one results depends on the
optimizer, and less on the small random initialization. Adam at its published learning rate sees all pairs in each step,
or a batch drawn from them. Batches of the published size drawn from the counts have the distribution of batches drawn
from a list of pairs with replacement, so their noise, which shapes the published vectors, does not need the list.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crysatom.vectors.elements import element_table

Array = NDArray[Any]

F_BLOCK_GROUP = 3
"""Group of lanthanides and actinides in pymatgen, which SkipAtom uses."""


class Factors(NamedTuple):
    """Learned vectors and their loss.

    Attributes:
        vectors: ``(M, D)`` float64.
        loss: Final loss, in nats.
        entropy: Lower bound of the loss for any vectors, in nats.

    """

    vectors: Array
    loss: float
    entropy: float


def factorize(pairs: Array, dim: int, *, steps: int, lr: float, seed: int, batch_size: int = 0) -> Factors:
    """Learn vectors of M elements from ``(M, M)`` counts of pairs; no row may be zero.

    Args:
        pairs: Counts by the element of a site (row) and of its neighbor (column).
        dim: D.
        steps: Number of Adam steps.
        lr: Learning rate; published: 0.01.
        seed: Seed of the initialization and of the batches.
        batch_size: Pairs drawn for each step, with replacement; 0: each step takes all pairs.

    """
    share = torch.from_numpy(pairs / pairs.sum())
    generator = torch.Generator().manual_seed(seed)
    size = len(pairs)
    limit = (6 / (size + dim)) ** 0.5  # Glorot & Bengio, AISTATS 2010: the initialization of Keras

    def uniform(*shape: int) -> Tensor:
        drawn: Tensor = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * limit
        return drawn

    vectors, weights = uniform(size, dim), uniform(dim, size)
    bias, shift = torch.zeros(dim, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    parameters = [parameter.requires_grad_() for parameter in (vectors, weights, bias, shift)]
    optimizer = torch.optim.Adam(parameters, lr=lr, eps=1e-8)
    ends = share.reshape(-1).cumsum(0)
    for _ in range(steps):
        optimizer.zero_grad()
        seen = _drawn(ends, batch_size, generator).view_as(share) if batch_size else share
        loss = cross_entropy(seen, vectors, weights, bias, shift)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        loss = cross_entropy(share, vectors, weights, bias, shift)
    given = share / share.sum(1, keepdim=True)
    return Factors(vectors.detach().numpy(), loss.item(), -torch.special.xlogy(share, given).sum().item())


def _drawn(ends: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Draw cells at random, by their cumulative probabilities; return the share of each cell among the draws."""
    places = torch.rand(number, generator=generator, dtype=ends.dtype) * ends[-1]
    cells = torch.searchsorted(ends, places, right=True).clamp(max=len(ends) - 1)
    return torch.bincount(cells, minlength=len(ends)).to(ends.dtype) / number


def cross_entropy(share: Tensor, vectors: Tensor, weights: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """Return the loss, a scalar, in nats.

    Args:
        share: ``(M, M)``, fraction of each pair among all pairs.
        vectors: ``(M, D)``.
        weights: ``(D, M)``.
        bias: ``(D,)``, c above.
        shift: ``(M,)``, d above.

    """
    return -(share * torch.log_softmax((vectors + bias) @ weights + shift, dim=1)).sum()


def induced(vectors: Array, atomic_numbers: Array, rare: Array, nearest: int = 5) -> Array:
    """Return vectors in which rare elements borrow from the vectors of similar elements.

    The mean of exp(-i) v_i is added to the vector of a rare element, where i = 0, 1, ... counts the elements nearest by
    group, period and Pauling's electronegativity. The published code changes the table while reading it, so its result
    depends on the order; here all v_i are the given vectors. Elements without an electronegativity are unchanged and
    similar to none.

    Args:
        vectors: ``(M, D)``.
        atomic_numbers: ``(M,)``.
        rare: ``(M,)`` bool.
        nearest: Number of similar elements to add.

    """
    facts = [element_table()[z] for z in atomic_numbers.tolist()]
    places = np.array(
        [(f["group"] or F_BLOCK_GROUP, f["period"], f["electronegativity_pauling"] or np.nan) for f in facts], float
    )
    known = np.flatnonzero(np.isfinite(places).all(axis=1))
    result = vectors.copy()
    for element in np.intersect1d(np.flatnonzero(rare), known).tolist():
        others = known[known != element]
        distance = np.linalg.norm(places[others] - places[element], axis=1)
        like = others[np.argsort(distance, kind="stable")[:nearest]]
        if len(like):
            result[element] += (np.exp(-np.arange(len(like)))[:, None] * vectors[like]).mean(axis=0)
    return result
