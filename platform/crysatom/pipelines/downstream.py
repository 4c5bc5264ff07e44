"""The pipeline that trains a predictor: data, training, evaluation, model, tracking, figures."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crysatom.config import DownstreamConfig, digest, recorded
from crysatom.crystals.csv_files import write_csv
from crysatom.crystals.splits import PARTS
from crysatom.figures.predictions import learning_curve, parity_plot
from crysatom.inputs.encoders import given_model, pretrained_encoders, require_known, starts_with_embedding
from crysatom.inputs.graphs import crystal_table, prepare
from crysatom.inputs.labels import Labeled, labeled
from crysatom.models.files import ModelInfo, save_model
from crysatom.models.inference import MODEL_FOLDER as MODEL
from crysatom.names import (
    ELEMENT,
    ELEMENT_ERRORS_CSV,
    MAE,
    MAE_HIGH,
    MAE_LOW,
    MAE_OVER_MAD,
    MATERIAL_ID,
    NUM_CRYSTALS,
    NUM_PARAMETERS,
    PREDICTION,
    PREDICTIONS_CSV,
    PROPERTIES,
    RESULTS_JSON,
    SYMBOLS,
    TARGET,
    TEST,
    TEST_SECONDS,
    TEST_TWIN_FREE,
    TRAIN,
    VAL,
    VAL_SELECTED,
)
from crysatom.predictors.registry import build_predictor
from crysatom.runs.lifecycle import Run, opened, require_workers, start_ray, where_to_look
from crysatom.runs.paths import Paths
from crysatom.tracking import fields
from crysatom.tracking.datasets import data_name
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.models import describe_to_mlflow
from crysatom.training.context import Metrics
from crysatom.training.intervals import Interval
from crysatom.training.metrics import mae_by_element, summary
from crysatom.training.regression import RegressionOutcome, spec_of, train_predictor
from crysatom.vectors.controls import one_hot
from crysatom.vectors.spectrum import SPECTRUM, power_of
from crysatom.writing import write_text

logger = logging.getLogger(__name__)

HISTORY = "history.csv"
PREDICTIONS = {TEST: PREDICTIONS_CSV, VAL: "validation_predictions.csv"}
LEFT_OUT = "left_out.csv"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Results of the run of one seed.

    Attributes:
        folder: The run's folder.
        seed: Seed of the run.
        property: Learned property.
        unit: Unit of the property.
        metrics: ``<part>/<metric>``, from :func:`crysatom.training.metrics.summary`.
        selected_epoch: Epoch of the model, counted from 0.
        epochs: Number of trained epochs.
        tracking_uri: MLflow store.
        run_id: MLflow run; empty if MLflow was unavailable.
        spectrum: Changed spectrum of the vectors: ``power``, and for ``auto`` the ``errors`` by power.
        registered: ``models:/NAME/VERSION``; empty if MLflow was unavailable, or the model is not registered.
        again: True if the run was already finished and nothing was done now.

    """

    folder: Path
    seed: int
    property: str
    unit: str
    metrics: dict[str, float]
    selected_epoch: int
    epochs: int
    tracking_uri: str
    run_id: str
    spectrum: Mapping[str, Any] = field(default_factory=dict)
    registered: str = ""
    again: bool = False


def run(config: DownstreamConfig) -> list[FinishedRun]:
    """Train a predictor for each seed, or return the results of earlier runs of the same configuration and data.

    Raises:
        ValueError: If data, flags or a run's folder are unusable.
        NonFiniteLossError: If the loss or the gradient of a batch is not finite.

    """
    build_predictor(spec_of(config), one_hot())  # fail at once on an unknown name or option
    paths = Paths.of(config.output, config.tracking)
    init, teacher = pretrained_encoders(config, paths.tracking_uri)
    start = given_model(config, paths.tracking_uri)
    start_ray(config.workers.num_workers)
    require_workers(config.workers)  # fail before the graphs are built
    shards = prepare(
        config.source,
        config.limits,
        config.graph,
        paths.out,
        num_workers=config.workers.num_workers,
        resume=config.output.resume,
    )
    data = labeled(config, shards, crystal_table(config.source, shards), paths.tracking_uri, start)
    data = dataclasses.replace(data, task=dataclasses.replace(data.task, init=init, teacher=teacher))
    _check_encoders(config, data)
    counts = ", ".join(f"{len(crystals):,} {part}" for part, crystals in data.task.parts.items())
    logger.info("%s of %s crystals, split %s", data.targets.name, counts, data.split.name)
    name = config.output.name or default_name(config, data)
    return [_run(config.replace(seeds=(seed,)), data, paths, f"{name}-seed{seed}") for seed in config.seeds]


