"""Pool atom vectors to crystal vectors."""

from __future__ import annotations

from torch import Tensor
from torch_geometric.data import Batch


def pool(h: Tensor, batch: Batch) -> Tensor:
    """Return the mean over each crystal's atoms, ``(B, D)`` from ``(N, D)`` (the paper's READOUT)."""
    crystals = h.new_zeros(len(batch.ptr) - 1, h.shape[1])
    if "multiplicity" not in batch:
        num_atoms: Tensor = batch.ptr.diff()
        return crystals.index_add(0, batch.batch, h) / num_atoms[:, None]
    size = batch.multiplicity.to(h.dtype)
    total = size.new_zeros(len(crystals)).index_add(0, batch.batch, size)
    return crystals.index_add(0, batch.batch, h * (size / total[batch.batch])[:, None])
