"""Decoders of the auto-encoder and their reconstruction losses (paper eq. 2-5).

B crystals, N atoms, P = sum of n_b^2 ordered pairs of atoms of the same crystal, D dimensions.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.distributed import all_reduce_sum
from crysatom.graphs.counting import count
from crysatom.nn.products import linear

NUM_CLASSES = 6
"""Classes of the number of edges between two atoms: 0, 1, 2, 3, 4, and 5 or more."""

NO_EDGE_WEIGHT = 0.1
"""Published weight of pairs without an edge, which are most; the other classes have weight 1."""


def feature_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy over all workers' atoms and features (paper eq. 3).

    Args:
        logits: ``(N, K)``.
        target: ``(N, K)`` in [0, 1].

    """
    total = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    number = all_reduce_sum(total.new_full((1,), logits.numel()))
    return all_reduce_sum(total) / number[0]


def pair_ptr(ptr: Tensor) -> Tensor:
    """Return the index of the first of each crystal's n^2 ordered pairs, ``(B + 1,)``."""
    return F.pad(ptr.diff().square().cumsum(0), (1, 0))


def edge_counts(batch: Batch, num_pairs: int) -> Tensor:
    """Return the number of edges from atom j to atom i, at most 5, of each of the P ordered pairs (i, j), ``(P,)``."""
    source, center = batch.edge_index
    crystal = batch.batch[center]
    first, size = batch.ptr[crystal], batch.ptr.diff()[crystal]
    pair = pair_ptr(batch.ptr)[crystal] + (center - first) * size + (source - first)
    return count(pair, num_pairs).clamp_(max=NUM_CLASSES - 1)


def connectivity_loss(logits: Tensor, target: Tensor, ptr: Tensor, *, per_crystal: bool) -> Tensor:
    """Return the weighted negative log-likelihood over all workers' pairs (paper eq. 5).

    Args:
        logits: ``(P, 6)``.
        target: ``(P,)`` classes.
        ptr: ``(B + 1,)`` first atom of each crystal.
        per_crystal: Average within each crystal first, so that a crystal counts once, not n^2 times.

    """
    weight = logits.new_ones(len(target)).masked_fill_(target == 0, NO_EDGE_WEIGHT)
    loss = F.cross_entropy(logits, target, reduction="none") * weight
    if per_crystal:
        sizes = ptr.diff().square()
        crystal = torch.arange(len(sizes), device=ptr.device).repeat_interleave(sizes, output_size=len(logits))
        loss, weight = (x.new_zeros(len(sizes)).index_add(0, crystal, x) for x in (loss, weight))
        loss, weight = loss / weight, torch.ones_like(loss)
    sums = all_reduce_sum(torch.stack([loss.sum(), weight.sum()]))
    return sums[0] / sums[1]


class ConnectivityDecoder(nn.Module):
    r"""Number of edges between two atoms from their vectors (paper eq. 4), :math:`W_1 (a_i^T W_c a_j + b) + b_1`.

    The published code evaluates the bilinear form on every materialized pair, 12 D^2 operations each. Here the 6x6 map
    is folded into it, :math:`a_i^T W'_c` is computed once per atom, and crystals of similar size are multiplied
    together: about 12 D operations per pair, with the same result.

    Args:
        width: D.

    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(width, width, NUM_CLASSES)
        self.mix = nn.Linear(NUM_CLASSES, NUM_CLASSES)

    def forward(self, atoms: Tensor, ptr: Tensor) -> Tensor:
        """Return logits ``(P, 6)``, pairs (i, j) of a crystal in row-major order, from ``(N, D)`` vectors."""
        weight = torch.einsum("kc,cde->dke", self.mix.weight, self.bilinear.weight)
        bias = F.linear(self.bilinear.bias, self.mix.weight, self.mix.bias)
        left = linear(atoms, weight.flatten(1).T)
        starts, sizes = pair_ptr(ptr), ptr.diff()
        buckets = size_buckets(sizes)
        if not buckets:
            return atoms.new_zeros(0, NUM_CLASSES) + bias + 0 * left.sum()
        num_pairs = sum(size**2 for _, held in buckets for size in held)
        padded = [_padded_atoms(ptr, crystals, max(held)) for crystals, held in buckets]
        every = torch.cat([index.flatten() for index, _ in padded])  # one gather, since its gradient is a whole table
        rows = [index.numel() for index, _ in padded]
        gathered = zip(*(x.index_select(0, every).split(rows) for x in (left, atoms)), strict=True)
        logits, places = [], []
        for (crystals, held), (_, valid), (a, b) in zip(buckets, padded, gathered, strict=True):
            size = max(held)
            scores = a.view(len(crystals), size * NUM_CLASSES, -1) @ b.view(len(crystals), size, -1).mT
            logits.append(scores.view(len(crystals), size, NUM_CLASSES, size).transpose(2, 3).flatten(0, 2))
            local = torch.arange(size, device=ptr.device)
            place = starts[crystals][:, None, None] + local[:, None] * sizes[crystals][:, None, None] + local
            pairs = valid[:, :, None] & valid[:, None, :]
            places.append(torch.where(pairs, place, num_pairs).flatten())
        found = atoms.new_empty(num_pairs + 1, NUM_CLASSES)  # pairs with padding go to the last row
        return found.index_copy(0, torch.cat(places), torch.cat(logits))[:-1] + bias


def size_buckets(sizes: Tensor) -> list[tuple[Tensor, list[int]]]:
    """Group crystals whose sizes differ by a factor of at most about 1.4; return their indices and their sizes."""
    bucket = torch.ceil(2 * torch.log2(sizes.double()) - 1e-9).long()
    order = bucket.argsort(stable=True)
    found, start = [], 0
    ordered = torch.stack([bucket, sizes])[:, order].tolist()  # the only wait for the device
    for _, run in itertools.groupby(zip(*ordered, strict=True), key=lambda pair: pair[0]):
        held = [size for _, size in run]
        found.append((order[start : start + len(held)], held))
        start += len(held)
    return found


def _padded_atoms(ptr: Tensor, crystals: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return atom indices ``(b, size)``, padded with the first atom, and the mask of real atoms."""
    local = torch.arange(size, device=ptr.device)
    valid = local < ptr.diff()[crystals][:, None]
    return ptr[crystals][:, None] + local * valid, valid


class FeatureDecoder(nn.Linear):
    """Predict element features from an atom's vector (paper eq. 2): ``(N, D)`` to logits ``(N, K)``."""


class ProjectionHead(nn.Sequential):
    """Map a crystal's pooled vector to the space where views are compared (paper eq. 6).

    Args:
        width: D.
        dim: Width of the hidden and output layers.

    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__(
            nn.Softplus(), nn.Linear(width, dim), nn.Softplus(), nn.Linear(dim, dim), nn.Softplus(), nn.Linear(dim, dim)
        )