def _check_encoders(config: DownstreamConfig, data: Labeled) -> None:
    """Check pretrained encoders and log how they are used.

    Raises:
        ValueError: If an encoder has no features of an element in the data.

    """
    if (init := data.task.init) is not None:
        too = starts_with_embedding(config, init, data.task.vectors)
        logger.info(
            "%d convolutions%s start from %s", init.num_layers, " and the embedding" * too, config.start.init_encoder
        )
    if data.task.teacher is not None:
        require_known(config.start.distill, data.task.teacher, data.trained_elements)
        logger.info("distilled from %s, %g of the loss", config.start.distill, config.start.distill_weight)


def _run(config: DownstreamConfig, data: Labeled, paths: Paths, name: str) -> FinishedRun:
    with opened(
        config,
        paths,
        name,
        _identity(data),
        tags={fields.DATA: config.source.data} | _tags(config, data),
        experiment=config.tracking.experiment or default_experiment(config.source.data),
        resume=config.output.resume,
        workers_report=config.workers.num_workers > 0,
    ) as run:
        if not run.again:
            outcome = run.train(
                partial(train_predictor, config, data.task),
                config.workers,
                epochs=config.optimization.epochs,
                line=partial(epoch_line, unit=data.targets.unit),
            )
            _write_results(config, data, run, outcome)
            run.finish(seconds=sum(epoch["seconds"] for epoch in outcome.history))
        return _finished(config, data, run)


def epoch_line(metrics: Metrics, unit: str) -> str:
    """Return the results of an epoch as a line: training and validation errors."""
    return f"train MAE {metrics[f'{TRAIN}/{MAE}']:.4g}  val MAE {metrics[f'{VAL}/{MAE}']:.4g} {unit}".rstrip()


def describe(runs: Sequence[FinishedRun]) -> str:
    """Return the summary for the end of the job."""
    lines = []
    for finished in runs:
        lines += ["Nothing to do: this run is finished."] if finished.again else []
        lines += _describe_one(finished)
    if len(runs) > 1:
        errors = [finished.metrics[f"{TEST}/{MAE}"] for finished in runs]
        spread = f"{statistics.mean(errors):.4g} +- {statistics.stdev(errors):.2g} {runs[0].unit}".rstrip()
        lines.append(f"test MAE over {len(runs)} seeds, mean +- standard deviation: {spread}")
    lines.append(where_to_look(runs[0].tracking_uri, ", ".join(finished.run_id for finished in runs)))
    return "\n".join(lines)


def _describe_one(finished: FinishedRun) -> list[str]:
    metrics, unit = finished.metrics, finished.unit
    best = f"validation MAE {metrics[f'{VAL_SELECTED}/{MAE}']:.4g} {unit}".rstrip()
    kept = f"in epoch {finished.selected_epoch + 1} of {finished.epochs}, whose model was kept"
    lines = [f"{finished.property}, seed {finished.seed}: {best} {kept}"]
    for part, who in ((TEST, "test MAE"), (TEST_TWIN_FREE, "of crystals without a twin in training:")):
        if f"{part}/{MAE}" in metrics:
            error = Interval(*(metrics.get(f"{part}/{name}", math.nan) for name in (MAE, MAE_LOW, MAE_HIGH)))
            share = metrics.get(f"{part}/{MAE_OVER_MAD}", math.nan)
            lines.append(
                f"  {who} {error.estimate:.4g} {unit}, 95 % interval {error.ends()}, "
                f"MAE/MAD {share:.3f}, {metrics[f'{part}/num_crystals']:,.0f} crystals"
            )
    if finished.spectrum:
        chosen = ", chosen on training and validation crystals" * ("errors" in finished.spectrum)
        lines.append(f"  spectrum of the vectors: power {finished.spectrum['power']:g}{chosen}")
    lines.append(f"  predictions: {finished.folder / PREDICTIONS[TEST]}")
    registered = f", registered as {finished.registered}" if finished.registered else ""
    lines.append(f"  model: {finished.folder / MODEL}{registered}")
    command = shlex.join(["python", "jobs/predict.py", "--model", str(finished.folder), "CIFS"])
    lines.append(f"  to predict: {command}")
    return lines


