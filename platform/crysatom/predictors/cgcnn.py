"""CGCNN: the crystal-graph convolutional network of Xie & Grossman, PRL 120, 145301 (2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.nn.bases import expand_different, gaussian_centers
from crysatom.nn.edges import Edges
from crysatom.nn.gated_conv import GatedConv
from crysatom.nn.pooling import pool
from crysatom.nn.products import Linear
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.vectors.table import AtomVectors

CLASSIFIER_DROPOUT = 0.5
"""Dropout rate before the output layer of a classifier, as published."""


class CGCNN(Predictor):
    """Linear map of atom vectors, gated convolutions, mean over atoms, and a small output network.

    Names, shapes and initialization of the weights are those of the published code, so its checkpoints can be loaded.
    With 92 element features and the default specification there are 80,833 weights. 384 of them (``fc_full.bias``)
    have no effect and are not trained, see :class:`GatedConv`.
    """

    centers: Tensor

    def __init__(self, spec: PredictorSpec, vectors: AtomVectors) -> None:
        super().__init__(spec, vectors)
        self.register_buffer("centers", gaussian_centers(spec.cutoff, spec.basis_step).float(), persistent=False)
        self.embedding = Linear(vectors.dim, spec.width)
        self.convs = nn.ModuleList(GatedConv(spec.width, len(self.centers)) for _ in range(spec.num_layers))
        self.conv_to_fc = Linear(spec.width, spec.hidden_dim)
        if spec.num_hidden > 1:
            self.fcs = nn.ModuleList(Linear(spec.hidden_dim, spec.hidden_dim) for _ in range(spec.num_hidden - 1))
        self.fc_out = nn.Linear(spec.hidden_dim, spec.outputs)

    def inputs(self, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding's input for each distinct element ``(P, K)``, and the row of each atom ``(N,)``."""
        vectors: tuple[Tensor, Tensor] = self.table(atomic_numbers)
        return vectors

    def atoms(self, batch: Batch) -> Tensor:
        """Return the vectors of the atoms after the convolutions, ``(N, width)``."""
        edges, atoms = Edges.of(batch, expand_different(batch.distance, self.centers))
        different, kind = self.inputs(batch.atomic_numbers[atoms.first])
        first, *others = self.convs
        h: Tensor = first(self.embedding(different), edges, kind=kind)
        for conv in others:
            h = conv(h, edges)
        return h.index_select(0, atoms.which)

    def readout(self, atoms: Tensor, batch: Batch) -> Tensor:
        """Return the normalized prediction ``(B,)``; for C classes log-probabilities ``(B, C)``."""
        x = F.softplus(self.conv_to_fc(F.softplus(pool(atoms, batch))))
        classifies = self.spec.outputs > 1
        if classifies:
            x = F.dropout(x, CLASSIFIER_DROPOUT, self.training)
        for layer in getattr(self, "fcs", ()):
            x = F.softplus(layer(x))
        x = self.fc_out(x)
        return F.log_softmax(x, dim=1) if classifies else x[:, 0]
