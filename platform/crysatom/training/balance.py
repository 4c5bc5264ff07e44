"""Shares of a global batch in proportion to what each worker can do: an A100 beside an A6000.

The gradient does not depend on who computes which part of a batch (:mod:`crysatom.distributed`), so shares may be
chosen freely. Workers wait for each other in every step; so the step is shortest if all need equally long. Each
measures by itself, with no collective in between, how long a forward and a backward pass over its share take. Shares
are then made proportional to the speeds. What a step costs besides (starting kernels) makes a small share look slow; a
second measurement, with the new shares, corrects for that.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.names import LOSS, Balancing
from crysatom.training import machine
from crysatom.training.context import Context
from crysatom.training.loaders import SharedLoader, cost_of

ROUNDS = 2
"""Measurements when a training begins, or goes on with other workers; each by the shares that the last one gave."""

AGAIN_S = 600.0
"""Seconds after which speeds are measured once more, when the next epoch begins: a machine may have other users."""

PASSES = 3
"""Timed passes; the fastest counts, for nothing makes a pass faster than it is."""

USABLE = 0.8
"""Part of the free memory that a share may fill: batches of equally many edges differ in what they need."""

SAID = 0.05
"""A share that has changed by less is not worth a line."""


@dataclass(frozen=True)
class Ability:
    """What a worker can do.

    Attributes:
        cost: Of the batch that it was measured by, see :func:`crysatom.training.loaders.cost_of`; 0: it was not.
        speed: Cost per second.
        capacity: Cost that its memory holds; infinite where nobody can tell.

    """

    cost: float
    speed: float
    capacity: float


def measure(model: nn.Module, batch: Batch, epoch: int, device: torch.device) -> Ability:
    """Time forward and backward passes of this worker alone, on a copy of the model.

    Args:
        model: As the loop trains it, not wrapped.
        batch: This worker's share of a global batch.
        epoch: Of the masks.
        device: Of both.

    """
    twin = copy.deepcopy(model).train()
    cost, fastest = float(cost_of(batch)), np.inf
    if not cost:
        return Ability(0.0, 0.0, np.inf)
    before = _allocated(device)
    with distributed.alone():
        for timed in (False, *[True] * PASSES):
            _synchronize(device)
            start = time.perf_counter()
            twin(batch, epoch)[LOSS].backward()
            _synchronize(device)
            if timed:  # the first pass pays for memory and compilation
                fastest = min(fastest, time.perf_counter() - start)
    return Ability(cost, cost / fastest, _capacity(device, before, cost))


def proportions(speeds: Sequence[float], most: Sequence[float]) -> NDArray[np.float64]:
    """Return each worker's part of a batch: in proportion to its speed, but no larger than its memory holds.

    What a worker cannot hold goes to the others, in proportion to theirs.

    Args:
        speeds: ``(W,)``, positive.
        most: ``(W,)`` largest part that each can hold.

    Returns:
        ``(W,)`` float64; sums to 1.

    Raises:
        ValueError: If the batch is too large for all of them together.

    """
    speed, limit = np.asarray(speeds, np.float64), np.asarray(most, np.float64)
    if limit.sum() < 1:
        raise ValueError(
            f"the workers' memory holds {100 * limit.sum():.0f} % of a global batch; lower --batch-size or raise "
            "--num-workers"
        )
    part, full = np.zeros_like(speed), np.zeros(len(speed), bool)
    while True:
        part[~full] = (1 - part[full].sum()) * speed[~full] / speed[~full].sum()
        over = ~full & (part > limit)
        if not over.any():
            return part
        part[over], full = limit[over], full | over


class Balance:
    """Keeps a loader's shares in proportion to what the workers can do.

    Args:
        mode: 'equal': leave them equal; 'speed': measure; 'auto': measure if the workers' machines differ.
        loader: Whose shares.
        context: Where it runs.

    """

    def __init__(self, mode: Balancing, loader: SharedLoader, context: Context) -> None:
        self.context = context
        self.parts: NDArray[np.float64] | None = None
        self.measured_at = -np.inf
        wanted = distributed.world_size() > 1 and (
            mode == "speed" or (mode == "auto" and len(set(distributed.gather_objects(machine.hardware()))) > 1)
        )
        self.loader = loader if wanted else None

    def update(self, model: nn.Module, epoch: int) -> None:
        """Measure and share anew if it is time; all workers call this together, between two steps.

        Raises:
            ValueError: If a global batch is too large for all workers together.

        """
        if self.loader is None or not distributed.gather_objects(time.monotonic() - self.measured_at > AGAIN_S)[0]:
            return
        before = self.parts
        for _ in range(ROUNDS if before is None else 1):
            batch = self.loader.sample(epoch)
            distributed.gather_objects(None)  # so that workers on one machine are measured together, as they train
            abilities = distributed.gather_objects(measure(model, batch, epoch, self.context.device))
            if not all(ability.cost for ability in abilities):
                break  # a worker that has nothing of this batch cannot be judged by it
            whole = sum(ability.cost for ability in abilities)
            self.parts = proportions([a.speed for a in abilities], [a.capacity / whole for a in abilities])
            self.loader.share(self.parts)
        self.measured_at = time.monotonic()
        if self.parts is not None and (before is None or np.abs(self.parts - before).max() > SAID):
            shown = ", ".join(f"worker {rank} {100 * part:.0f} %" for rank, part in enumerate(self.parts))
            self.context.say(f"shares of each batch, by measured speed: {shown}")

    def metrics(self) -> dict[str, float]:
        """Return the largest and the smallest share, if they were measured."""
        if self.parts is None:
            return {}
        return {"largest_share": float(self.parts.max()), "smallest_share": float(self.parts.min())}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _allocated(device: torch.device) -> int:
    """Return the bytes in use on a GPU, from which its peak is counted from now on."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _capacity(device: torch.device, before: int, cost: float) -> float:
    """Return the cost of the largest share that fits; of a processor's memory other programs have their part."""
    if device.type != "cuda":
        return float("inf")
    needed = (torch.cuda.max_memory_allocated(device) - before) / cost
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return USABLE * (torch.cuda.mem_get_info(device)[0] + cached) / needed