def default_name(config: DownstreamConfig, data: Labeled) -> str:
    """Return the default name of runs, without the seed."""
    settings = digest(config.replace(seeds=(0,)))
    pretrained = [f"{use}{digest[:8]}" for use, digest in _pretrained_digests(data).items()]
    words = (
        config.architecture.predictor,
        data.targets.name,
        config.vectors.vectors,
    )  # the property may be any column name of a user's file
    return "-".join((*map(_slug, words), settings, _identity(data)[:8], *pretrained))


def default_experiment(data: str) -> str:
    """Return the default MLflow experiment: one per data set."""
    return f"crysatom-{_slug(data_name(data))}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[-32:]


def _identity(data: Labeled) -> str:
    """Return the digest that identifies a run's data in its folder."""
    return "".join(
        [data.vectors_digest, data.data_digest, *(f"-{k}-{v}" for k, v in _pretrained_digests(data).items())]
    )


def _pretrained_digests(data: Labeled) -> dict[str, str]:
    """Return the digests of pretrained encoders and models by their use."""
    encoders = {"init": data.task.init, "distill": data.task.teacher}
    digests = {use: encoder.digest for use, encoder in encoders.items() if encoder is not None}
    return digests | ({"model": data.start_digest} if data.start_digest else {})


def _tags(config: DownstreamConfig, data: Labeled) -> dict[str, str]:
    pretrained = _pretrained_digests(data)
    return {
        fields.PREDICTOR: config.architecture.predictor,
        fields.VECTORS: config.vectors.vectors,
        fields.VECTORS_DIGEST: data.vectors_digest,
        fields.VECTOR_SPECTRUM: f"{power_of(data.task.vectors.provenance):g}",
        fields.FILLED: " ".join(data.task.vectors.provenance.get("filled", ())),
        fields.LEFT_OUT: str(len(data.left_out)),
        fields.PROPERTY: data.targets.name,
        fields.UNIT: data.targets.unit,
        fields.SEED: str(config.seed),
        fields.SPLIT: data.split.name,
        fields.SPLIT_DIGEST: data.split.digest(),
        fields.DATA_DIGEST: data.data_digest,
        fields.INIT_DIGEST: pretrained.get("init", ""),
        fields.INIT_MODEL_DIGEST: pretrained.get("model", ""),
        fields.DISTILL_DIGEST: pretrained.get("distill", ""),
    }


def _write_results(config: DownstreamConfig, data: Labeled, run: Run, outcome: RegressionOutcome) -> None:
    folder = run.path
    history = pd.DataFrame(outcome.history)
    write_csv(history, folder / HISTORY)
    write_csv(data.left_out, folder / LEFT_OUT)
    for part, file in PREDICTIONS.items():
        columns = {
            MATERIAL_ID: data.split.ids(part),
            TARGET: data.targets.labels[data.task.parts[part]],
            PREDICTION: outcome.predictions[part],
        }
        write_csv(pd.DataFrame(columns), folder / file)
    write_csv(_element_errors(data, outcome), folder / ELEMENT_ERRORS_CSV)
    metrics = evaluate(data, outcome)
    results = {
        "property": data.targets.name,
        "unit": data.targets.unit,
        "seed": config.seed,
        "selected_epoch": outcome.selected_epoch,
        "epochs": len(outcome.history),
        "metrics": metrics,
        SPECTRUM: dict(data.task.vectors.provenance.get(SPECTRUM, {})),
    }
    versions = {
        name.removeprefix(fields.PACKAGE_VERSION): version
        for name, version in environment_tags("").items()
        if name.startswith(fields.PACKAGE_VERSION)
    }
    info = ModelInfo(
        property=data.targets.name,
        unit=data.targets.unit,
        spec=spec_of(config),
        graph=config.graph,
        normalizer=data.task.normalizer,
        elements=data.task.vectors.symbols,
        trained_elements=tuple(SYMBOLS[z - 1] for z in data.trained_elements),
        trained_ranges=data.trained_ranges,
        vectors=data.task.vectors.provenance,
        training={"config": recorded(config), **_tags(config, data), **results},
        versions=versions,
    )
    save_model(folder / MODEL, outcome.state, info)
    describe_to_mlflow(folder / MODEL, info)
    write_text(folder / RESULTS_JSON, json.dumps(results, indent=1))
    _log_results(run, data, outcome, history, metrics)
    _log_model(config, data, run, metrics)


