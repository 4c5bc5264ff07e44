"""NT-Xent (Chen et al., SimCLR, ICML 2020, arXiv 2002.05709)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.distributed import all_gather_rows, all_reduce_sum, row_range
from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.nn.pooling import pool

SAME = 1e-9
"""Fractional compositions closer than this are the same formula (float64 sums of at most a few hundred terms)."""


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float = 0.5, composition: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of finding each view's partner among all other views of all workers (eq. 1).

    Args:
        z_a: ``(n, d)``.
        z_b: ``(n, d)``.
        temperature: Divides the cosine similarities.
        composition: ``(n,)`` float64 label of each crystal's formula; if given, other crystals of the same formula are
            not negatives, since they may be the same material.

    """
    n = len(z_a)
    start, total = row_range(n, z_a.device)
    local = F.normalize(torch.stack([z_a, z_b]), dim=2)
    a, b = all_gather_rows(local.transpose(0, 1)).unbind(1)
    everyone = torch.cat([a, b])
    own = start + torch.arange(n, device=z_a.device)
    anchors = torch.cat([own, own + total])
    similarity = torch.cat([local[0], local[1]]) @ everyone.T / temperature
    partners = torch.cat([own + total, own])
    excluded = torch.zeros_like(similarity, dtype=torch.bool)
    if composition is not None:
        labels = all_gather_rows(composition).repeat(2)
        excluded = (labels[anchors][:, None] - labels).abs() < SAME
    excluded.scatter_(1, anchors[:, None], value=True)
    excluded.scatter_(1, partners[:, None], value=False)
    loss = F.cross_entropy(similarity.masked_fill(excluded, -torch.inf), partners, reduction="sum")
    return all_reduce_sum(loss) / (2 * total)


def composition(batch: Batch) -> Tensor:
    """Return a number per crystal that is equal only for equal reduced formulas, ``(B,)`` float64."""
    elements = torch.arange(MAX_ATOMIC_NUMBER + 1, device=batch.ptr.device)
    weights = torch.cos(elements.double().square())
    return pool(weights[batch.atomic_numbers.long()][:, None], batch)[:, 0]


def options(config: PretrainConfig, batch: Batch) -> dict[str, Any]:
    """Return the options of :func:`nt_xent`."""
    return {"temperature": config.loss.nt_xent_temperature, "composition": composition(batch)}
