"""Trials on Ray Tune: each in its own process, as many at a time as fit; poor trials are asked to stop.

The caller receives each trial's reports and its end, and keeps the record. Tune's own record is not read, so a sweep
resumes from finished trials. Tune does not kill a trial that halving stops: that would leave the workers of a nested
Ray Train behind with their reservation. The trial is asked to stop, and stops itself.
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
"""CPUs of a trial that only waits for its workers; Tune refuses 0."""

RAY_TUNE = "ray_tune"
"""Folder in the sweep's folder for Tune's own state."""

LOST = "its process ended before its work: killed, out of memory, or its machine lost; see Ray's logs"

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the caller keeps the record
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every report has a probe
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's own waits for trials, which may take hours
    "RAY_AIR_NEW_OUTPUT": "0",  # 1 prints a banner even if silent
}


class Events(Protocol):
    """Callbacks for the course of trials, in the process that starts them."""

    def started(self, name: str) -> None:
        """Called when a process for the trial was requested."""

    def reported(self, name: str, report: Mapping[str, Any]) -> None:
        """Called with each report of the trial's work."""

    def lost(self, name: str, reason: str) -> None:
        """Called when the process ended before the work did."""

    def stop(self, name: str) -> None:
        """Called when the trial is to be stopped early."""


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Asynchronous successive halving (Li et al., MLSys 2020) by the least value of a metric.

    Attributes:
        metric: Metric; reports without it are ignored.
        first: Epochs before a trial may be stopped.
        factor: One in this many trials continues.
        epochs: Epochs of a full trial.
        known: ``(trial, epochs done, value)`` reported before the sweep was resumed.

    """

    metric: str
    first: int
    factor: float
    epochs: int
    known: Sequence[tuple[str, int, float]] = ()


def concurrent_trials(workers: Workers) -> int:
    """Return how many trials fit on the cluster at a time.

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

    Every node is assumed to host the reservations of all trials: one trial too few is better than workers that wait.
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
        names: Names of the trials, in starting order.
        work: Runs in the process of a trial; can be pickled. Called with the trial's name and a function for its
            reports, which need :data:`EPOCH` for halving.
        events: Callbacks, called in this process.
        workers: Resources that each trial needs.
        concurrent: Trials at a time.
        halving: Rule by which trials stop early; None: no rule.
        folder: Folder of the sweep, on storage that all nodes see.

    """
    if not names:
        return
    os.environ.update(ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the events report failed trials
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
    """Holds objects of this process only.

    Tune pickles its callbacks into the sweep's folder, and events hold the store's address with its password.
    """

    def __init__(self, events: Events | None) -> None:
        self._events = events

    @property
    def events(self) -> Events:
        """The callbacks."""
        assert self._events is not None, "unpickled from Tune's state, which is never read"
        return self._events

    def __reduce__(self) -> tuple[type[_Here], tuple[None]]:
        return _Here, (None,)

    def __copy__(self) -> _Here:
        return self

    def __deepcopy__(self, _: Any) -> _Here:
        return self


class _Listener(tune.Callback):
    """Forwards Tune's callbacks to the events."""

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
        self.here.events.lost(trial.config[TRIAL], LOST)  # Tune gives the reason only later


class _Asha(AsyncHyperBandScheduler):
    """Asks trials to stop instead of killing them."""

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
    """Return the scheduler, with the earlier reports of resumed trials."""
    made = _Asha(halving, events)
    known: dict[str, Any] = {name: SimpleNamespace(trial_id=f"{name}, before") for name, _, _ in halving.known}
    nobody: Any = None  # the controller, which is not used
    for trial in known.values():
        made.on_trial_add(nobody, trial)
    for name, epochs, value in halving.known:
        AsyncHyperBandScheduler.on_trial_result(made, nobody, known[name], {EPOCH: epochs, halving.metric: value})
    return made
