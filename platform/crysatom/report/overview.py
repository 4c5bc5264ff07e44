"""Sort MLflow runs: which may be compared, which differ only by their seed, which belong to a sweep."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crysatom.config import DownstreamConfig, Role
from crysatom.names import MAE, PROBE, TEST
from crysatom.studies.grid.statistics import mean_and_deviation
from crysatom.tracking import fields
from crysatom.tracking.datasets import data_name
from crysatom.tracking.reading import TrackedRun

FINISHED = "FINISHED"
TEST_MAE = f"{TEST}/{MAE}"

_NOT_COMPARED = DownstreamConfig.names(Role.INPUT, Role.PLACE) | {"seeds", "recipe"}
"""Parameters that may differ between the runs of a group. Vectors, initial encoders and initial models are identified
by their digests, and a recipe by the values that it sets."""

_STARTS = (fields.INIT_DIGEST, fields.INIT_MODEL_DIGEST, fields.DISTILL_DIGEST)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Finished runs that differ only by their seed.

    Attributes:
        runs: The latest run of each seed, sorted by seed.
        repeated: Earlier runs of the same seeds.
        settings: Values of the table's settings, as far as these runs have them.

    """

    runs: tuple[TrackedRun, ...]
    repeated: tuple[TrackedRun, ...]
    settings: Mapping[str, str]

    @property
    def predictor(self) -> str:
        """Name of the predictor."""
        return self.runs[0].tags[fields.PREDICTOR]

    @property
    def vectors(self) -> str:
        """Name of the atom vectors that the predictor reads."""
        return self.runs[0].tags.get(fields.VECTORS, "")

    @property
    def seeds(self) -> list[str]:
        """Seeds of the runs."""
        return [_seed(run) for run in self.runs]

    @property
    def mae(self) -> tuple[float, float]:
        """Test MAE: mean and sample standard deviation over seeds (NaN for a single seed)."""
        return mean_and_deviation([run.metrics[TEST_MAE] for run in self.runs])

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric over the runs; None unless all have it."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        return statistics.mean(values) if len(values) == len(self.runs) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Groups trained on one property with the same crystals, labels and split: their errors may be compared.

    Attributes:
        groups: Sorted by mean test MAE, lowest first.
        settings: Names of the parameters that differ between the groups.

    """

    groups: tuple[Group, ...]
    settings: tuple[str, ...]

    @property
    def of(self) -> TrackedRun:
        """Any run of the table, for what all of them have in common."""
        return self.groups[0].runs[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """A sweep and its trials.

    Attributes:
        run: MLflow run of the sweep.
        trials: Finished trials sorted by objective, then trials stopped early, then all others.

    """

    run: TrackedRun
    trials: tuple[TrackedRun, ...]

    @property
    def searched(self) -> list[str]:
        """Names of the settings that were searched."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))

    @property
    def ranked(self) -> list[TrackedRun]:
        """Trials that finished all epochs and have an objective: these may be compared."""
        return [trial for trial in self.trials if is_ranked(trial)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Overview:
    """All runs, each in one of these lists.

    Attributes:
        tables: Finished trainings of predictors, by property and data.
        pretrainings: Finished pretrainings, latest first.
        sweeps: Sweeps in any state, latest first.
        studies: Studies in any state, latest first.
        others: Finished runs of other kinds (not of this platform), and trials without their sweep.
        without_error: Finished trainings of predictors without a test MAE.
        unfinished: Unfinished runs, except for studies and trials of a sweep.

    """

    tables: tuple[Table, ...]
    pretrainings: tuple[TrackedRun, ...]
    sweeps: tuple[Sweep, ...]
    studies: tuple[TrackedRun, ...]
    others: tuple[TrackedRun, ...]
    without_error: tuple[TrackedRun, ...]
    unfinished: tuple[TrackedRun, ...]


def arranged(runs: Sequence[TrackedRun]) -> Overview:
    """Return the runs, sorted by kind."""
    latest_first = sorted(runs, key=lambda run: run.started, reverse=True)
    sweeps = {run.run_id: run for run in latest_first if fields.OBJECTIVE_OF_SWEEP in run.tags}
    trials = _gathered(latest_first, lambda run: run.parent)
    studies = [run for run in latest_first if fields.STUDY in run.params]
    alone = [
        run for run in latest_first if run.run_id not in sweeps and run.parent not in sweeps and run not in studies
    ]
    finished = [run for run in alone if run.status == FINISHED]
    predictors = [run for run in finished if {fields.PREDICTOR, fields.PROPERTY} <= run.tags.keys()]
    with_error = [run for run in predictors if TEST_MAE in run.metrics]
    pretrainings = [run for run in finished if run not in predictors and is_pretraining(run)]
    return Overview(
        tables=tuple(_tables(with_error)),
        pretrainings=tuple(pretrainings),
        sweeps=tuple(
            Sweep(run=run, trials=tuple(sorted(trials.get(run_id, ()), key=_rank))) for run_id, run in sweeps.items()
        ),
        studies=tuple(studies),
        others=tuple(run for run in finished if run not in predictors and run not in pretrainings),
        without_error=tuple(run for run in predictors if run not in with_error),
        unfinished=tuple(run for run in alone if run.status != FINISHED),
    )


def is_pretraining(run: TrackedRun) -> bool:
    """Return whether a run has the settings of a pretraining; trials log only the settings that were searched."""
    return {"embedding_dim", "ssl_loss"} <= run.params.keys()


def is_ranked(trial: TrackedRun) -> bool:
    """Return whether a trial finished all epochs and has an objective."""
    return trial.status == FINISHED and trial.tags.get(fields.ENDED) != fields.STOPPED and PROBE in trial.metrics


def dataset(run: TrackedRun) -> str:
    """Return the short name of a run's data."""
    return data_name(run.tags.get(fields.DATA, "")) or "(not named)"


def _tables(runs: Sequence[TrackedRun]) -> list[Table]:
    comparable = _gathered(runs, lambda run: (run.tags[fields.PROPERTY], run.tags.get(fields.DATA_DIGEST, run.run_id)))
    tables = [_table(some) for some in comparable.values()]
    return sorted(tables, key=lambda t: (t.of.tags[fields.PROPERTY], dataset(t.of), t.of.tags.get(fields.SPLIT, "")))


def _table(runs: Sequence[TrackedRun]) -> Table:
    alike = list(_gathered(runs, _all_but_seed).values())
    settings = [{k: v for k, v in some[0].params.items() if k not in _NOT_COMPARED} for some in alike]
    differing = _differing(settings)
    looks = [
        (some[0].tags.get(fields.VECTORS), *(v.get(n) for n in differing))
        for some, v in zip(alike, settings, strict=True)
    ]
    if len(set(looks)) < len(looks):  # only a parameter that some runs lack tells them apart
        differing = _differing(settings, absent=True)
    groups = [
        _group(some, {name: values[name] for name in differing if name in values})
        for some, values in zip(alike, settings, strict=True)
    ]
    return Table(groups=tuple(sorted(groups, key=lambda group: group.mae[0])), settings=tuple(differing))


def _differing(settings: Sequence[Mapping[str, str]], *, absent: bool = False) -> list[str]:
    """Return the parameters that have several values; with ``absent``, a missing parameter counts as a value."""
    values = {name: {s.get(name) for s in settings} for some in settings for name in some}
    kept = {name: found if absent else found - {None} for name, found in values.items()}
    return sorted(name for name, found in kept.items() if len(found) > 1 and name not in {"property", "predictor"})


def _group(runs: Sequence[TrackedRun], settings: Mapping[str, str]) -> Group:
    by_seed = _gathered(runs, _seed)  # latest first
    return Group(
        runs=tuple(some[0] for _, some in sorted(by_seed.items(), key=lambda item: (len(item[0]), item[0]))),
        repeated=tuple(run for some in by_seed.values() for run in some[1:]),
        settings=settings,
    )


def _all_but_seed(run: TrackedRun) -> Hashable:
    settings = {k: v for k, v in run.params.items() if k not in _NOT_COMPARED}
    vectors = run.tags.get(fields.VECTORS_DIGEST) or run.tags.get(fields.VECTORS, "")
    return (run.tags[fields.PREDICTOR], vectors, *sorted(settings.items()), *(run.tags.get(k, "") for k in _STARTS))


def _seed(run: TrackedRun) -> str:
    return run.tags.get(fields.SEED, run.run_id)


def _rank(trial: TrackedRun) -> tuple[Any, ...]:
    if is_ranked(trial):
        return (0, trial.metrics[PROBE], trial.name)
    return (1 if trial.tags.get(fields.ENDED) == fields.STOPPED else 2, 0.0, trial.name)


def _gathered(runs: Sequence[TrackedRun], key: Callable[[TrackedRun], Hashable]) -> dict[Any, list[TrackedRun]]:
    found: dict[Any, list[TrackedRun]] = defaultdict(list)
    for run in runs:
        found[key(run)].append(run)
    return dict(found)
