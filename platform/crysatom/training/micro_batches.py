"""A batch in parts of at most so many edges, with the loss and gradient of the whole batch.

Gradient accumulation is not exact here: batch norms and self-supervised losses need statistics of the whole batch. So
each micro-batch is treated as a worker of its own (:mod:`crysatom.distributed`). A worker's micro-batches run in turn,
each until its next collective, so the temporary tensors of one exist at a time. On a GPU, those that wait leave their
tensors in host memory (:mod:`crysatom.training.paging`). On a CPU, which has no other memory, saved activations of
all micro-batches stay, as those of the whole batch would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.graphs.batch import part_of
from crysatom.training.paging import Pages, Watch
from crysatom.training.turns import Turn, run_in_turn

Terms = dict[str, Tensor]
ResultT = TypeVar("ResultT")


def edges_of(batch: Batch) -> list[int]:
    """Return the number of edges of each crystal of a batch; pairs of atoms with lattice sums count, too."""
    edges = batch.edge_ptr[batch.ptr].diff()
    if "potential" in batch:
        edges = edges + batch.pair_ptr.diff()
    counts: list[int] = edges.tolist()
    return counts


def cuts(edges: list[int], max_edges: int) -> list[int]:
    """Return where to cut a batch, from 0 to its number of crystals, so that parts have at most ``max_edges`` edges.

    Crystals stay in order. One with more edges is a part of its own. An empty batch is one empty part.
    """
    bounds, held = [0], 0
    for crystal, count in enumerate(edges):
        if held + count > max_edges and crystal > bounds[-1]:
            bounds.append(crystal)
            held = 0
        held += count
    return [*bounds, len(edges)]


def split(batch: Batch, max_edges: int) -> list[Batch]:
    """Return the micro-batches of a batch: the batch itself if it has at most ``max_edges`` edges, or if that is 0."""
    if not max_edges:
        return [batch]
    bounds = cuts(edges_of(batch), max_edges)
    return [batch] if len(bounds) == 2 else [part_of(batch, start, stop) for start, stop in pairwise(bounds)]


class MicroBatches:
    """Computes a worker's share of a batch in parts.

    All workers call the methods together; their numbers of parts may differ.

    Args:
        max_edges: Largest number of edges of a part, unless it is a single crystal; 0: no limit.
        moved_from: Bytes from which the tensors of parts that wait are moved to host memory; None: those on a GPU, from
            :data:`~crysatom.training.paging.SMALLEST`.

    """

    def __init__(self, max_edges: int, moved_from: int | None = None) -> None:
        self.max_edges, self.moved_from = max_edges, moved_from

    def split(self, batch: Batch) -> list[Batch]:
        """Return the parts of a batch."""
        return split(batch, self.max_edges)

    def each(self, work: Callable[[Batch], ResultT], parts: list[Batch]) -> list[ResultT]:
        """Call ``work``, which calls the same collectives for each part; return its results."""
        if len(parts) == 1:
            return [work(parts[0])]
        device = parts[0].ptr.device
        pages = self._pages(device)
        inherit = _state_of_thread(device)

        def compute(turn: Turn) -> ResultT:
            with inherit(), distributed.as_part(_Part(turn, pages)), nullcontext() if pages is None else Watch(pages):
                return work(parts[turn.index])

        results = run_in_turn(compute, len(parts))
        if pages is not None:
            pages.fetch_all()
        return results

    def _pages(self, device: torch.device) -> Pages | None:
        if self.moved_from is not None:
            return Pages(self.moved_from)
        return Pages() if device.type == "cuda" else None

    def terms(self, work: Callable[[Batch], Terms], batch: Batch) -> Terms:
        """Return the terms of a batch's loss: scalars are equal for all parts, other terms are joined."""
        return _joined(self.each(work, self.split(batch)))

    def train(self, work: Callable[[Batch], Terms], batch: Batch, parameters: list[nn.Parameter]) -> Terms:
        """Return the terms of a batch's loss and set the gradient; ``work`` calls ``backward`` on its part's loss.

        Without a limit, nothing is done besides ``work``: the workers' gradients are averaged by the wrapped model.
        """
        parts = self.split(batch)
        terms = _joined(self.each(work, parts))
        if self.max_edges:
            average_gradients(parameters, len(parts))
        return terms


def average_gradients(parameters: list[nn.Parameter], parts: int) -> None:
    """Divide the sum of the gradients of all parts of all workers by their number.

    Args:
        parameters: Their gradients are summed over the parts of this worker.
        parts: Number of parts of this worker.

    """
    if distributed.world_size() == 1:
        held = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if parts > 1:
            torch._foreach_div_(held, parts)
        return
    held = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([*(gradient.flatten() for gradient in held), held[0].new_tensor([parts])])
    flat = distributed.all_reduce_sum(flat)
    sums = (flat[:-1] / flat[-1]).split([p.numel() for p in parameters])
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total.view_as(parameter)


@dataclass
class _Part:
    """A part in its thread: what :class:`crysatom.distributed.Part` asks for."""

    turn: Turn
    pages: Pages | None

    @property
    def index(self) -> int:
        return self.turn.index

    def meet(self, item: Any, combine: Callable[[list[Any]], Any]) -> Any:
        if self.pages is not None:
            self.pages.move()
        return self.turn.meet(item, combine)

    def fetch(self, arguments: tuple[Any, ...]) -> None:
        if self.pages is not None:
            self.pages.fetch(arguments)


def _joined(parts: list[Terms]) -> Terms:
    if len(parts) == 1:
        return parts[0]
    return {k: value if value.ndim == 0 else torch.cat([part[k] for part in parts]) for k, value in parts[0].items()}


def _state_of_thread(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager that gives another thread this thread's modes of torch.

    It also lets backward passes run in the thread that calls them. On a GPU, one thread would otherwise run those of
    all parts, and wait forever in the first collective.
    """
    kind, with_gradient = device.type, torch.is_grad_enabled()
    autocast, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    stream = torch.cuda.current_stream(device) if kind == "cuda" else None

    @contextmanager
    def inherit() -> Iterator[None]:
        with (
            torch.cuda.stream(stream),
            torch.set_grad_enabled(with_gradient),
            torch.autocast(kind, dtype, enabled=autocast),
            torch.autograd.set_multithreading_enabled(False),
        ):
            yield

    return inherit
