"""Drives a training as jobs do, measures its epochs from outside the loop, and checks that they did their work."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from bench import Run, Timing
from torch import nn

from crysatom.config import Optimization, TrainingWorkers
from crysatom.runs.lifecycle import Outcome, launch
from crysatom.training.context import Context, Metrics, PlainContext

EPOCHS_PER_ROUND = 2
"""Epochs of ours in a round, one before and one after the turn of the other side."""

JOB_TOLERANCE = 1e-5
"""Relative difference of our losses and the job's: the same float32 sums, on the same number of threads."""

PAUSE_S = 0.25
"""Seconds that a busy machine may pause this process between two readings of the clock."""

T = TypeVar("T")
OutcomeT = TypeVar("OutcomeT", bound=Outcome)


def epochs_for(rounds: int) -> int:
    """Return the number of epochs: one to warm up, then the rounds."""
    return 1 + EPOCHS_PER_ROUND * rounds


@dataclass(frozen=True)
class Epoch:
    """An epoch as seen from outside the loop.

    Attributes:
        timing: Time of its steps, and the crystals that the model saw in training mode.
        steps: Number of steps.
        moved: Whether any weight changed.

    """

    timing: Timing
    steps: int
    moved: bool


class ClockedContext(PlainContext):
    """The context of a job in this process. It also measures each epoch, without asking the loop."""

    def __init__(self, context: PlainContext) -> None:
        super().__init__(context.folder, context.on_report, str(context.device), context.every)
        self.epochs: list[Epoch] = []
        self.model = nn.Module()
        self._reset()

    def _reset(self) -> None:
        self.beats, self.crystals, self.started = 0, 0, (0.0, 0.0)
        self.weights: list[torch.Tensor] = []

    def wrap(self, model: nn.Module) -> nn.Module:
        """Count the crystals of every forward pass in training mode."""

        def count(module: nn.Module, inputs: Sequence[Any]) -> None:
            self.crystals += inputs[0].num_graphs if module.training else 0

        self.model = model
        model.register_forward_pre_hook(count)
        return super().wrap(model)

    def heartbeat(self) -> None:
        """Start the clock at the beginning of an epoch; count the steps, each of which ends in a heartbeat."""
        if self.beats == 0:
            self.weights = [p.detach().clone() for p in self.model.parameters()]
            self.started = time.perf_counter(), time.process_time()
        self.beats += 1

    def stop_watchdog(self) -> None:
        """Stop the clock: the steps of the epoch are done."""
        wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        moved = any(not torch.equal(a, b) for a, b in zip(self.weights, self.model.parameters(), strict=False))
        self.epochs.append(Epoch(Timing(self.crystals, wall, cpu), self.beats - 1, moved))
        self._reset()


def drive(
    work: Callable[[Context], OutcomeT],
    workers: TrainingWorkers,
    folder: Path,
    after: Callable[[Metrics], None] = lambda _: None,
) -> tuple[OutcomeT, list[Epoch]]:
    """Train as a job without Ray does; return the outcome, and each epoch as seen from outside.

    Args:
        work: Training that the worker does.
        workers: Workers of the job's configuration, with ``num_workers`` 0.
        folder: New folder for the checkpoints.
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


def rounds_of(epochs: Sequence[Epoch]) -> list[Timing]:
    """Return our time in each round: all epochs but the first, in pairs."""
    warm = [epoch.timing for epoch in epochs[1:]]
    return [first + second for first, second in zip(warm[::2], warm[1::2], strict=True)]


def is_turn(metrics: Mapping[str, float]) -> bool:
    """Return whether the other side's turn is after this epoch: in the middle of each round."""
    return metrics["epoch"] % EPOCHS_PER_ROUND == 1


def check_training(
    run: Run,
    history: Sequence[Mapping[str, float]],
    epochs: Sequence[Epoch],
    crystals: int,
    optimization: Optimization,
    loss: str,
) -> None:
    """Check that every epoch trained on every crystal and took the time that it reports, and that the loss fell.

    Args:
        run: Where the checks are noted.
        history: Metrics of each epoch, as the loop reports them.
        epochs: The same epochs as seen from outside.
        crystals: Number of training crystals.
        optimization: Epochs and batches of the training.
        loss: Name of the loss.

    """
    size, short = optimization.batch_size, optimization.tail == "short"
    steps = -(-crystals // size) if short else max(1, crystals // size)
    asked = optimization.epochs
    run.check(
        "all epochs were run",
        asked == len(history) == len(epochs),
        f"{asked} epochs asked for, {len(history)} reported, {len(epochs)} seen",
    )
    for metrics, epoch in zip(history, epochs, strict=True):
        where, seen, seconds = f"epoch {metrics['epoch']:.0f}", epoch.timing, metrics["seconds"]
        counted = metrics["crystals_per_second"] * seconds
        run.check(
            "each epoch trained on each crystal once",
            seen.crystals == crystals and epoch.steps == steps,
            f"{where}: the model saw {seen.crystals} of {crystals} crystals, in {epoch.steps} of {steps} steps",
        )
        run.check(
            "crystals counted = crystals trained on",
            abs(counted - crystals) < 0.5,
            f"{where}: {counted:g} crystals counted, {crystals} trained on",
        )
        run.check("each epoch changed the weights", epoch.moved, f"{where}: no weight changed")
        run.check(
            "the loop reports the time of the clock",
            abs(seconds - seen.wall) < 0.1 * seen.wall + PAUSE_S,
            f"{where}: the loop reports {seconds:.4f} s, the clock {seen.wall:.4f} s",
        )
        run.check("losses are finite", math.isfinite(metrics[loss]), f"{where}: the loss is {metrics[loss]}")
    first, *later = (metrics[loss] for metrics in history)
    run.check("the loss fell", min(later) < first, f"{first:g} in the first epoch, then {later}")


@contextlib.contextmanager
def on_ray() -> Iterator[None]:
    """Run a block with Ray, started as a job starts it unless it already runs."""
    import ray

    from crysatom.cluster.session import start_ray

    running = ray.is_initialized()
    start_ray()
    try:
        yield
    finally:
        if not running:
            ray.shutdown()


def quiet(work: Callable[[], T]) -> T:
    """Run a job without its lines for the user."""
    with contextlib.redirect_stdout(io.StringIO()):
        return work()
