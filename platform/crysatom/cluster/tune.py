"""Trials on Ray Tune: each in a process of its own, as many at a time as fit, the hopeless told to stop.

What a trial reports and how it ended is told to the caller, who keeps the record: Tune's own is not read again, so
that a sweep resumes from what was finished and not from what Tune knew. A trial that halving ends is not killed by
Tune, which would leave the workers of a nested Ray Train behind with their reservation: it is told so, and ends in
good order.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from crysatom.cluster.resources import per_worker, slots
from crysatom.config import Workers

logger = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]

TRIAL = "trial"
EPOCH = "epochs_done"
RESERVED = 0.01
"""CPUs of a trial that only waits for its workers; Tune refuses none."""

RAY_TUNE = "ray_tune"
"""Folder of the sweep in which Tune keeps its own notes."""

LOST = "its process ended before its work: killed, out of memory, or its machine lost; Ray's logs have its last words"

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the caller keeps the record
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every report has a probe
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's own waits for trials, which may take hours
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints a banner, asked to be silent or not
}


class Events(Protocol):
    """Who is told how trials go, in the process that starts them."""

    def started(self, name: str) -> None:
        """A process of its own has been asked for."""

    def reported(self, name: str, report: Mapping[str, Any]) -> None:
        """What the trial's work reported."""

    def lost(self, name: str, reason: str) -> None:
        """The process ended before the work did."""

    def stop(self, name: str) -> None:
        """The trial is hopeless; it is to end by itself."""


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Asynchronous successive halving (Li et al., MLSys 2020) by the least value of a metric.

    Attributes:
        metric: In reports that have it.
        first: Epochs done, from which on trials are stopped.
        factor: One of so many goes on.
        epochs: Of a whole trial.
        known: ``(trial, epochs done, value)`` of what was reported before the sweep was resumed.

    """

    metric: str
    first: int
    factor: float
    epochs: int
    known: Sequence[tuple[str, int, float]] = ()


def concurrent_trials(workers: Workers) -> int:
    """Return how many trials the cluster has room for at a time.

    Raises:
        ValueError: If there is none.

    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if room := room_for(workers, nodes):
        return room
    reserved = per_worker(workers)
    each = " and ".join(f"{amount:g} {name}" for name, amount in reserved.items())
    needs = f"{workers.num_workers} workers of {each}, and {RESERVED:g} CPU" if workers.num_workers else each
    has = ", ".join(f"{sum(node.get(name, 0) for node in nodes):g} {name}" for name in reserved)
    raise ValueError(
        f"not one trial fits: it needs {needs}, this cluster has {has}; use fewer --num-workers or --threads-per-worker"
        + (", or --no-use-gpu" if workers.use_gpu else "")
    )


def room_for(workers: Workers, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many trials fit on nodes with these resources, so that none waits for another's workers.

    Each node is taken to host the reservations of all trials: rather one trial too few than workers that wait.
    """
    each = per_worker(workers)
    count, reserved = max(workers.num_workers, 1), RESERVED if workers.num_workers else 0.0

    def fit(trials: int) -> bool:
        left = [{**node, "CPU": node.get("CPU", 0) - reserved * trials} for node in nodes]
        return slots(each, left) >= trials * count

    most = int(sum(node.get("CPU", 0) for node in nodes))
    return next((trials for trials in range(most, 0, -1) if fit(trials)), 0)


def run_trials(  # noqa: PLR0913 - each with a name
    names: Sequence[str],
    work: Callable[[str, Report], None],
    events: Events,
    *,
    workers: Workers,
    concurrent: int,
    halving: Halving | None,
    folder: Path,
) -> None:
    """Run trials until all have ended.

    Args:
        names: Of the trials, which start in this order.
        work: What the process of a trial does; can be pickled. It is given the trial's name and a function that takes
            its reports, with :data:`EPOCH` where halving is to see them.
        events: Is told, in this process.
        workers: What each trial needs.
        concurrent: Trials at a time.
        halving: Which trials are told to stop; None: none.
        folder: Of the sweep, on storage that all nodes see.

    """
    if not names:
        return
    os.environ.update(ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # trials that fail are told of by the events
    if workers.num_workers:
        reservation = {"cpu": RESERVED}
    else:
        reservation = {name.lower(): amount for name, amount in per_worker(workers).items()}
    trainable = tune.with_resources(tune.with_parameters(_trial, work=work), reservation)
    tune.Tuner(
        trainable,
        param_space={TRIAL: tune.grid_search(list(names))},
        tune_config=tune.TuneConfig(
            scheduler=FIFOScheduler() if halving is None else scheduler(halving, events),
            max_concurrent_trials=concurrent,
            reuse_actors=False,
            trial_dirname_creator=lambda trial: str(trial.config[TRIAL]),
        ),
        run_config=tune.RunConfig(name=RAY_TUNE, storage_path=str(folder), callbacks=[_Listener(events)], verbose=0),
    ).fit()


def _trial(config: dict[str, Any], work: Callable[[str, Report], None]) -> None:
    work(config[TRIAL], lambda report: tune.report(dict(report)))


class _Here:
    """Holds what is of this process alone.

    Tune pickles its callbacks into the folder of the sweep, and events know the store, with its password.
    """

    def __init__(self, events: Events | None) -> None:
        self._events = events

    @property
    def events(self) -> Events:
        """Who is told."""
        assert self._events is not None, "read from Tune's notes, which are not read"
        return self._events

    def __reduce__(self) -> tuple[type[_Here], tuple[None]]:
        return _Here, (None,)

    def __copy__(self) -> _Here:
        return self

    def __deepcopy__(self, _: Any) -> _Here:
        return self


class _Listener(tune.Callback):
    """Passes on what Tune calls back."""

    def __init__(self, events: Events) -> None:
        self.here = _Here(events)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        self.here.events.started(trial.config[TRIAL])

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        self.here.events.reported(trial.config[TRIAL], result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        self.here.events.lost(trial.config[TRIAL], LOST)  # Tune says more only afterwards


class _Asha(AsyncHyperBandScheduler):
    """Tells trials to stop instead of having them killed."""

    def __init__(self, halving: Halving, events: Events) -> None:
        super().__init__(
            time_attr=EPOCH,
            metric=halving.metric,
            mode="min",
            grace_period=halving.first,
            max_t=halving.epochs,
            reduction_factor=halving.factor,
        )
        self.here = _Here(events)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
            self.here.events.stop(trial.config[TRIAL])
        return str(TrialScheduler.CONTINUE)


def scheduler(halving: Halving, events: Events) -> _Asha:
    """Return the scheduler, which knows what trials reported before."""
    made = _Asha(halving, events)
    known: dict[str, Any] = {name: SimpleNamespace(trial_id=f"{name}, before") for name, _, _ in halving.known}
    nobody: Any = None  # the controller, which is not asked for anything
    for trial in known.values():
        made.on_trial_add(nobody, trial)
    for name, epochs, value in halving.known:
        AsyncHyperBandScheduler.on_trial_result(made, nobody, known[name], {EPOCH: epochs, halving.metric: value})
    return made
