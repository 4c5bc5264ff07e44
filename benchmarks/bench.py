"""What the benchmarks share: how a training is driven and timed, and what makes a measurement an error.

``python benchmarks/NAME.py --help`` says how to run one.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from crysatom.config import TrainingWorkers
from crysatom.runs.lifecycle import Outcome, launch
from crysatom.training.context import Context, Metrics, PlainContext

RESULTS = Path(__file__).parent / "results"

T = TypeVar("T")
OutcomeT = TypeVar("OutcomeT", bound=Outcome)


class CheckError(Exception):
    """A measurement that cannot be right."""


def check(ok: bool, message: str) -> None:
    """Raise a :class:`CheckError` unless the condition holds."""
    if not ok:
        raise CheckError(message)


@dataclass(frozen=True)
class Timing:
    """Wall-clock and processor seconds for a number of crystals."""

    crystals: int
    wall: float
    cpu: float

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.crystals + other.crystals, self.wall + other.wall, self.cpu + other.cpu)

    @property
    def wall_each(self) -> float:
        """Wall-clock seconds per crystal."""
        return self.wall / self.crystals

    @property
    def cpu_each(self) -> float:
        """Processor seconds per crystal."""
        return self.cpu / self.crystals

    def summary(self) -> dict[str, float]:
        """Return speed and processor time per crystal."""
        return {
            "crystals_per_second": round(1 / self.wall_each, 2),
            "cpu_ms_per_crystal": round(1e3 * self.cpu_each, 3),
        }


NOTHING = Timing(0, 0.0, 0.0)


def timed(crystals: int, work: Callable[[], T]) -> tuple[Timing, T]:
    """Run a function; return its time and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return Timing(crystals, time.perf_counter() - wall, time.process_time() - cpu), value


@dataclass(frozen=True)
class Epoch:
    """What was seen of an epoch from outside the loop.

    Attributes:
        timing: Time of its steps, and the crystals that the model saw in training mode.
        steps: Number of steps.
        moved: Whether any weight changed.

    """

    timing: Timing
    steps: int
    moved: bool


class ClockedContext(PlainContext):
    """The context of a job in this process; it also measures every epoch, without asking the loop."""

    def __init__(self, context: PlainContext) -> None:
        super().__init__(context.folder, context.on_report, str(context.device), context.every)
        self.epochs: list[Epoch] = []
        self.model = nn.Module()
        self.crystals = 0
        self.begin()

    def begin(self) -> None:
        """Forget the last epoch."""
        self.beats, self.crystals = 0, 0
        self.started = (0.0, 0.0)
        self.weights: list[torch.Tensor] = []

    def wrap(self, model: nn.Module) -> nn.Module:
        """Count the crystals of every forward pass in training mode."""

        def count(module: nn.Module, inputs: Sequence[Any]) -> None:
            self.crystals += inputs[0].num_graphs if module.training else 0

        self.model = model
        model.register_forward_pre_hook(count)
        return super().wrap(model)

    def heartbeat(self) -> None:
        """Start the clock when an epoch begins; count the steps, each of which ends in a heartbeat."""
        if self.beats == 0:
            self.weights = [p.detach().clone() for p in self.model.parameters()]
            self.started = time.perf_counter(), time.process_time()
        self.beats += 1

    def stop_watchdog(self) -> None:
        """Stop the clock: the epoch's steps are done."""
        wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        moved = any(not torch.equal(a, b) for a, b in zip(self.weights, self.model.parameters(), strict=False))
        self.epochs.append(Epoch(Timing(self.crystals, wall, cpu), self.beats - 1, moved))
        self.begin()


def drive(
    work: Callable[[Context], OutcomeT],
    workers: TrainingWorkers,
    folder: Path,
    after: Callable[[Metrics], None],
) -> tuple[OutcomeT, list[Epoch]]:
    """Train as a job without Ray does; return the outcome, and each epoch as seen from outside.

    Args:
        work: Training that the worker does.
        workers: Workers of the job's configuration, with ``num_workers`` 0.
        folder: Folder for the checkpoints; new.
        after: Called after each epoch, outside of its time, with its metrics.

    """
    contexts: list[ClockedContext] = []

    def clocked(context: Context) -> OutcomeT:
        assert isinstance(context, PlainContext)
        contexts.append(ClockedContext(context))
        return work(contexts[0])

    def show(news: Metrics | str) -> None:
        if not isinstance(news, str):
            after(news)

    outcome = launch(clocked, workers, folder, record=lambda metrics, hardware: None, show=show)  # noqa: ARG005
    return outcome, contexts[0].epochs


def check_training(
    history: Sequence[Mapping[str, float]], epochs: Sequence[Epoch], crystals: int, steps: int, loss: str
) -> None:
    """Check that every epoch trained on every crystal, took the time that it says, and that the loss fell.

    Args:
        history: Metrics of each epoch, as the loop reports them.
        epochs: The same epochs as seen from outside.
        crystals: Number of training crystals.
        steps: Number of steps of an epoch.
        loss: Name of the loss.

    """
    check(len(history) == len(epochs) > 0, f"{len(history)} epochs reported, {len(epochs)} seen")
    for metrics, epoch in zip(history, epochs, strict=True):
        number, seen = int(metrics["epoch"]), epoch.timing
        check(seen.crystals == crystals, f"epoch {number}: the model saw {seen.crystals} of {crystals} crystals")
        check(epoch.steps == steps, f"epoch {number}: {epoch.steps} steps instead of {steps}")
        check(epoch.moved, f"epoch {number}: no weight changed")
        counted = metrics["crystals_per_second"] * metrics["seconds"]
        check(abs(counted - crystals) < 0.5, f"epoch {number}: {counted:g} crystals counted, {crystals} trained on")
        check(
            abs(metrics["seconds"] - seen.wall) < 0.1 * seen.wall + 0.01,
            f"epoch {number}: the loop reports {metrics['seconds']:.4f} s, the clock {seen.wall:.4f} s",
        )
        check(math.isfinite(metrics[loss]), f"epoch {number}: the loss is {metrics[loss]}")
    first, last = history[0][loss], history[-1][loss]
    check(last < first, f"the loss did not fall: {first:g} in the first epoch, {last:g} in the last")


def check_equal(ours: Sequence[float], other: Sequence[float], tolerance: float, what: str) -> float:
    """Check that two series are equal to a relative tolerance; return the largest relative difference."""
    check(len(ours) == len(other) > 0, f"{what}: {len(ours)} and {len(other)} values")
    worst = max(abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in zip(ours, other, strict=True))
    check(worst <= tolerance, f"{what}: relative difference {worst:.2g}, allowed {tolerance:g}")
    return worst


def check_ratio(ratio: float, ceiling: float, reason: str) -> None:
    """Check that a ratio of speeds is possible."""
    check(0 < ratio <= ceiling, f"a ratio of {ratio:g} is beyond {ceiling:g}: {reason}")


def quiet(work: Callable[[], T]) -> T:
    """Run a job without its lines for the user."""
    with contextlib.redirect_stdout(io.StringIO()):
        return work()
