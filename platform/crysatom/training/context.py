"""Where a training loop runs: the few things that differ between a plain process and a Ray Train worker."""

from __future__ import annotations

import inspect
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from crysatom import distributed
from crysatom.training import checkpoints, machine

logger = logging.getLogger(__name__)

Save = Callable[[Path], None]
Metrics = dict[str, float]

STOP = ".stop"
"""A file of this name beside the checkpoints asks for one more, and for the end."""

LOOK_S = 1.0
"""Time between two looks for such a file: a step may take a millisecond, and a look over a network does."""

CHECKPOINTS_KEPT = 2


class Action(IntEnum):
    """What is to be done after a step, in the words of rank 0, which speaks for all."""

    GO_ON = 0
    ASK = 1
    """Ask the machines whether one of them is to be taken away, which all workers do together."""
    SAVE = 2
    STOP = 3
    """Save, and end."""


class StoppedError(Exception):
    """The training was asked to end, and did so after a step, with a checkpoint."""


class Context(ABC):
    """What the loop asks of its surroundings.

    Attributes:
        device: Where the model and the batches live.

    """

    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as the loop calls it: data-parallel when there are several workers.

        Buffers are not broadcast: batch statistics are global, so they are equal on all workers already.
        """
        if distributed.world_size() == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch < 2.13
        options: dict[str, Any] = {option: False}
        return DistributedDataParallel(model, device_ids=ids, **options)

    @abstractmethod
    def report(self, metrics: Metrics, save: Save) -> None:
        """Publish the metrics of an epoch; ``save(folder)`` writes the checkpoint that belongs to it.

        Every worker calls this once per epoch.
        """

    def hardware(self) -> str:
        """Return one line on each kind of machine that the workers run on; all workers call this together."""
        return machine.joined(distributed.gather_objects(machine.hardware()))

    def usage(self) -> Metrics:
        """Return how busy the workers' machines are, as one; all workers call this together."""
        return machine.combined(distributed.gather_objects(machine.usage(self.device)))

    def next_action(self) -> Action:
        """Return what is to be done after this step; of no importance on workers other than rank 0."""
        return Action.GO_ON

    def about_to_be_lost(self) -> bool:
        """Tell whether a machine of one of the workers is about to be taken away; all workers call this together."""
        return False

    @abstractmethod
    def keep(self, step: int, save: Save) -> None:
        """Keep a checkpoint in the midst of an epoch; ``save(folder)`` writes it. All workers call this together."""

    @abstractmethod
    def heartbeat(self) -> None:
        """Say that an epoch begins, or that a batch is done: the next sign of life is due in a while."""

    @abstractmethod
    def stop_watchdog(self) -> None:
        """Say that no sign of life is due."""

    def say(self, sentence: str) -> None:
        """Tell the user; once, though all workers call this."""
        if distributed.rank() == 0:
            logger.info(sentence)

    @abstractmethod
    def checkpoint(self) -> Any:
        """Return a context manager that yields the folder of the last checkpoint, or None."""


class PlainContext(Context):
    """A plain process, alone or in a ``torch.distributed`` group of its own making.

    Args:
        folder: Where checkpoints are kept: the newest two.
        on_report: Called by rank 0 with the metrics of each epoch, those of the workers' machines among them.
        device: Where to compute.
        every: Seconds between checkpoints within an epoch; infinite: there are none but at its end.

    """

    def __init__(
        self,
        folder: Path,
        on_report: Callable[[Metrics], None] = lambda _: None,
        device: str = "cpu",
        every: float = float("inf"),
    ) -> None:
        self.folder, self.on_report, self.device, self.every = folder, on_report, torch.device(device), every
        self.saved_at = self.looked_at = time.monotonic()
        machine.usage(self.device)  # utilization is counted from here

    def report(self, metrics: Metrics, save: Save) -> None:
        """Save on rank 0, then publish."""
        everything = metrics | self.usage()
        self._write(f"epoch-{int(metrics['epoch']):06d}", save)
        self.publish(everything)

    def publish(self, metrics: Metrics) -> None:
        """Hand on the metrics of an epoch that is saved."""
        if distributed.rank() == 0:
            self.on_report(metrics)

    def next_action(self) -> Action:
        """Return what the time, or a file named :data:`STOP`, asks for."""
        now = time.monotonic()
        if distributed.rank() != 0 or now - self.looked_at < LOOK_S:
            return Action.GO_ON
        self.looked_at = now
        if (self.folder / STOP).exists():
            return Action.STOP
        return Action.SAVE if now - self.saved_at > self.every else Action.GO_ON

    def keep(self, step: int, save: Save) -> None:
        """Save on rank 0."""
        self._write(f"step-{step:010d}", save)

    def heartbeat(self) -> None:
        """Do nothing: nobody waits for a process that hangs but its user, who sees it."""

    def stop_watchdog(self) -> None:
        """Do nothing."""

    def _write(self, name: str, save: Save) -> None:
        """Save on rank 0; a full disk is told of there, and costs the others nothing."""
        if distributed.rank() == 0:
            checkpoints.keep(self.folder, name, save, CHECKPOINTS_KEPT)
            self.saved_at = time.monotonic()

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the newest whole checkpoint, whichever kind of context wrote it."""
        yield checkpoints.newest(self.folder)
