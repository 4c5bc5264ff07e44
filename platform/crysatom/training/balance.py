"""Divide a global batch between workers of different speed, for example an A100 and an A6000.

The gradient does not depend on which worker computes which part of a batch (:mod:`crysatom.distributed`), so shares
can be chosen freely. Workers wait for each other in every step, so a step is shortest if all take equally long. Each
worker times a forward and a backward pass over its share, without a collective in between. Shares are then made
proportional to the speeds. The fixed cost of a step (kernel launches) makes a small share look slow; a second
measurement, with the new shares, corrects this.
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
from crysatom.training.micro_batches import split

ROUNDS = 2
"""Measurements when a training starts, or resumes on other workers; each uses the shares of the one before."""

AGAIN_S = 600.0
"""Seconds after which speeds are measured again, at the start of the next epoch: other users may share a machine."""

PASSES = 3
"""Timed passes. The fastest counts: disturbances only make a pass slower."""

USABLE = 0.8
"""Part of the free memory that a share may fill. Batches with equally many edges need different amounts."""

LOGGED_CHANGE = 0.05
"""Smallest change of a share that is logged."""


@dataclass(frozen=True)
class Ability:
    """What a worker can compute and hold.

    Attributes:
        cost: Cost of the measured batch, see :func:`crysatom.training.loaders.cost_of`; 0 if it was empty.
        speed: Cost per second.
        capacity: Cost that fits into its memory; infinite if unknown.

    """

    cost: float
    speed: float
    capacity: float


def measure(model: nn.Module, batch: Batch, epoch: int, device: torch.device, max_edges: int = 0) -> Ability:
    """Time forward and backward passes of this worker alone, on a copy of the model.

    Args:
        model: The unwrapped model.
        batch: This worker's share of a global batch.
        epoch: Epoch that seeds the masks.
        device: Device of the model and the batch.
        max_edges: Edges above which the share is computed in parts, so that any share fits into memory; 0: never.

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
            for part in split(batch, max_edges):
                twin(part, epoch)[LOSS].backward()
            _synchronize(device)
            if timed:  # the first pass allocates memory and compiles
                fastest = min(fastest, time.perf_counter() - start)
    capacity = np.inf if max_edges else _capacity(device, before, cost)
    return Ability(cost, cost / fastest, capacity)


def proportions(speeds: Sequence[float], most: Sequence[float]) -> NDArray[np.float64]:
    """Return each worker's part of a batch: proportional to its speed, limited by its memory.

    What exceeds a worker's memory goes to the others, in proportion to their speeds.

    Args:
        speeds: ``(W,)``, positive.
        most: ``(W,)`` largest part that fits into each worker's memory.

    Returns:
        ``(W,)`` float64; sums to 1.

    Raises:
        ValueError: If the batch does not fit into the memory of all workers together.

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
    """Keeps the workers' shares of a loader proportional to their speeds.

    Args:
        mode: 'equal': equal shares; 'speed': measured; 'auto': measured if the workers' machines differ.
        loader: Loader whose shares are set.
        context: Where the training runs.
        max_edges: See :func:`measure`.

    """

    def __init__(self, mode: Balancing, loader: SharedLoader, context: Context, max_edges: int = 0) -> None:
        self.context, self.max_edges = context, max_edges
        self.parts: NDArray[np.float64] | None = None
        self.measured_at = -np.inf
        wanted = distributed.world_size() > 1 and (
            mode == "speed" or (mode == "auto" and len(set(distributed.gather_objects(machine.hardware()))) > 1)
        )
        self.loader = loader if wanted else None

    def update(self, model: nn.Module, epoch: int) -> None:
        """Measure and set new shares if it is time. All workers call this together, between two steps.

        Raises:
            ValueError: If a global batch does not fit into the memory of all workers together.

        """
        if self.loader is None or not distributed.gather_objects(time.monotonic() - self.measured_at > AGAIN_S)[0]:
            return
        before = self.parts
        for _ in range(ROUNDS if before is None else 1):
            batch = self.loader.sample(epoch)
            distributed.gather_objects(None)  # barrier: workers on one machine compete, as in training
            abilities = distributed.gather_objects(measure(model, batch, epoch, self.context.device, self.max_edges))
            if not all(ability.cost for ability in abilities):
                break  # a worker without crystals in this batch cannot be timed
            whole = sum(ability.cost for ability in abilities)
            self.parts = proportions([a.speed for a in abilities], [a.capacity / whole for a in abilities])
            self.loader.share(self.parts)
        self.measured_at = time.monotonic()
        if self.parts is not None and (before is None or np.abs(self.parts - before).max() > LOGGED_CHANGE):
            shown = ", ".join(f"worker {rank} {100 * part:.0f} %" for rank, part in enumerate(self.parts))
            self.context.log(f"shares of each batch, by measured speed: {shown}")

    def metrics(self) -> dict[str, float]:
        """Return the largest and the smallest share; empty if they were not measured."""
        if self.parts is None:
            return {}
        return {"largest_share": float(self.parts.max()), "smallest_share": float(self.parts.min())}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _allocated(device: torch.device) -> int:
    """Return the bytes in use on a GPU and reset its peak counter."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _capacity(device: torch.device, before: int, cost: float) -> float:
    """Return the cost of the largest share that fits into GPU memory; infinite on a CPU, whose memory others share."""
    if device.type != "cuda":
        return float("inf")
    needed = (torch.cuda.max_memory_allocated(device) - before) / cost
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return USABLE * (torch.cuda.mem_get_info(device)[0] + cached) / needed
