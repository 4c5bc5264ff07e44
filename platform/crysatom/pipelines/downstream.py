"""Property prediction from beginning to end: data, training, judgment, model, tracking, pictures."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crysatom.config import DownstreamConfig, digest, recorded
from crysatom.crystals.csv_files import write_csv
from crysatom.crystals.splits import PARTS
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
from crysatom.pipelines.encoders import given_model, pretrained_encoders, require_known, starts_with_embedding
from crysatom.pipelines.labeled import Labeled, labeled, tracking_uri
from crysatom.pipelines.places import resolve
from crysatom.pipelines.preparing import crystal_table, prepare
from crysatom.pipelines.run_folder import CHECKPOINTS, RunFolder
from crysatom.pipelines.stopping import saved_when_told
from crysatom.pipelines.tracked import Publish, log_epochs, plain_context, progress, require_gpu, tracked, where_to_look
from crysatom.predictors.registry import build_predictor
from crysatom.report.prediction_figures import learning_curve, parity_plot
from crysatom.tracking import fields
from crysatom.tracking.datasets import data_name
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.models import describe_to_mlflow
from crysatom.tracking.runs import Tracker
from crysatom.training.inference import MODEL_FOLDER as MODEL
from crysatom.training.intervals import Interval
from crysatom.training.metrics import mae_by_element, summary
from crysatom.training.model_files import ModelInfo, save_model
from crysatom.training.regression import RegressionOutcome, spec_of, train_predictor
from crysatom.vectors.controls import one_hot

logger = logging.getLogger(__name__)

HISTORY = "history.csv"
PREDICTIONS = {TEST: PREDICTIONS_CSV, VAL: "validation_predictions.csv"}
LEFT_OUT = "left_out.csv"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Where the run of one seed left its results.

    Attributes:
        folder: The run's folder.
        seed: Of the run.
        property: What was learned.
        unit: Of the property.
        metrics: ``<part>/<metric>``, of :func:`crysatom.training.metrics.summary`.
        selected_epoch: Which epoch the model is of, counted from 0.
        epochs: How many were trained.
        tracking_uri: MLflow store.
        run_id: MLflow run; empty if MLflow was away.
        registered: ``models:/NAME/VERSION``; empty if MLflow was away, or the model was not to be registered.
        again: True if the run had been finished before and nothing was done now.

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
    registered: str = ""
    again: bool = False


def run(config: DownstreamConfig) -> list[FinishedRun]:
    """Train a predictor for each seed, or return what earlier runs of the same configuration and data left.

    Raises:
        ValueError: If data, flags or a run's folder are not usable as asked.
        NonFiniteLossError: If the loss of a batch is not a number.

    """
    build_predictor(spec_of(config), one_hot())  # a name or option that does not exist is refused at once
    init, teacher = pretrained_encoders(config)
    start = given_model(config)
    if config.num_workers > 0:
        from crysatom.cluster.resources import scaling
        from crysatom.cluster.session import start_ray

        logger.info("starting Ray ...")
        start_ray()
        scaling(config, streamed=False)  # refused now rather than after the graphs are built
    elif config.use_gpu:
        require_gpu()
    out = resolve(config.out)
    shards = prepare(config, out)
    data = labeled(config, shards, crystal_table(config, shards), start)
    data = dataclasses.replace(data, task=dataclasses.replace(data.task, init=init, teacher=teacher))
    _check_encoders(config, data)
    counts = ", ".join(f"{len(crystals):,} {part}" for part, crystals in data.task.parts.items())
    logger.info("%s of %s crystals, split %s", data.targets.name, counts, data.split.name)
    name = config.name or default_name(config, data)
    return [
        _run(dataclasses.replace(config, seeds=(seed,)), data, RunFolder(out / f"{name}-seed{seed}"))
        for seed in config.seeds
    ]


def _check_encoders(config: DownstreamConfig, data: Labeled) -> None:
    """Say what pretrained encoders are used for.

    Raises:
        ValueError: If one would have to read an element that it has no features of.

    """
    if (init := data.task.init) is not None:
        too = starts_with_embedding(config, init, data.task.vectors)
        logger.info("%d convolutions%s start from %s", init.num_layers, " and the embedding" * too, config.init_encoder)
    if data.task.teacher is not None:
        require_known(config.distill, data.task.teacher, data.trained_elements)
        logger.info("distilled from %s, %g of the loss", config.distill, config.distill_weight)


def _run(config: DownstreamConfig, data: Labeled, folder: RunFolder) -> FinishedRun:
    tracker = Tracker.at(folder.path, tracking_uri(config))
    finished = folder.claim(config, _identity(data))
    with folder.held():
        if finished:
            tracker.settle()
        else:
            _learn(config, data, folder, tracker)
        return dataclasses.replace(_finished(config, data, folder, tracker), again=finished)


def _learn(config: DownstreamConfig, data: Labeled, folder: RunFolder, tracker: Tracker) -> None:
    done = f"continuing after epoch {folder.epochs_done()} of " if folder.epochs_done() else ""
    with tracked(folder, tracker, config, experiment=experiment(config), tags=_tags(config, data)):
        logger.info("%s: %s%d epochs, %d workers ...", folder.path, done, config.epochs, config.num_workers)
        publish = Publish(tracker, partial(epoch_line, epochs=config.epochs, unit=data.targets.unit))
        with saved_when_told(folder.path / CHECKPOINTS):
            outcome = _train(config, data, folder.path, publish)
        log_epochs(tracker, outcome.history)  # those of an epoch after whose checkpoint the run was killed
        _write_results(config, data, folder, tracker, outcome)
    folder.finish(run_id=tracker.run_id, seconds=sum(epoch["seconds"] for epoch in outcome.history))
    tracker.finish()


def _train(config: DownstreamConfig, data: Labeled, folder: Path, publish: Publish) -> RegressionOutcome:
    if config.num_workers > 0:
        from crysatom.cluster.downstream import train_predictor_on_cluster

        return train_predictor_on_cluster(
            config, data.task, folder / CHECKPOINTS, record=publish.record, show=publish.show
        )
    return train_predictor(config, data.task, plain_context(config, folder, publish))


def epoch_line(metrics: Mapping[str, float], epochs: int, unit: str) -> str:
    """Return one line on an epoch: errors, speed, time left."""
    errors = f"train MAE {metrics[f'{TRAIN}/{MAE}']:.4g}  val MAE {metrics[f'{VAL}/{MAE}']:.4g} {unit}".rstrip()
    return progress(metrics, epochs, errors)


def describe(runs: Sequence[FinishedRun]) -> str:
    """Return what a user wants to know at the end."""
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
    lines.append(f"  predictions: {finished.folder / PREDICTIONS[TEST]}")
    registered = f", registered as {finished.registered}" if finished.registered else ""
    lines.append(f"  model: {finished.folder / MODEL}{registered}")
    command = shlex.join(["python", "jobs/predict.py", "--model", str(finished.folder), "CIFS"])
    lines.append(f"  to predict: {command}")
    return lines


def default_name(config: DownstreamConfig, data: Labeled) -> str:
    """Return the name of runs that were given none; their seeds are added to it."""
    settings = digest(dataclasses.replace(config, seeds=(0,)))
    pretrained = [f"{use}{digest[:8]}" for use, digest in _pretrained_digests(data).items()]
    words = (config.predictor, data.targets.name, config.vectors)  # the second may be the header of a stranger's file
    return "-".join((*map(_slug, words), settings, _identity(data)[:8], *pretrained))


def experiment(config: DownstreamConfig) -> str:
    """Return the experiment of the runs: as given, or one per data set."""
    return config.experiment or f"crysatom-{_slug(data_name(config.data))}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[-32:]


def _identity(data: Labeled) -> str:
    """Return what a run's folder knows its data by."""
    return "".join(
        [data.vectors_digest, data.data_digest, *(f"-{k}-{v}" for k, v in _pretrained_digests(data).items())]
    )


