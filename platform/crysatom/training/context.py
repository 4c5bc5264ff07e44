"""Where a training loop runs: the few things that differ between a plain process and a Ray Train worker."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from crysatom import distributed
from crysatom.training import checkpoints, machine

Save = Callable[[Path], None]
Metrics = dict[str, float]


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

    @abstractmethod
    def checkpoint(self) -> Any:
        """Return a context manager that yields the folder of the last checkpoint, or None."""


class PlainContext(Context):
    """A plain process, alone or in a ``torch.distributed`` group of its own making.

    Args:
        folder: Where checkpoints are kept: the newest two.
        on_report: Called by rank 0 with the metrics of each epoch, those of the workers' machines among them.
        device: Where to compute.

    """

    def __init__(
        self, folder: Path, on_report: Callable[[Metrics], None] = lambda _: None, device: str = "cpu"
    ) -> None:
        self.folder, self.on_report, self.device = folder, on_report, torch.device(device)
        machine.usage(self.device)  # utilization is counted from here

    def report(self, metrics: Metrics, save: Save) -> None:
        """Save on rank 0, then publish."""
        everything = metrics | self.usage()
        if distributed.rank() == 0:
            self._keep(metrics, save)
        self.publish(everything)

    def publish(self, metrics: Metrics) -> None:
        """Hand on the metrics of an epoch that is saved."""
        if distributed.rank() == 0:
            self.on_report(metrics)

    def _keep(self, metrics: Metrics, save: Save) -> None:
        checkpoints.keep(self.folder, f"epoch-{int(metrics['epoch']):06d}", save)

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the newest whole checkpoint, whichever kind of context wrote it."""
        yield checkpoints.newest(self.folder)
