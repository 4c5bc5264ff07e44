"""Pretraining on masked elements and on contexts of single atoms: the alternative objectives of the paper's Table 6.

Hu, Liu, Gomes, Zitnik, Liang, Pande & Leskovec, Strategies for pre-training graph neural networks, ICLR 2020,
arXiv 1905.12265, section 3.1. Implemented from that text.

In that paper, a context is a ring of atoms around a center, between two distances in bonds. A crystal has no such ring:
its graph is that of one cell, and twelve neighbors reach every atom of most cells in one or two steps. Here the center
is masked instead, in all cells, and its context is the vectors of its neighbors in the masked crystal.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.distributed import all_gather_rows, all_reduce_sum, row_range
from crysatom.names import CONTEXT, LOSS, MASKING, MAX_ATOMIC_NUMBER
from crysatom.nn.hashing import mix
from crysatom.ssl.encoder import Encoder
from crysatom.ssl.views import lowest_per_segment, mask_atoms, mask_element, stack_views

CONTEXT_LAYERS = 3
"""Convolutions of the context encoder, which is discarded after training (published: the same number)."""


def masked_element_loss(logits: Tensor, atomic_numbers: Tensor) -> Tensor:
    """Return the mean cross-entropy of elements over all workers' masked atoms (attribute masking).

    Args:
        logits: ``(m, 118)``.
        atomic_numbers: ``(m,)``.

    """
    total = F.cross_entropy(logits, atomic_numbers - 1, reduction="sum")
    sums = all_reduce_sum(torch.stack([total, total.new_full((), len(logits))]))
    return sums[0] / sums[1]


def context_loss(centers: Tensor, contexts: Tensor) -> Tensor:
    r"""Return the loss for distinguishing an atom's own context from another's (context prediction).

    .. math:: \frac{1}{2n} \sum_i -\log \sigma(h_i \cdot c_i / \sqrt D) - \log \sigma(-h_i \cdot c_{i+1} / \sqrt D)

    This is the binary cross-entropy averaged over pairs, with one negative per positive: the context of the next
    crystal of the global batch, cyclically. It is half of the loss in the authors' code, which adds the means of
    positives and negatives. A single crystal has no negative. The square root of D is ours: without it, the loss in 200
    dimensions starts at 23, thirty times that of a guess, and added to masking it would dominate the training.

    Args:
        centers: ``(n, D)`` vector of one atom of each crystal of this worker.
        contexts: ``(n, D)`` context vectors of the same atoms.

    """
    start, total = row_range(len(centers), centers.device)
    following = (start + torch.arange(len(centers), device=centers.device) + 1) % max(total, 1)
    centers = centers / math.sqrt(centers.shape[1])
    loss = F.softplus(-(centers * contexts).sum(1)).sum()
    if total > 1:
        loss = loss + F.softplus((centers * all_gather_rows(contexts)[following]).sum(1)).sum()
    return all_reduce_sum(loss) / (2 * total if total > 1 else 1)


class NodeLevelObjective(nn.Module):
    """Attribute masking, context prediction, or the sum of both, by the rule of :mod:`crysatom.distributed`.

    Differences from the paper, besides the contexts: atoms are masked entirely, by a learned vector, and edges are
    kept; contexts pass through a linear map, since vectors after a softplus have positive products.

    Args:
        config: Run configuration.
        features: ``(M, K)`` element features.
        atomic_numbers: ``(M,)`` elements of these features.

    """

    def __init__(self, config: PretrainConfig, features: Tensor, atomic_numbers: Tensor) -> None:
        super().__init__()
        self.config = config
        self.masking = config.loss.objective in {"masking", "masking_context"}
        self.context = config.loss.objective in {"context", "masking_context"}
        width, learned = config.encoder.embedding_dim, config.views.masked_atoms == "learned"

        def encoder(num_layers: int, *, learned_mask: bool) -> Encoder:
            shape = {"width": width, "num_layers": num_layers}
            return Encoder(features, atomic_numbers, **shape, cutoff=config.graph.cutoff, learned_mask=learned_mask)

        self.encoder = encoder(config.encoder.num_layers, learned_mask=learned and self.masking)
        if self.masking:
            self.element = nn.Linear(width, MAX_ATOMIC_NUMBER)
        if self.context:
            self.context_encoder = encoder(CONTEXT_LAYERS, learned_mask=learned)
            self.context_map = nn.Linear(width, width)

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Evaluate the objective on this worker's share of a global batch.

        Args:
            batch: Crystals.
            epoch: Selects the atoms, together with the seed and each crystal's id.

        Returns:
            See :meth:`crysatom.ssl.objective.Objective.forward`.

        """
        hidden, center = self.masks(batch, epoch)
        unmasked, masked = self.encode(batch, hidden)
        terms = {}
        if self.masking:
            places = hidden.nonzero()[:, 0]
            terms[MASKING] = masked_element_loss(self.element(masked[places]), batch.atomic_numbers[places].long())
        if self.context:
            terms[CONTEXT] = context_loss(unmasked[center], self.context_map(self.surroundings(batch, center)))
        return {LOSS: torch.stack(list(terms.values())).sum(), **terms, "atoms": unmasked.detach()}

    def masks(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the masked atoms and the centers of contexts, ``(N,)`` bool each."""
        stream = mix(mix(batch.material_key, self.config.seed), epoch)
        views = self.config.views
        hidden = (
            mask_element(batch, mix(stream, 0))
            if views.mask_unit == "element"
            else mask_atoms(batch, mix(stream, 0), views.atom_mask_fraction)
        )
        return hidden, one_atom(batch, mix(stream, 1))

    def encode(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the atoms' vectors in the unmasked and in the masked crystals, ``(N, D)`` each.

        If no atom is masked, both are equal.
        """
        features = self.encoder.basis(batch.distance)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.context):  # masking alone needs no gradient
            unmasked = self.encoder.unmasked(batch, features)
        if not self.masking:
            return unmasked, unmasked
        no_edge = torch.zeros_like(batch.slot, dtype=torch.bool)
        numbers, edges = stack_views(batch, features, [hidden], [no_edge], reroute=False)
        return unmasked, self.encoder(numbers, edges, track=False)

    def surroundings(self, batch: Batch, center: Tensor) -> Tensor:
        """Return the mean vector ``(B, D)`` of the neighbors of each crystal's center, with the center masked.

        Args:
            batch: B crystals.
            center: ``(N,)`` bool, one atom of each crystal.

        """
        features, no_edge = self.context_encoder.basis(batch.distance), torch.zeros_like(batch.slot, dtype=torch.bool)
        h = self.context_encoder(*stack_views(batch, features, [center], [no_edge], reroute=False))
        near = batch.distance <= self.config.graph.cutoff  # longer edges are padding
        source, target = batch.edge_index[:, center[batch.edge_index[1]] & near]
        crystal, count = batch.batch[target], len(batch.ptr) - 1
        total = h.new_zeros(count, h.shape[1]).index_add(0, crystal, h[source])
        neighbors = torch.bincount(crystal, minlength=count).clamp(min=1)  # an isolated atom has none
        mean: Tensor = total / neighbors[:, None]
        return mean

    @torch.no_grad()
    def atom_vectors(self, batch: Batch) -> Tensor:
        """Return the encoder's vectors ``(N, D)`` of the unmasked crystals' atoms."""
        return self.encoder.unmasked(batch, self.encoder.basis(batch.distance))


def one_atom(batch: Batch, stream: Tensor) -> Tensor:
    """Choose one atom of each crystal, ``(N,)`` bool.

    Args:
        batch: Crystals.
        stream: ``(B,)`` pseudo-random state of each crystal.

    """
    values = mix(stream[batch.batch], batch.atom_slot)
    return lowest_per_segment(values, batch.batch, batch.ptr, torch.ones_like(batch.material_key))
