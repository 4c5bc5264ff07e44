"""A table of element vectors that learns by itself: it names masked elements, and predicts bond lengths.

In the mean of an atom's hidden states, what a crystal shows of an element's surroundings averages out. What replaces an
element in given surroundings, and how long its bonds are, is a property of the element: here both are learned by one
vector per element, which the encoder does not read.

B crystals, N atoms, E edges, D dimensions, Z = 118 elements (row Z - 1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.distributed import all_reduce_sum
from crysatom.graphs.counting import count
from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.nn.products import Linear

BOND_TOLERANCE = 0.15
"""Neighbors within (1 + this) times an atom's nearest distance are bonded, as in ``jobs/vectors.py``."""

MOST_BONDS = 12
"""Atoms with more bonds share the contribution of this coordination number."""

BOND_SPREAD = 0.1
"""Unit of the error of ln(bond length): with it, the loss is the negative log-likelihood of a normal distribution
up to a constant, in nats like that of the elements."""


def mean_per_crystal(values: Tensor, weight: Tensor, crystal: Tensor, num_crystals: int) -> Tensor:
    """Return the weighted mean of each crystal's values, averaged over all workers' crystals with any; a scalar.

    A crystal counts once, however large its cell is.

    Args:
        values: ``(n,)``.
        weight: ``(n,)``, positive.
        crystal: ``(n,)`` crystal of each value.
        num_crystals: B.

    """
    sums = torch.stack([values * weight, weight], dim=1)
    totals = sums.new_zeros(num_crystals, 2).index_add(0, crystal, sums)
    some = totals[:, 1] > 0
    means = torch.where(some, totals[:, 0] / totals[:, 1].clamp(min=torch.finfo(sums.dtype).tiny), 0)
    reduced = all_reduce_sum(torch.stack([means.sum(), some.sum().to(means.dtype)]))
    return reduced[0] / reduced[1].clamp(min=1)


class ElementDecoder(nn.Module):
    """Predict the element of a masked atom: the element whose vector has the largest product with the atom's.

    Args:
        width: D.

    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.atom = nn.Sequential(
            Linear(width, width), nn.SiLU(), Linear(width, width), nn.LayerNorm(width, elementwise_affine=False)
        )
        self.element = nn.Linear(width, MAX_ATOMIC_NUMBER)
        nn.init.normal_(self.element.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.element.bias)

    @property
    def rows(self) -> Tensor:
        """Return the vectors of the elements, ``(Z, D)``."""
        return self.element.weight

    def forward(self, h: Tensor) -> Tensor:
        """Return logits ``(n, Z)`` of the elements of n masked atoms, from the encoder's vectors ``(n, D)``."""
        logits: Tensor = self.element(self.atom(h))
        return logits

    def loss(self, h: Tensor, masked: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the elements of masked atoms in V views, mean per crystal and view, in nats.

        Args:
            h: ``(V, N, D)`` atoms of the views.
            masked: ``(V, N)`` bool.
            batch: The crystals.

        """
        view, atom = masked.nonzero().unbind(1)
        errors = F.cross_entropy(self(h[view, atom]), batch.atomic_numbers[atom].long() - 1, reduction="none")
        number = len(batch.ptr) - 1
        return mean_per_crystal(
            errors, torch.ones_like(errors), view * number + batch.batch[atom], len(masked) * number
        )


class BondDecoder(nn.Module):
    r"""Predict bond lengths from the vectors of the two elements and the coordination numbers of the two atoms.

    .. math:: \ln d_{ij} = \mu + b \cdot (v_i + v_j) + \tfrac{1}{2} (P v_i \cdot Q v_j + P v_j \cdot Q v_i)
        + c_{n_i} + c_{n_j}

    A bond length is a sum of radii to first order (Bragg, Phil. Mag. 40, 169 (1920)); radii depend on the coordination
    number (Shannon, Acta Cryst. A 32, 751 (1976)); the pair term is what is left, such as ionicity.

    Args:
        width: D.
        rank: Rows of P and Q.

    """

    def __init__(self, width: int, rank: int = 16) -> None:
        super().__init__()
        self.size = nn.Linear(width, 1)
        self.left = nn.Linear(width, rank, bias=False)
        self.right = nn.Linear(width, rank, bias=False)
        self.coordination = nn.Embedding(MOST_BONDS + 1, 1)
        nn.init.zeros_(self.coordination.weight)
        nn.init.constant_(self.size.bias, 0.5)  # twice this is about ln(2.7 angstrom)

    def forward(self, rows: Tensor) -> Tensor:
        """Return ln(d / angstrom) of each pair of elements, ``(Z, Z)``, without coordination, from ``(Z, D)``."""
        size, pair = self.size(rows), self.left(rows) @ self.right(rows).T
        log_length: Tensor = size + size.T + (pair + pair.T) / 2
        return log_length

    def columns(self, rows: Tensor, rank: int) -> Tensor:
        """Return what the decoder knows of each element's bonds, ``(n, 1 + rank)``, from vectors ``(n, D)``.

        The first column is the element's own length, with variance 1. The others are the leading eigenvectors of the
        pair term times the roots of their absolute eigenvalues relative to the largest; the first has mean square 1.
        """
        size, pair = self.size(rows), self.left(rows) @ self.right(rows).T
        values, vectors = torch.linalg.eigh((pair + pair.T) / 2)
        first = values.abs().argsort(descending=True)[:rank]
        share = (values[first] / values[first[:1]]).abs().sqrt()
        standard = (size - size.mean()) / size.std(correction=0)
        return torch.cat([standard, vectors[:, first] * share * math.sqrt(len(rows))], dim=1)

    def loss(self, rows: Tensor, batch: Batch, cutoff: float) -> Tensor:
        """Return the squared error of ln d over bonds, in units of :data:`BOND_SPREAD`, halved, mean per crystal.

        A neighbor is bonded if it is at most ``1 + BOND_TOLERANCE`` times as far as the nearest. Each atom of a crystal
        has the same weight, however many bonds it has.

        Args:
            rows: ``(Z, D)``.
            batch: Crystals.
            cutoff: Edges longer than this are padding, in angstrom.

        """
        center = batch.edge_index[1]
        nearest = torch.full((batch.num_nodes,), math.inf, dtype=batch.distance.dtype, device=center.device)
        nearest = nearest.scatter_reduce(0, center, batch.distance, "amin")
        bonded = (batch.distance <= (1 + BOND_TOLERANCE) * nearest[center]) & (batch.distance <= cutoff)
        edges = bonded.nonzero()[:, 0]  # the only wait for the device
        source, center = batch.edge_index.index_select(1, edges)
        bonds = count(center, batch.num_nodes)
        shared = self.coordination(bonds.clamp(max=MOST_BONDS))[:, 0]
        element = batch.atomic_numbers.long() - 1
        log_length = self(rows).flatten().index_select(0, element[source] * MAX_ATOMIC_NUMBER + element[center])
        predicted = log_length + shared.index_select(0, source) + shared.index_select(0, center)
        error = (predicted - batch.distance.index_select(0, edges).log()) / BOND_SPREAD
        crystal, weight = batch.batch[center], 1 / bonds[center].to(error.dtype)
        return mean_per_crystal(error.square() / 2, weight, crystal, len(batch.ptr) - 1)
