"""The pipeline of a sweep: graphs once, trials on Ray Tune, their record, MLflow, the table, the best preset."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crysatom.config import (
    DownstreamConfig,
    PretrainConfig,
    Role,
    SearchSpace,
    TrainingWorkers,
    TuneConfig,
    defaults_beside,
    digest,
)
from crysatom.config.downstream import Architecture, DownstreamOptimization, Vectors
from crysatom.config.spaces import JOBS
from crysatom.crystals.csv_files import write_csv
from crysatom.crystals.splits import PARTS
from crysatom.graphs.shards import read_manifest
from crysatom.inputs.graphs import crystal_table, prepare
from crysatom.inputs.labels import Labeled, labeled
from crysatom.names import AUTO, DENSITY, PREDICTION, PROBE, PROPERTY, TARGET, TEST, VAL, VOLUME_PER_ATOM
from crysatom.pipelines.pretraining import fits_in_memory, input_digest
from crysatom.runs.folder import RunFolder
from crysatom.runs.lifecycle import Run, opened, start_ray, where_to_look
from crysatom.runs.paths import Paths, find
from crysatom.sweeps.probe import CRYSTAL, PROBE_CSV, Probe
from crysatom.sweeps.record import FAILED_TRIAL, FINISHED, REASON_WIDTH, Record, Trial
from crysatom.sweeps.trial import TRIALS, Objective, Prediction, Pretraining, run_trial
from crysatom.tracking import fields
from crysatom.tracking.runs import Tracker
from crysatom.training.intervals import Interval, bootstrap_mean
from crysatom.training.metrics import mad
from crysatom.training.regression import RegressionTask
from crysatom.writing import write_json

if TYPE_CHECKING:
    from crysatom.cluster.tune import Halving

logger = logging.getLogger(__name__)

RESULTS_CSV = "results.csv"
BEST_JSON = "best.json"
SAME_FOR_ALL = ("num_workers", "use_gpu", "threads_per_worker", "max_failures", "max_atoms", "min_distance", "data")


@dataclass(frozen=True, kw_only=True)
class FinishedSweep:
    """Results of a sweep.

    Attributes:
        folder: Folder of the sweep.
        objective: Name of the job whose settings were searched.
        data: Data of the trials.
        trials: All trials, best first.
        differences: Probe minus the best trial's, with the ends of a 95 % interval, by trial.
        num_validation: Number of validation crystals.
        tracking_uri: MLflow store.
        run_id: MLflow's parent run; empty if MLflow was unavailable.
        again: True if the sweep was already finished and nothing was done now.

    """

    folder: Path
    objective: str
    data: str
    trials: list[Trial]
    differences: dict[str, Interval]
    num_validation: int
    tracking_uri: str
    run_id: str
    again: bool = False

    def count(self, ended: str) -> int:
        """Return how many trials ended this way."""
        return sum(trial.ended == ended for trial in self.trials)


def run(config: TuneConfig, space: SearchSpace) -> FinishedSweep:
    """Run all unfinished trials of a sweep.

    Raises:
        ValueError: If space, data, flags or the sweep's folder are unusable.

    """
    from crysatom.cluster.tune import concurrent_trials, run_trials

    base = base_config(config, space)
    settings = space.trials(config.num_trials, config.seed)
    configs = {trial_name(n, values): _changed(base, values) for n, values in enumerate(settings)}
    start_ray(1)  # trials always run on Ray
    room = concurrent_trials(config.workers)
    concurrent = min(config.workers.max_concurrent or room, room, len(configs))
    paths = Paths.of(config.output, config.tracking)
    shards = prepare(base.source, base.limits, base.graph, paths.out, num_workers=1, resume=config.output.resume)
    data = {name: _labels(config, base, name, shards, paths) for name in properties(config, space)}
    _check_memory(base, shards, concurrent)
    identity = _identity(config, space, base, shards, data)
    name = config.output.name or f"tune-{Path(config.space).stem}-{identity}"
    _require_resume(config, RunFolder(paths.out / name))
    with opened(
        config,
        paths,
        name,
        identity,
        tags={
            fields.DATA: config.source.data,
            fields.SPACE: config.space,
            fields.OBJECTIVE_OF_SWEEP: space.objective,
        },
        experiment=config.tracking.experiment,
    ) as run:
        trials = {
            name: Trial.at(run.path / TRIALS / name, values) for name, values in zip(configs, settings, strict=True)
        }
        if not run.again:
            open_trials = [name for name, trial in trials.items() if not trial.ended]
            done = f"{len(trials) - len(open_trials)} are done, " if len(open_trials) < len(trials) else ""
            logger.info("%s: %d trials, %s%d at a time ...", run.path, len(trials), done, concurrent)
            record = Record(trials, run.tracker, config, base.optimization.epochs)
            try:
                run_trials(
                    open_trials,  # empty if the sweep was killed after its last trial
                    partial(run_trial, _objective(config, space, base, shards, data), configs, run.path / TRIALS),
                    record,
                    workers=config.workers,
                    concurrent=concurrent,
                    halving=_halving(config, space, base, trials) if space.halving else None,
                    folder=run.path,
                )
            finally:
                record.interrupted()
        sweep = _finished(run, base, trials, space)
        if not run.again:
            _log_results(sweep, run.tracker)
            status = "FINISHED" if sweep.count(FINISHED) else "FAILED"
            if sweep.count(FAILED_TRIAL):
                run.leave(status)  # --resume retries failed trials
            else:
                run.finish(status)
        _catch_up(sweep, run.tracker)
        return dataclasses.replace(sweep, run_id=run.tracker.run_id)


def _halving(
    config: TuneConfig, space: SearchSpace, base: PretrainConfig | DownstreamConfig, trials: Mapping[str, Trial]
) -> Halving:
    from crysatom.cluster.tune import Halving

    known = [(trial.name, int(p["epoch"]) + 1, p[PROBE]) for trial in trials.values() for p in trial.probes]
    first = min(probe_epochs(base.optimization.epochs, config.probe.probes, space.halving))
    return Halving(metric=PROBE, first=first, factor=space.halving, epochs=base.optimization.epochs, known=known)


def base_config(config: TuneConfig, space: SearchSpace) -> PretrainConfig | DownstreamConfig:
    """Return the settings that all trials share.

    Raises:
        ValueError: If they are not valid.

    """
    shared = config.flat()
    general: dict[str, Any] = {"precision": config.precision}
    if space.objective == "downstream":
        searched = "vector_spectrum" in space.settings  # trials then start from the vectors as given
        general |= {} if searched else {"vector_spectrum": config.vector_spectrum}
    elif config.vector_spectrum == AUTO:
        raise ValueError("a search for a pretraining has vectors for each trial: --vector-spectrum must be a number")
    values = general | dict(space.fixed) | {name: shared[name] for name in SAME_FOR_ALL}
    if config.epochs:
        values["epochs"] = config.epochs
    if space.objective == "downstream":
        values |= {"vectors": config.vectors, "property": properties(config, space)[0]}
    base = JOBS[space.objective].of(**values)
    if isinstance(base, PretrainConfig):
        if base.selection != "last":
            raise ValueError(
                "a sweep evaluates the vectors of a trial's current epoch: the search space must leave "
                f"selection at 'last', got {base.selection!r}"
            )
        path = find(base.encoder.node_features)  # trials have their own working directories
        return base.replace(node_features=str(path.resolve())) if path.is_file() else base
    if len(base.seeds) > 1:
        raise ValueError(f"a trial has one seed, the search space fixes {base.seeds}")
    if base.optimization.patience:
        raise ValueError("trials are compared after equally many epochs: the search space must leave patience at 0")
    return base


def properties(config: TuneConfig, space: SearchSpace) -> tuple[str, ...]:
    """Return the properties that trials are evaluated on.

    Raises:
        ValueError: If a predictor is given several.

    """
    if space.objective == "pretrain":
        return config.properties or (VOLUME_PER_ATOM, DENSITY)
    if len(config.properties) > 1:
        raise ValueError(f"a predictor learns one property; --properties has {' '.join(config.properties)}")
    return config.properties or (VOLUME_PER_ATOM,)


def probe_epochs(epochs: int, probes: int, halving: float = 0.0) -> frozenset[int]:
    """Return the numbers of epochs after which trials are evaluated: equally spaced, including the last.

    With halving these are its rungs: the first is the same, each further one is ``halving`` times as far.
    """
    if not halving:
        return frozenset(-(-epochs * k // probes) for k in range(1, probes + 1))
    first = -(-epochs // probes)
    rungs = takewhile(lambda rung: rung < epochs, (math.ceil(first * halving**k) for k in count()))
    return frozenset([*rungs, epochs])


def trial_name(number: int, settings: Mapping[str, Any]) -> str:
    """Return the name of a trial's folder, by which a resumed sweep finds it."""
    return f"{number:03d}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"


