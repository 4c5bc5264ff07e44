"""Joint objective of pretraining: auto-encoder and self-supervised loss (paper eq. 9)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.graphs.counting import count
from crysatom.names import BONDS, CONNECTIVITY, FEATURES, LOSS, MASKING, SSL
from crysatom.nn.hashing import mix
from crysatom.nn.pooling import pool
from crysatom.ssl.decoders import (
    ConnectivityDecoder,
    FeatureDecoder,
    ProjectionHead,
    connectivity_loss,
    edge_counts,
    feature_loss,
)
from crysatom.ssl.element_decoder import BondDecoder, ElementDecoder
from crysatom.ssl.encoder import Encoder
from crysatom.ssl.losses import LOSSES
from crysatom.ssl.losses.barlow_twins import cross_correlation, divisor_of
from crysatom.ssl.views import mask_atoms, mask_edges, mask_element, stack_views


class Objective(nn.Module):
    """CrysAtom's objective: from a batch of crystals to the loss.

    The forward pass is the whole training step up to the loss, so that one wrapper (DistributedDataParallel) sees every
    parameter once.

    Args:
        config: Run configuration.
        features: ``(M, K)`` element features, input and reconstruction target.
        atomic_numbers: ``(M,)`` elements of these features.

    """

    def __init__(self, config: PretrainConfig, features: Tensor, atomic_numbers: Tensor) -> None:
        super().__init__()
        self.config = config
        self.num_views = 2 if config.loss.ssl_loss != "none" else 1 if config.loss.element_weight else 0
        self.encoder = Encoder(
            features,
            atomic_numbers,
            width=config.encoder.embedding_dim,
            num_layers=config.encoder.num_layers,
            cutoff=config.graph.cutoff,
            learned_mask=config.views.masked_atoms == "learned" and self.num_views > 0,
        )
        self.connectivity = ConnectivityDecoder(config.encoder.embedding_dim)
        self.features = FeatureDecoder(config.encoder.embedding_dim, features.shape[1])
        if config.loss.ssl_loss != "none":
            self.projection = ProjectionHead(config.encoder.embedding_dim, config.encoder.projection_dim)
        if config.loss.element_weight or config.loss.bond_weight:
            self.element = ElementDecoder(config.encoder.embedding_dim)
        if config.loss.bond_weight:
            self.bonds = BondDecoder(config.encoder.embedding_dim)

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Evaluate the objective on this worker's share of a global batch.

        Args:
            batch: Crystals.
            epoch: Determines the masks, together with the seed and each crystal's id.

        Returns:
            Terms of the objective over the global batch, each a scalar that is equal on all workers.
            ``atoms`` holds the unmasked crystals' atom vectors ``(N, D)``, detached.

        """
        masked, edges = self.masks(batch, epoch)
        views = self.encode(batch, masked, edges)
        atoms = F.normalize(views[0])
        logits = self.connectivity(atoms, batch.ptr)
        terms = {
            CONNECTIVITY: connectivity_loss(
                logits,
                edge_counts(batch, len(logits)),
                batch.ptr,
                per_crystal=self.config.loss.connectivity_mean == "crystals",
            ),
            FEATURES: feature_loss(self.features(atoms), self.encoder.features[batch.atomic_numbers.long()]),
        }
        loss = (
            self.config.loss.connectivity_weight * terms[CONNECTIVITY]
            + self.config.loss.feature_weight * terms[FEATURES]
        )
        if self.config.loss.ssl_loss != "none":
            z_a, z_b = (self.project(view, batch) for view in views[1:])
            terms[SSL] = self.compare(z_a, z_b, batch)
            loss = loss + self.config.loss.ssl_weight * terms[SSL]
        if self.config.loss.element_weight:
            terms[MASKING] = self.element.loss(views[1:], torch.stack(masked), batch)
            loss = loss + self.config.loss.element_weight * terms[MASKING]
        if self.config.loss.bond_weight:
            terms[BONDS] = self.bonds.loss(self.element.rows, batch, self.config.graph.cutoff)
            loss = loss + self.config.loss.bond_weight * terms[BONDS]
        return {LOSS: loss, **terms, "atoms": views[0].detach()}

    def encode(self, batch: Batch, atoms: list[Tensor], edges: list[Tensor]) -> Tensor:
        """Return atom vectors of the unmasked crystals and of V views with these masks, ``(1 + V, N, D)``."""
        features = self.encoder.basis(batch.distance)
        unmasked = self.encoder.unmasked(batch, features)
        return torch.cat([unmasked[None], self.view(batch, features, atoms, edges)]) if atoms else unmasked[None]

    def view(self, batch: Batch, features: tuple[Tensor, Tensor], atoms: list[Tensor], edges: list[Tensor]) -> Tensor:
        """Return atom vectors of V views with these masks, ``(V, N, D)``, given the encoder's ``basis``."""
        reroute = self.config.views.masked_edges == "rerouted"
        numbers, stacked = stack_views(batch, features, atoms, edges, reroute=reroute)
        h: Tensor = self.encoder(numbers, stacked, track=False)
        return h.view(len(atoms), batch.num_nodes, self.config.encoder.embedding_dim)

    def masks(self, batch: Batch, epoch: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the masked atoms ``(N,)`` and edges ``(E,)`` of each view, bool."""
        config = self.config
        padding_from = config.graph.cutoff if config.graph.pad_short_lists else math.inf
        atoms, edges = [], []
        for view in range(self.num_views):
            stream = mix(mix(mix(batch.material_key, config.seed), epoch), view)
            atoms.append(
                mask_element(batch, stream)
                if config.views.mask_unit == "element"
                else mask_atoms(batch, stream, config.views.atom_mask_fraction)
            )
            edges.append(mask_edges(batch, mix(stream, 1), config.views.edge_mask_fraction, padding_from))
        return atoms, edges

    def project(self, h: Tensor, batch: Batch) -> Tensor:
        """Return the projections ``(B, d)`` of a view's atom vectors ``(N, D)``."""
        z: Tensor = self.projection(pool(h, batch))
        return F.normalize(z) if self.config.loss.normalize_projection else z

    def compare(self, z_a: Tensor, z_b: Tensor, batch: Batch) -> Tensor:
        """Return the self-supervised loss between the projections of two views, ``(B, d)`` each."""
        return LOSSES[self.config.loss.ssl_loss](z_a, z_b, self.config, batch)

    @torch.no_grad()
    def cross_correlation(self, batch: Batch, epoch: int) -> Tensor:
        """Return the cross-correlation matrix ``(d, d)`` of the projections of two views, for a figure."""
        views = self.encode(batch, *self.masks(batch, epoch))[1:]
        z_a, z_b = (self.project(view, batch) for view in views)
        return cross_correlation(z_a, z_b, divisor_of(self.config))

    @torch.no_grad()
    def masked_atoms(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the vectors that the element decoder compares with its rows, and the weights of their atoms.

        Statistics are those of the batch, as in training: the running ones are of unmasked crystals.

        Returns:
            ``(n, D)`` masked atoms of all views, and ``(n,)`` weights that add up to 1 for each crystal and view.

        """
        masked, edges = self.masks(batch, epoch)
        view, atom = torch.stack(masked).nonzero().unbind(1)
        h = self.view(batch, self.encoder.basis(batch.distance), masked, edges)
        crystal = view * batch.num_graphs + batch.batch[atom]
        weight = 1 / count(crystal, len(masked) * batch.num_graphs)[crystal].double()
        return self.element.atom(h[view, atom]), weight

    @torch.no_grad()
    def atom_vectors(self, batch: Batch) -> Tensor:
        """Return the encoder's vectors ``(N, D)`` of the unmasked crystals' atoms."""
        return self.encoder.unmasked(batch, self.encoder.basis(batch.distance))
