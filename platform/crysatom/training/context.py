"""Where a training loop runs: what differs between a plain process and a Ray Train worker."""

from __future__ import annotations

import inspect
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
"""A file of this name beside the checkpoints requests a checkpoint and then a stop."""

LOOK_S = 1.0
"""Seconds between two checks for this file. A step may take a millisecond, and so does a check over a network."""

CHECKPOINTS_KEPT = 2


class Action(IntEnum):
    """What the workers do after a step. Rank 0 decides for all."""

    GO_ON = 0
    CHECK = 1
    """Check whether a machine is about to be preempted. All workers do this together."""
    SAVE = 2
    STOP = 3
    """Save a checkpoint and stop."""


class StoppedError(Exception):
    """The training was stopped on request, after a step; a checkpoint was written."""


class Context(ABC):
    """What the training loop needs from its environment.

    Attributes:
        device: Device of the model and the batches.

    """

    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model that the loop calls: data-parallel if there are several workers.

        Buffers are not broadcast: batch statistics are global, so buffers are already equal on all workers.
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
        """Publish the metrics of an epoch; ``save(folder)`` writes its checkpoint.

        Every worker calls this once per epoch.
        """

    def hardware(self) -> str:
        """Return one line on each kind of machine that the workers run on. All workers call this together."""
        return machine.joined(distributed.gather_objects(machine.hardware()))

    def usage(self) -> Metrics:
        """Return the combined usage of the workers' machines. All workers call this together."""
        return machine.combined(distributed.gather_objects(machine.usage(self.device)))

    def next_action(self) -> Action:
        """Return what to do after this step. Only rank 0's answer counts."""
        return Action.GO_ON

    def preemption_pending(self) -> bool:
        """Return whether a worker's machine is about to be preempted. All workers call this together."""
        return False

    @abstractmethod
    def keep(self, step: int, save: Save) -> None:
        """Write a checkpoint within an epoch with ``save(folder)``. All workers call this together."""

    @abstractmethod
    def heartbeat(self) -> None:
        """Restart the watchdog's timer: an epoch begins, or a batch is done."""

    @abstractmethod
    def stop_watchdog(self) -> None:
        """Stop the watchdog: no heartbeat follows for now."""

    def log(self, sentence: str) -> None:
        """Log a sentence for the user. All workers call this; rank 0 logs."""
        if distributed.rank() == 0:
            logger.info(sentence)

    @abstractmethod
    def checkpoint(self) -> Any:
        """Return a context manager that yields the folder of the last checkpoint, or None."""


class PlainContext(Context):
    """A plain process, alone or in a ``torch.distributed`` group that it made.

    Args:
        folder: Folder of the checkpoints; the newest two are kept.
        on_report: Called by rank 0 with the metrics of each epoch, including machine usage.
        device: Where to compute.
        every: Seconds between checkpoints within an epoch; infinite: only at the end of each epoch.

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
        machine.usage(self.device)  # starts the utilization counter

    def report(self, metrics: Metrics, save: Save) -> None:
        """Save on rank 0, then publish."""
        everything = metrics | self.usage()
        self._write(f"epoch-{int(metrics['epoch']):06d}", save)
        self.publish(everything)

    def publish(self, metrics: Metrics) -> None:
        """Pass on the metrics of an epoch whose checkpoint is written."""
        if distributed.rank() == 0:
            self.on_report(metrics)

    def next_action(self) -> Action:
        """Return SAVE if a checkpoint is due, STOP if a file named :data:`STOP` exists."""
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
        """Do nothing: there is no watchdog, because the user sees a process that hangs."""

    def stop_watchdog(self) -> None:
        """Do nothing."""

    def _write(self, name: str, save: Save) -> None:
        """Save on rank 0. A full disk is logged there and does not affect other ranks."""
        if distributed.rank() == 0:
            checkpoints.keep(self.folder, name, save, CHECKPOINTS_KEPT)
            self.saved_at = time.monotonic()

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the newest complete checkpoint, whichever kind of context wrote it."""
        yield checkpoints.newest(self.folder)


class SilentContext(Context):
    """A context without checkpoints and reports: a short training that is interrupted is repeated, not resumed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def report(self, metrics: Metrics, save: Save) -> None:
        """Do nothing."""

    def keep(self, step: int, save: Save) -> None:
        """Do nothing."""

    def heartbeat(self) -> None:
        """Do nothing."""

    def stop_watchdog(self) -> None:
        """Do nothing."""

    def checkpoint(self) -> AbstractContextManager[Path | None]:
        """Yield None."""
        return nullcontext()
