"""Element vectors from trained decoders: how an element's score varies over surroundings, and its bonds.

The score of element i at a masked atom is w_i . x + b_i, where x describes the atom's surroundings. Two elements are
alike if their scores rise and fall together, so their vectors v_i are such that v_i . v_j = Cov(w_i . x, w_j . x):
v = w C^(1/2) with the covariance C of x over masked atoms. Rows w alone also count directions in which no surroundings
lie.

M elements, D dimensions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crysatom.distributed import all_reduce_sum
from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.ssl.objective import Objective
from crysatom.training.loaders import Loader
from crysatom.training.micro_batches import MicroBatches
from crysatom.vectors.extract import table_of
from crysatom.vectors.structure.axes import balanced, principal_axes
from crysatom.vectors.table import AtomVectors

PAIR_COLUMNS = 8
"""Columns of the bond decoder's pair term, as many as the geometry block of structure vectors has."""

Array = NDArray[Any]


@torch.no_grad()
def decoded_vectors(model: Objective, everything: Loader, epoch: int, max_edges: int = 0) -> AtomVectors:
    """Return vectors of the elements that the crystals hold, equal on all workers, which call this together.

    Two blocks of equal mean square, the second only with a bond decoder, are rotated to their principal axes; the first
    D axes are kept. With fewer than D elements the other components are zero.

    Args:
        model: Trained model with an element decoder.
        everything: All crystals.
        epoch: Determines the masks.
        max_edges: Edges above which a share is computed in parts; 0: never.

    """
    model.train()  # statistics of the batch; nothing tracks them here
    sites, covariance = covariance_of(model, everything, epoch, max_edges)
    rows = model.element.rows[torch.as_tensor(sites > 0)]
    blocks = [balanced(rows.double().cpu().numpy() @ root(covariance))]
    if model.config.loss.bond_weight:
        blocks.append(balanced(model.bonds.columns(rows, PAIR_COLUMNS).double().cpu().numpy()))
    found = principal_axes(np.concatenate(blocks, axis=1))[:, : rows.shape[1]]
    vectors = np.zeros((MAX_ATOMIC_NUMBER, rows.shape[1]))
    vectors[np.flatnonzero(sites), : found.shape[1]] = found
    return table_of(torch.from_numpy(sites), torch.from_numpy(vectors))


def covariance_of(model: Objective, everything: Loader, epoch: int, max_edges: int) -> tuple[Array, Array]:
    """Return the sites of each element ``(118,)``, and the covariance ``(D, D)`` over masked atoms of all workers."""
    device, dim = model.element.rows.device, model.element.rows.shape[1]
    sites = torch.zeros(MAX_ATOMIC_NUMBER, dtype=torch.float64, device=device)
    sums = torch.zeros(dim + 1, dim + 1, dtype=torch.float64, device=device)
    micro_batches = MicroBatches(max_edges)
    for batch in everything.epoch(0):
        sites += torch.bincount(batch.atomic_numbers.long() - 1, minlength=MAX_ATOMIC_NUMBER)
        parts = micro_batches.split(batch)
        for x, weight in micro_batches.each(partial(model.masked_atoms, epoch=epoch), parts):
            sums += second_moments(x.double(), weight)
    sites, sums = all_reduce_sum(sites), all_reduce_sum(sums)
    mean = sums[:-1, -1] / sums[-1, -1]
    return sites.cpu().numpy(), (sums[:-1, :-1] / sums[-1, -1] - torch.outer(mean, mean)).cpu().numpy()


def second_moments(x: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted sums of (x, 1) (x, 1)^T, ``(D + 1, D + 1)``, over ``(n, D)`` rows with ``(n,)`` weights."""
    extended = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    return (extended * weight[:, None]).T @ extended


def root(covariance: Array) -> Array:
    """Return the symmetric square root of a ``(D, D)`` covariance; eigenvalues below zero are rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
