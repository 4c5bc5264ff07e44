"""The crystal-graph convolution of CGCNN."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from crysatom.nn.edges import Edges
from crysatom.nn.gated_sum import gated_sum
from crysatom.nn.normalization import ViewBatchNorm
from crysatom.nn.products import linear


class GatedConv(nn.Module):
    r"""One layer of CGCNN (Xie & Grossman, PRL 120, 145301 (2018), eq. 5).

    .. math:: h_i' = \mathrm{softplus}\Bigl(h_i + \mathrm{BN}_2 \sum_{j \to i}
              \sigma(y_f) \odot \mathrm{softplus}(y_c)\Bigr), \quad
              [y_f, y_c] = \mathrm{BN}_1\bigl(W [h_i, h_j, e_{ij}] + b\bigr)

    Names, shapes and initialization of the weights are those of the published code (``fc_full``, ``bn1``, ``bn2``).
    :func:`crysatom.nn.gated_sum.gated_sum` evaluates the sum. ``fc_full.bias`` is kept for published weights but not
    trained: before a batch normalization its gradient is zero, and Adam would scale rounding noise up to full steps.

    Args:
        width: D, dimension of an atom's vector.
        num_features: F, number of features of an edge.

    """

    def __init__(self, width: int, num_features: int) -> None:
        super().__init__()
        self.width = width
        self.fc_full = nn.Linear(2 * width + num_features, 2 * width)
        self.fc_full.bias.requires_grad_(False)
        self.bn1 = ViewBatchNorm(2 * width)
        self.bn2 = ViewBatchNorm(width)

    def forward(self, h: Tensor, edges: Edges, kind: Tensor | None = None, *, track: bool = True) -> Tensor:
        """Update atom vectors.

        Args:
            h: ``(M, D)``, or ``(K, D)`` with one row per kind of atom.
            edges: Edges between the M atoms.
            kind: ``(M,)`` row of ``h`` of each atom; None: the atom's own. With few kinds, the linear maps are
                evaluated once per kind, and messages once per class of equal edges.
            track: Update the running statistics.

        Returns:
            ``(M, D)``.

        """
        of_center, of_neighbor, of_edge = self.fc_full.weight.split(
            [self.width, self.width, self.fc_full.in_features - 2 * self.width], dim=1
        )
        center_term, neighbor_term = linear(h, of_center, self.fc_full.bias), linear(h, of_neighbor)
        travelled = edges
        if kind is not None:
            travelled, classes = edges.classes(kind, len(h))
            center_term, neighbor_term = (x.repeat(edges.num_views, 1) for x in (center_term, neighbor_term))
        messages, mean, variance = gated_sum(
            center_term,
            neighbor_term,
            of_edge,
            self.bn1.weight,
            self.bn1.bias,
            travelled,
            eps=self.bn1.eps,
            statistics=None if self.training else (self.bn1.running_mean, self.bn1.running_var),
        )
        if self.training and track:
            self.bn1.track(mean, variance)
        if kind is not None:
            h, messages = h.index_select(0, kind), classes.sum_messages(messages)
        return F.softplus(h + self.bn2(messages, edges.num_views, edges.multiplicity, track=track))