def _pretrained_digests(data: Labeled) -> dict[str, str]:
    """Return the digests of pretrained encoders and models in use, by what they are for."""
    encoders = {"init": data.task.init, "distill": data.task.teacher}
    digests = {use: encoder.digest for use, encoder in encoders.items() if encoder is not None}
    return digests | ({"model": data.start_digest} if data.start_digest else {})


def _tags(config: DownstreamConfig, data: Labeled) -> dict[str, str]:
    pretrained = _pretrained_digests(data)
    return {
        fields.PREDICTOR: config.predictor,
        fields.VECTORS: config.vectors,
        fields.VECTORS_DIGEST: data.vectors_digest,
        fields.FILLED: " ".join(data.task.vectors.provenance.get("filled", ())),
        fields.LEFT_OUT: str(len(data.left_out)),
        fields.PROPERTY: data.targets.name,
        fields.UNIT: data.targets.unit,
        fields.SEED: str(config.seeds[0]),
        fields.SPLIT: data.split.name,
        fields.SPLIT_DIGEST: data.split.digest(),
        fields.DATA_DIGEST: data.data_digest,
        fields.INIT_DIGEST: pretrained.get("init", ""),
        fields.INIT_MODEL_DIGEST: pretrained.get("model", ""),
        fields.DISTILL_DIGEST: pretrained.get("distill", ""),
    }


