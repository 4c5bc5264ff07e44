r"""Collectives that make a loss over a global batch exact on any number of workers.

The rule: every worker evaluates the *same* global loss, from sums reduced over workers by
:func:`all_reduce_sum`. Its backward pass sums gradients over workers too, so worker r obtains
:math:`W \, \partial L / \partial z_r`; DistributedDataParallel then averages the parameter gradients
over the W workers, and the two factors cancel:

.. math:: \frac{1}{W} \sum_r W \frac{\partial L}{\partial z_r} \frac{\partial z_r}{\partial \theta}
          = \frac{\partial L}{\partial \theta}.

Nothing here assumes equal numbers of crystals per worker. Without a process group each function is
the identity, so the same code is the single-process reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _State:
    """Whether collectives are disabled; one per process, since backward passes run in other threads."""

    alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Disable collectives in the block, as if this were the only worker: to measure its speed."""
    _State.alone = True
    try:
        yield
    finally:
        _State.alone = False


def world_size() -> int:
    """Number of workers in the process group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() and not _State.alone else 1


def rank() -> int:
    """Rank of this worker; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() and not _State.alone else 0


class _AllReduceSum(torch.autograd.Function):
    """Sum over workers, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - signature fixed by autograd
        total = x.detach().contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the element-wise sum of ``x`` over all workers, differentiably.

    Args:
        x: Tensor of any shape; the shape must be equal on all workers.

    """
    if world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x)  # type: ignore[no-untyped-call]
    return total


def all_gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all workers, in order of rank, differentiably.

    Rows are placed into a zero tensor of the global size and summed over workers: one collective that allows different
    row counts per worker and has the backward pass of :func:`all_reduce_sum`.

    Args:
        x: ``(n_r, ...)``; ``n_r`` may differ between workers and may be 0.

    Returns:
        ``(sum n_r, ...)``.

    """
    if world_size() == 1:
        return x
    start, total = row_range(len(x), x.device)
    before = x.new_zeros(start, *x.shape[1:])
    after = x.new_zeros(total - start - len(x), *x.shape[1:])
    return all_reduce_sum(torch.cat([before, x, after]))


def row_range(count: int, device: torch.device) -> tuple[int, int]:
    """Return the start of this worker's rows among those of all workers, and the total number of rows."""
    if world_size() == 1:
        return 0, count
    counts = torch.zeros(world_size(), dtype=torch.long, device=device)
    counts[rank()] = count
    dist.all_reduce(counts)
    return int(counts[: rank()].sum()), int(counts.sum())


def gather_objects(item: Any) -> list[Any]:
    """Return the items of all workers, in order of rank (for messages and reports, not for training)."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items
