r"""Collectives that make a loss over a global batch exact on any number of workers.

The rule: every worker evaluates the *same* global loss, from sums reduced over workers by
:func:`all_reduce_sum`. Its backward pass sums gradients over workers too, so worker r obtains
:math:`W \, \partial L / \partial z_r`; DistributedDataParallel then averages the parameter gradients
over the W workers, and the two factors cancel:

.. math:: \frac{1}{W} \sum_r W \frac{\partial L}{\partial z_r} \frac{\partial z_r}{\partial \theta}
          = \frac{\partial L}{\partial \theta}.

Nothing here assumes equal numbers of crystals per worker. Without a process group each function is
the identity, so the same code is the single-process reference.

A worker may divide its share into micro-batches (:mod:`crysatom.training.micro_batches`). To the rule,
each is a worker of its own: W is the number of all micro-batches, and rows are in order of rank, then
of micro-batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class _State:
    """Whether collectives are disabled; one per process, since backward passes run in other threads."""

    alone = False


class Part(Protocol):
    """A micro-batch of this worker's share, computed in a thread of its own."""

    @property
    def index(self) -> int:
        """Its place among the micro-batches of this worker."""

    def meet(self, item: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Wait for the other micro-batches of this worker; return ``combine`` of their items, called once."""

    def fetch(self, arguments: tuple[Any, ...]) -> None:
        """Bring tensors that were moved to host memory back to their device."""


class _Thread(threading.local):
    """The micro-batch that a thread computes; None: the thread computes the worker's whole share."""

    part: Part | None = None


_thread = _Thread()


@contextmanager
def as_part(part: Part) -> Iterator[None]:
    """Let the collectives of this thread, in the block, include the other micro-batches of its worker."""
    _thread.part = part
    try:
        yield
    finally:
        _thread.part = None


def is_first_part() -> bool:
    """Return whether this thread updates buffers: one micro-batch does, for all of its worker."""
    return _thread.part is None or _thread.part.index == 0


def fetch(*arguments: Any) -> None:
    """Bring tensors back from host memory, where a waiting micro-batch leaves them; other arguments are ignored.

    Only kernels that bypass torch's dispatcher, as Triton's do, need this.
    """
    if _thread.part is not None:
        _thread.part.fetch(arguments)


@contextmanager
def alone() -> Iterator[None]:
    """Disable collectives in the block, as if this were the only worker: to measure its speed."""
    _State.alone = True
    try:
        yield
    finally:
        _State.alone = False


def world_size() -> int:
    """Number of workers in the process group, without their micro-batches; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() and not _State.alone else 1


def rank() -> int:
    """Rank of this worker; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() and not _State.alone else 0


def _is_all() -> bool:
    """Return whether this thread computes the whole global batch."""
    return world_size() == 1 and _thread.part is None


def _sum(x: Tensor) -> Tensor:
    """Return the sum over all workers and their micro-batches, a new tensor."""
    own = x.detach().contiguous().clone()
    if _thread.part is None:
        dist.all_reduce(own)
        return own
    total: Tensor = _thread.part.meet(own, _sum_of_parts)
    return total.clone()  # each micro-batch may overwrite its own


def _sum_of_parts(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total += part
    if world_size() > 1:
        dist.all_reduce(total)
    return total


class _AllReduceSum(torch.autograd.Function):
    """Sum over workers, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - signature fixed by autograd
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        return _sum(grads[0])


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the element-wise sum of ``x`` over all workers, differentiably.

    Args:
        x: Tensor of any shape; the shape must be equal on all workers.

    """
    if _is_all():
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
    if _is_all():
        return x
    start, total = row_range(len(x), x.device)
    before = x.new_zeros(start, *x.shape[1:])
    after = x.new_zeros(total - start - len(x), *x.shape[1:])
    return all_reduce_sum(torch.cat([before, x, after]))


def row_range(count: int, device: torch.device) -> tuple[int, int]:
    """Return the start of this worker's rows among those of all workers, and the total number of rows."""
    if _thread.part is None:
        (start,), total = _row_ranges([count], device=device)
        return start, total
    starts, total = _thread.part.meet(count, partial(_row_ranges, device=device))
    return starts[_thread.part.index], total


def _row_ranges(counts: list[int], *, device: torch.device) -> tuple[list[int], int]:
    """Return the start of the rows of each micro-batch of this worker, and the total number of rows."""
    start, total = 0, sum(counts)
    if world_size() > 1:
        everywhere = torch.zeros(world_size(), dtype=torch.long, device=device)
        everywhere[rank()] = total
        dist.all_reduce(everywhere)
        start, total = int(everywhere[: rank()].sum()), int(everywhere.sum())
    return [start + sum(counts[:index]) for index in range(len(counts))], total


def gather_objects(item: Any) -> list[Any]:
    """Return the items of all workers, in order of rank (for messages and reports, not for training)."""
    if _thread.part is None:
        return _gather([item])
    everything: list[Any] = _thread.part.meet(item, _gather)
    return everything


def _gather(items: list[Any]) -> list[Any]:
    if world_size() == 1:
        return items
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, items)
    return [item for some in gathered for item in some]