def _write_results(
    config: DownstreamConfig, data: Labeled, folder: RunFolder, tracker: Tracker, outcome: RegressionOutcome
) -> None:
    history = pd.DataFrame(outcome.history)
    write_csv(history, folder.path / HISTORY)
    write_csv(data.left_out, folder.path / LEFT_OUT)
    for part, file in PREDICTIONS.items():
        columns = {
            MATERIAL_ID: data.split.ids(part),
            TARGET: data.targets.labels[data.task.parts[part]],
            PREDICTION: outcome.predictions[part],
        }
        write_csv(pd.DataFrame(columns), folder.path / file)
    write_csv(_element_errors(data, outcome), folder.path / ELEMENT_ERRORS_CSV)
    metrics = judge(data, outcome)
    results = {
        "property": data.targets.name,
        "unit": data.targets.unit,
        "seed": config.seeds[0],
        "selected_epoch": outcome.selected_epoch,
        "epochs": len(outcome.history),
        "metrics": metrics,
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
    save_model(folder.path / MODEL, outcome.state, info)
    describe_to_mlflow(folder.path / MODEL, info)
    (folder.path / RESULTS_JSON).write_text(json.dumps(results, indent=1))
    _tell(folder, tracker, data, outcome, history, metrics)
    _tell_of_model(config, data, folder, tracker, metrics)


def _element_errors(data: Labeled, outcome: RegressionOutcome) -> pd.DataFrame:
    target = data.targets.labels[data.task.parts[TEST]]
    found = mae_by_element(target, outcome.predictions[TEST], data.test_holds)
    rows = [(SYMBOLS[z - 1], count, error) for z, (count, error) in found.items()]
    return pd.DataFrame(rows, columns=[ELEMENT, NUM_CRYSTALS, MAE])


def judge(data: Labeled, outcome: RegressionOutcome) -> dict[str, float]:
    """Return all metrics of the predictions, ``<part>/<metric>``; what is undefined is left out."""
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


def _tell(
    folder: RunFolder,
    tracker: Tracker,
    data: Labeled,
    outcome: RegressionOutcome,
    history: pd.DataFrame,
    metrics: Mapping[str, float],
) -> None:
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
        tracker.log_artifact(folder.path / file)
    name, unit = data.targets.name, data.targets.unit
    label = PROPERTIES[name].label if name in PROPERTIES else name
    remark = f"MAE {metrics[f'{TEST}/{MAE}']:.4g} {unit}\n{len(data.split.test):,} test crystals"
    target = data.targets.labels[data.task.parts[TEST]]
    tracker.log_figure(parity_plot(target, outcome.predictions[TEST], label=label, unit=unit, remark=remark), "parity")
    tracker.log_figure(learning_curve(history, outcome.selected_epoch, unit), "learning_curve")


def _tell_of_model(
    config: DownstreamConfig, data: Labeled, folder: RunFolder, tracker: Tracker, metrics: Mapping[str, float]
) -> None:
    name = config.model_name(data.targets.name)
    if name:
        tags = _tags(config, data) | {fields.TEST_MAE: f"{metrics[f'{TEST}/{MAE}']:.6g}"}
        tracker.register(name, tags, folder.path / MODEL, to=MODEL)
    else:
        tracker.log_artifact(folder.path / MODEL, to=MODEL)


def _finished(config: DownstreamConfig, data: Labeled, folder: RunFolder, tracker: Tracker) -> FinishedRun:
    registered = folder.read().get("registered", "")
    if not registered and (registered := tracker.registered(config.model_name(data.targets.name))):
        folder.note(registered=registered)
    results: dict[str, Any] = json.loads((folder.path / RESULTS_JSON).read_text())
    return FinishedRun(
        folder=folder.path, tracking_uri=tracker.uri, run_id=tracker.run_id, registered=registered, **results
    )