def _element_errors(data: Labeled, outcome: RegressionOutcome) -> pd.DataFrame:
    target = data.targets.labels[data.task.parts[TEST]]
    found = mae_by_element(target, outcome.predictions[TEST], data.test_holds)
    rows = [(SYMBOLS[z - 1], count, error) for z, (count, error) in found.items()]
    return pd.DataFrame(rows, columns=[ELEMENT, NUM_CRYSTALS, MAE])


def evaluate(data: Labeled, outcome: RegressionOutcome) -> dict[str, float]:
    """Return all metrics of the predictions, ``<part>/<metric>``, without undefined ones."""
    labels, name = data.targets.labels, data.targets.name
    new = data.new.mask
    test = data.task.parts[TEST]
    parts = {
        VAL_SELECTED: (data.task.parts[VAL], outcome.predictions[VAL]),
        TEST: (test, outcome.predictions[TEST]),
        TEST_TWIN_FREE: (test[new], outcome.predictions[TEST][new]),
    }
    return {
        f"{part}/{metric}": value
        for part, (crystals, predicted) in parts.items()
        if len(crystals)
        for metric, value in summary(labels[crystals], predicted, name).items()
        if np.isfinite(value)
    }


def _log_results(
    run: Run,
    data: Labeled,
    outcome: RegressionOutcome,
    history: pd.DataFrame,
    metrics: Mapping[str, float],
) -> None:
    folder, tracker = run.path, run.tracker
    of_model = {NUM_PARAMETERS: float(outcome.num_parameters), TEST_SECONDS: outcome.test_seconds}
    tracker.log_metrics({**metrics, **of_model}, outcome.selected_epoch)
    sizes = {f"num_{part}": float(len(data.task.parts[part])) for part in PARTS}
    tracker.log_metrics(sizes, outcome.selected_epoch)
    for file in (
        HISTORY,
        RESULTS_JSON,
        ELEMENT_ERRORS_CSV,
        *PREDICTIONS.values(),
        *([LEFT_OUT] if len(data.left_out) else []),
    ):
        tracker.log_artifact(folder / file)
    name, unit = data.targets.name, data.targets.unit
    label = PROPERTIES[name].label if name in PROPERTIES else name
    remark = f"MAE {metrics[f'{TEST}/{MAE}']:.4g} {unit}\n{len(data.split.test):,} test crystals"
    target = data.targets.labels[data.task.parts[TEST]]
    tracker.log_figure(parity_plot(target, outcome.predictions[TEST], label=label, unit=unit, remark=remark), "parity")
    tracker.log_figure(learning_curve(history, outcome.selected_epoch, unit), "learning_curve")


def _log_model(config: DownstreamConfig, data: Labeled, run: Run, metrics: Mapping[str, float]) -> None:
    name = config.model_name(data.targets.name)
    if name:
        tags = _tags(config, data) | {fields.TEST_MAE: f"{metrics[f'{TEST}/{MAE}']:.6g}"}
        run.tracker.register(name, tags, run.path / MODEL, to=MODEL)
    else:
        run.tracker.log_artifact(run.path / MODEL, to=MODEL)


def _finished(config: DownstreamConfig, data: Labeled, run: Run) -> FinishedRun:
    registered = run.folder.read().get("registered", "")
    if not registered and (registered := run.tracker.registered(config.model_name(data.targets.name))):
        run.folder.note(registered=registered)
    results: dict[str, Any] = json.loads((run.path / RESULTS_JSON).read_text())
    return FinishedRun(**run.address, registered=registered, again=run.again, **results)