def preset(config: PretrainConfig | DownstreamConfig) -> dict[str, Any]:
    """Return the settings that differ from the defaults, as ``--config`` takes them, without paths and workers."""
    default = defaults_beside(config)
    kept = type(config).names(Role.RESULT) | {"vectors", "max_atoms", "min_distance"}
    return {k: v for k, v in config.flat().items() if k in kept and v != default[k]}


def ranked(trials: Mapping[str, Trial]) -> list[Trial]:
    """Return the trials, best first: finished ones by probe, then those with the most epochs, then failed ones."""
    order = {FINISHED: 0, fields.STOPPED: 1, "": 2, FAILED_TRIAL: 3}
    return sorted(
        trials.values(), key=lambda t: (order[t.ended], -len(t.history), np.nan_to_num(t.score, nan=np.inf), t.name)
    )


def describe(sweep: FinishedSweep) -> str:
    """Return the table of trials, and the paths of the results."""
    lines = ["Nothing to do: this sweep is finished."] if sweep.again else []
    lines.append(
        f"Trials by validation MAE/MAD ({sweep.num_validation} crystals; 1 is no better than the mean), the best first:"
    )
    table = results(sweep)
    shown = table.drop(columns=["folder", "reason", "difference_low", "difference_high"])
    shown["difference"] = [_interval(sweep.differences.get(name)) for name in table["trial"]]
    lines.append(shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"))
    lines += [
        f"{trial.name} failed: {shorten(trial.reason, REASON_WIDTH)}"
        for trial in sweep.trials
        if trial.ended == FAILED_TRIAL
    ]
    lines.append("difference: from the best, [95 % interval] of a paired bootstrap over the crystals; 0 in it: a tie")
    if sweep.count(FINISHED):
        lines.append(f"best: {sweep.trials[0].label}")
        job, preset_file = f"jobs/{sweep.objective}.py", str(sweep.folder / BEST_JSON)
        lines.append(f"  {shlex.join(['python', job, '--data', sweep.data, '--config', preset_file])}")
    lines.append(f"table: {sweep.folder / RESULTS_CSV}")
    if sweep.count(FAILED_TRIAL):
        lines.append("to try the failed trials again: the same command with --resume")
    lines.append(where_to_look(sweep.tracking_uri, sweep.run_id))
    return "\n".join(lines)


def results(sweep: FinishedSweep) -> pd.DataFrame:
    """Return one row per trial, best first."""
    nothing = Interval(*[float("nan")] * 3)
    rows = []
    for trial in sweep.trials:
        difference, low, high = sweep.differences.get(trial.name, nothing)
        rows.append(
            {
                "trial": trial.name,
                **trial.settings,
                "mae_over_mad": trial.score,
                "difference": difference,
                "difference_low": low,
                "difference_high": high,
                "epochs": len(trial.history),
                "seconds": round(trial.seconds, 1),
                "ended": trial.ended or "interrupted",
                "reason": trial.reason,
                "folder": str(trial.folder),
            }
        )
    return pd.DataFrame(rows)


def _interval(difference: Interval | None) -> str:
    return "" if difference is None else f"{difference.estimate:+.4f} {difference.ends('+.4f')}"


def _changed(base: Any, values: Mapping[str, Any]) -> Any:
    try:
        return base.replace(**values)
    except ValueError as error:
        raise ValueError(f"the search space has an invalid trial ({values}): {error}") from error


def _labels(
    config: TuneConfig, base: PretrainConfig | DownstreamConfig, name: str, shards: Path, paths: Paths
) -> Labeled:
    """Return targets, split and vectors of a property, without the test crystals."""
    if isinstance(base, DownstreamConfig):
        evaluated: DownstreamConfig = base
    else:
        evaluated = probe_config(config, base, name)
    data = labeled(evaluated, shards, crystal_table(evaluated.source, shards), paths.tracking_uri)
    parts = {part: data.task.parts[part] for part in PARTS if part != TEST}
    if not mad(data.task.labels[parts[VAL]]) > 0:
        raise ValueError(f"{name}: all validation crystals have the same target; take more crystals")
    counts = ", ".join(f"{len(crystals):,} {part}" for part, crystals in parts.items())
    logger.info("%s of %s crystals, split %s; test crystals are not read", name, counts, data.split.name)
    return dataclasses.replace(data, task=dataclasses.replace(data.task, parts=parts))


def probe_config(config: TuneConfig, base: PretrainConfig, name: str) -> DownstreamConfig:
    """Return the configuration of the predictor that evaluates vectors."""
    return DownstreamConfig(
        source=config.source,
        limits=base.limits,
        property=name,
        vectors=Vectors(
            vectors="onehot", vector_spectrum=config.vector_spectrum
        ),  # covers every element; replaced by the trial's vectors
        graph=base.graph,
        architecture=Architecture(width=config.probe.probe_width, hidden_dim=2 * config.probe.probe_width),
        optimization=DownstreamOptimization(
            epochs=config.probe.probe_epochs, batch_size=config.probe.probe_batch_size, selection="last"
        ),
        seeds=config.probe.probe_seeds,
        workers=TrainingWorkers(num_workers=base.workers.num_workers),
    )


def _objective(
    config: TuneConfig,
    space: SearchSpace,
    base: PretrainConfig | DownstreamConfig,
    shards: Path,
    data: Mapping[str, Labeled],
) -> Objective:
    epochs = probe_epochs(base.optimization.epochs, config.probe.probes, space.halving)
    tasks: dict[str, RegressionTask] = {name: part.task for name, part in data.items()}
    if isinstance(base, DownstreamConfig):
        part = data[base.property]
        return Prediction(name=base.property, task=part.task, epochs=epochs, elements=part.trained_elements)
    probe = Probe(
        config=probe_config(config, base, next(iter(tasks))),
        tasks=tasks,
        elements={name: part.trained_elements for name, part in data.items()},
        epochs=epochs,
        folder=shards,  # replaced by the trial's own folder
    )
    return Pretraining(shards=shards, probe=probe)


def _check_memory(base: PretrainConfig | DownstreamConfig, shards: Path, concurrent: int) -> None:
    copies = concurrent * max(base.workers.num_workers, 1)
    if not fits_in_memory(TrainingWorkers(num_workers=copies, use_gpu=base.workers.use_gpu), read_manifest(shards)):
        raise ValueError(f"the graphs do not fit {copies} times into memory; lower --max-concurrent")


def _require_resume(config: TuneConfig, folder: RunFolder) -> None:
    found = folder.read()
    if found and not found["finished"] and not config.output.resume:
        raise ValueError(
            f"{folder.path} holds an unfinished sweep; continue it with --resume, or give this one another --name"
        )


def _identity(config: TuneConfig, space: SearchSpace, base: Any, shards: Path, data: Mapping[str, Labeled]) -> str:
    """Return hex digits that change if trials, graphs, labels or vectors do."""
    graphs = input_digest(base, read_manifest(shards)) if isinstance(base, PretrainConfig) else ""
    labels = [(name, part.data_digest, part.vectors_digest) for name, part in data.items()]
    settings = space.trials(config.num_trials, config.seed)
    text = json.dumps([digest(config), digest(base), space.objective, repr(settings), space.halving, graphs, labels])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _finished(
    run: Run, base: PretrainConfig | DownstreamConfig, trials: Mapping[str, Trial], space: SearchSpace
) -> FinishedSweep:
    order = ranked(trials)
    errors = {t.name: validation_errors(t.folder / PROBE_CSV) for t in order if t.ended == FINISHED}
    best = next(iter(errors.values()), pd.Series(dtype=float))
    sweep = FinishedSweep(
        **run.address,
        objective=space.objective,
        data=base.source.data,
        trials=order,
        differences={name: bootstrap_mean((mine - best).to_numpy(), symmetric=True) for name, mine in errors.items()},
        num_validation=len(best),
        again=run.again,
    )
    write_csv(results(sweep), run.path / RESULTS_CSV)
    if errors:
        chosen = preset(base.replace(**order[0].settings))
        write_json(run.path / BEST_JSON, chosen)
    return sweep


def validation_errors(file: Path) -> pd.Series:
    """Return each validation crystal's part of a trial's score; their mean is the score.

    A crystal's part is its absolute error over the mean absolute deviation, averaged over properties and seeds. Weights
    make properties count equally, even if some crystals lack a label.
    """
    rows = pd.read_csv(file)
    names = rows[PROPERTY].unique()
    crystals = rows[CRYSTAL].nunique()
    parts = []
    for name in names:
        mine = rows[rows[PROPERTY] == name]
        deviation = mad(mine.drop_duplicates(CRYSTAL)[TARGET].to_numpy())
        scale = crystals / (deviation * len(mine) * len(names))
        parts.append(((mine[PREDICTION] - mine[TARGET]).abs() * scale).groupby(mine[CRYSTAL]).sum())
    total: pd.Series = pd.concat(parts).groupby(level=0).sum()
    return total


def _catch_up(sweep: FinishedSweep, tracker: Tracker) -> None:
    """Send pending records to MLflow: those of the sweep first, because trials need their parent run."""
    if tracker.flush():
        for trial in sweep.trials:
            Tracker.at(trial.folder, tracker.uri).flush()


def _log_results(sweep: FinishedSweep, tracker: Tracker) -> None:
    counts = {f"trials/{how}": float(sweep.count(how)) for how in (FINISHED, fields.STOPPED, FAILED_TRIAL)}
    best = {f"best/{PROBE}": sweep.trials[0].score} if sweep.count(FINISHED) else {}
    tracker.log_metrics({**counts, **best}, 0)
    tracker.log_artifact(sweep.folder / RESULTS_CSV)
    if best:
        tracker.log_artifact(sweep.folder / BEST_JSON)
