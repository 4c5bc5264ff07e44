"""Pretraining from beginning to end: data, training, vectors, card, tracking, pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

from crysatom.config import PretrainConfig, digest, recorded
from crysatom.crystals.csv_files import write_csv
from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.shards import iter_tables, read_manifest
from crysatom.names import ALL_LOSS_TERMS, ATOMIC_NUMBERS, HELD_OUT, LOSS, MAX_ATOMIC_NUMBER, SYMBOLS, TRAIN
from crysatom.pipelines.places import default_tracking_uri, resolve
from crysatom.pipelines.preparing import prepare
from crysatom.pipelines.run_folder import CHECKPOINTS, RunFolder
from crysatom.pipelines.stopping import saved_when_told
from crysatom.pipelines.tracked import Publish, log_epochs, plain_context, progress, require_gpu, tracked, where_to_look
from crysatom.report.figures import cross_correlation, has_map, loss_curves, vector_map
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.fields import DATA_DIGEST, DIMENSIONS, ELEMENTS, HELD_OUT_LOSS, OBJECTIVE
from crysatom.tracking.runs import Tracker
from crysatom.training.encoder_files import ENCODER, save_encoder
from crysatom.training.pretrain import PretrainOutcome, pretrain, resident_data
from crysatom.vectors.card import CARD_MD, CardFacts, card
from crysatom.vectors.elements import element_features
from crysatom.vectors.files import read_vectors, write_vectors
from crysatom.vectors.table import AtomVectors

logger = logging.getLogger(__name__)

HISTORY = "history.csv"
VECTORS = "vectors"
RESIDENT_BYTES_PER_EDGE = 12
RESIDENT_BYTES_PER_ATOM = 24
"""Of the flat arrays, with index arrays; see GraphTensors."""

SHOWN_ELEMENTS = ("Na", "Cl", "Fe", "Si", "La", "O")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Where a finished run left its results.

    Attributes:
        folder: The run's folder.
        history: Metrics, one row per epoch.
        vectors: The element vectors.
        tracking_uri: MLflow store.
        run_id: MLflow run; empty if MLflow was away.
        again: True if the run had been finished before and nothing was done now.

    """

    folder: Path
    history: pd.DataFrame
    vectors: AtomVectors
    tracking_uri: str
    run_id: str
    again: bool = False


def run(config: PretrainConfig) -> FinishedRun:
    """Pretrain, or return what an earlier run of the same configuration on the same data left.

    Raises:
        ValueError: If data, flags or the run's folder are not usable as asked.
        NonFiniteLossError: If the loss of a batch is not a number.

    """
    if config.num_workers > 0:
        from crysatom.cluster.session import start_ray

        logger.info("starting Ray ...")
        start_ray()
    out = resolve(config.out)
    shards = prepare(config, out)
    manifest = read_manifest(shards)
    _check_data(config, manifest)
    data_digest = input_digest(config, manifest)
    folder = RunFolder(out / (config.name or default_name(config, data_digest)))
    tracker = Tracker.at(folder.path, default_tracking_uri(config.tracking_uri))
    streamed = folder.read().get("streamed", _is_streamed(config, manifest))
    _check_resources(config, streamed=streamed)
    finished = folder.claim(config, data_digest)
    with folder.held():
        if finished:
            tracker.settle()
        else:
            folder.note(streamed=streamed)
            _pretrain(config, shards, folder, tracker, streamed=streamed)
        return _finished(folder, tracker, again=finished)


def _pretrain(config: PretrainConfig, shards: Path, folder: RunFolder, tracker: Tracker, *, streamed: bool) -> None:
    done = f"continuing after epoch {folder.epochs_done()} of " if folder.epochs_done() else ""
    with tracked(folder, tracker, config, experiment=config.experiment, tags={}):
        logger.info("%s: %s%d epochs, %d workers ...", folder.path, done, config.epochs, config.num_workers)
        publish = Publish(tracker, partial(epoch_line, epochs=config.epochs))
        with saved_when_told(folder.path / CHECKPOINTS):
            outcome = _train(config, shards, folder.path, publish, streamed=streamed)
        log_epochs(tracker, outcome.history)  # those of an epoch after whose checkpoint the run was killed
        _write_results(config, shards, folder, tracker, outcome)
    folder.finish(run_id=tracker.run_id, seconds=sum(epoch["seconds"] for epoch in outcome.history))
    tracker.finish()


def epoch_line(metrics: Mapping[str, float], epochs: int) -> str:
    """Return one line on an epoch: losses, held-out loss, speed, time left."""
    losses = "  ".join(
        f"{term} {metrics[f'{TRAIN}/{term}']:.4f}" for term in ALL_LOSS_TERMS if f"{TRAIN}/{term}" in metrics
    )
    held_out = metrics.get(f"{HELD_OUT}/{LOSS}")
    return progress(metrics, epochs, losses + ("" if held_out is None else f"  held-out {held_out:.4f}"))


def describe(finished: FinishedRun) -> str:
    """Return what a user wants to know at the end."""
    lines = ["Nothing to do: this run is finished."] if finished.again else []
    first, last = finished.history.iloc[0], finished.history.iloc[-1]
    for split in (TRAIN, HELD_OUT):
        shown = [term for term in ALL_LOSS_TERMS if f"{split}/{term}" in finished.history]
        changes = ", ".join(f"{term} {first[f'{split}/{term}']:.4f} -> {last[f'{split}/{term}']:.4f}" for term in shown)
        if changes:
            lines.append(f"{split} losses, first -> last epoch: {changes}")
    lines.append("Nearest elements (centered cosine):")
    for symbol in (s for s in SHOWN_ELEMENTS if s in finished.vectors.symbols):
        near = ", ".join(f"{other} {value:.2f}" for other, value in finished.vectors.nearest(symbol, 5))
        lines.append(f"  {symbol:<2}  {near}")
    lines.append(
        f"{len(finished.vectors.symbols)} vectors of {finished.vectors.dim} dimensions: {finished.folder / VECTORS}"
    )
    lines.append(where_to_look(finished.tracking_uri, finished.run_id))
    return "\n".join(lines)


def default_name(config: PretrainConfig, data_digest: str) -> str:
    """Return the name of a run that was given none: runs with the same settings share its first half."""
    return f"pretrain-{digest(config)}-{data_digest[:8]}"


def input_digest(config: PretrainConfig, manifest: Mapping[str, Any]) -> str:
    """Return 16 hex digits that identify what is learned from: the shards' checksums and the element features."""
    features = element_features(config.node_features)
    shards = [shard["sha256"] for shard in manifest["shards"]]
    text = json.dumps([shards, features.atomic_numbers.tolist(), features.features.shape])
    return hashlib.sha256(text.encode() + features.features.tobytes()).hexdigest()[:16]


def fits_in_memory(config: PretrainConfig, manifest: Mapping[str, Any]) -> bool:
    """Tell whether every worker can hold all graphs in half of its share of the memory."""
    counts = manifest["counts"]
    needed = counts["edges"] * RESIDENT_BYTES_PER_EDGE + counts["atoms"] * RESIDENT_BYTES_PER_ATOM
    memory = config.memory_gb * 1e9 or _worker_memory(config)
    return bool(needed < memory / 2)


def _worker_memory(config: PretrainConfig) -> float:
    if config.use_gpu and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return psutil.virtual_memory().available / max(1, config.num_workers, config.max_workers)


def _check_data(config: PretrainConfig, manifest: Mapping[str, Any]) -> None:
    counts = manifest["counts"]
    if counts["accepted"] < 2:
        raise ValueError(
            f"{config.data} has {counts['accepted']} usable crystals; pretraining compares crystals and needs 2 or more"
        )
    features = element_features(config.node_features)
    if features.features.min() < 0 or features.features.max() > 1:
        raise ValueError(
            f"{config.node_features}: features must lie in [0, 1], since the decoder restores them as probabilities; "
            f"these reach from {features.features.min():g} to {features.features.max():g}"
        )
    features.lookup([SYMBOLS.index(symbol) + 1 for symbol in counts["elements"]])


def _is_streamed(config: PretrainConfig, manifest: Mapping[str, Any]) -> bool:
    return config.loader == "streamed" or (config.loader == "auto" and not fits_in_memory(config, manifest))


def _check_resources(config: PretrainConfig, *, streamed: bool) -> None:
    """Refuse what this machine cannot do, before the run's folder is claimed."""
    if config.num_workers > 0:
        from crysatom.cluster.resources import scaling

        scaling(config, streamed=streamed)
    elif streamed:
        raise ValueError("the streamed loader needs Ray: set --num-workers to 1 or more")
    elif config.use_gpu:
        require_gpu()


def _train(config: PretrainConfig, shards: Path, folder: Path, publish: Publish, *, streamed: bool) -> PretrainOutcome:
    if config.num_workers > 0:
        from crysatom.cluster.pretraining import pretrain_on_cluster

        news: dict[str, Any] = {"record": publish.record, "show": publish.show}
        return pretrain_on_cluster(config, shards, folder / CHECKPOINTS, **news, streamed=streamed)
    context = plain_context(config, folder, publish)
    return pretrain(config, resident_data(config, shards, context.device), context)


def _write_results(
    config: PretrainConfig, shards: Path, folder: RunFolder, tracker: Tracker, outcome: PretrainOutcome
) -> None:
    note = folder.read()
    provenance = {
        "data": config.data,
        "data_digest": note["data_digest"],
        "config_digest": note["config_digest"],
        "config": recorded(config),
        **environment_tags(outcome.hardware),
    }
    vectors = dataclasses.replace(outcome.vectors, provenance=provenance)
    history = pd.DataFrame(outcome.history)
    write_csv(history, folder.path / HISTORY)
    write_vectors(vectors, folder.path / VECTORS)
    save_encoder(folder.path / ENCODER, outcome.encoder, provenance)
    selected = outcome.history[outcome.selected_epoch]
    losses = {k: v for k, v in selected.items() if k.startswith((TRAIN, HELD_OUT))}
    facts = CardFacts(
        data=config.data,
        data_digest=note["data_digest"],
        num_crystals=read_manifest(shards)["counts"]["accepted"],
        crystals_per_element=crystals_per_element(shards),
        config=recorded(config),
        losses=losses,
        run_id=tracker.run_id,
    )
    (folder.path / VECTORS / CARD_MD).write_text(card(vectors, facts))
    tracker.log_artifact(folder.path / HISTORY)
    tracker.log_artifact(folder.path / ENCODER, to=ENCODER)
    tracker.log_figure(loss_curves(history), "losses")
    if has_map(vectors):
        tracker.log_figure(vector_map(vectors), "vector_map")
    if outcome.cross_correlation is not None:
        tracker.log_figure(cross_correlation(outcome.cross_correlation), "cross_correlation")
    if config.register:
        tags = {DIMENSIONS: str(vectors.dim), ELEMENTS: str(len(vectors.symbols)), DATA_DIGEST: note["data_digest"]}
        tags |= {OBJECTIVE: config.objective}
        held_out = selected.get(f"{HELD_OUT}/{LOSS}")
        tags |= {} if held_out is None else {HELD_OUT_LOSS: f"{held_out:.6g}"}
        tracker.register(config.register, tags, folder.path / VECTORS, to=VECTORS)
    else:
        tracker.log_artifact(folder.path / VECTORS, to=VECTORS)


def crystals_per_element(shards: Path) -> dict[int, int]:
    """Return the number of crystals that hold each element, by atomic number."""
    total = np.zeros(MAX_ATOMIC_NUMBER + 1, np.int64)
    for table in iter_tables(shards, (ATOMIC_NUMBERS,)):
        column = table[ATOMIC_NUMBERS]
        crystal = np.repeat(np.arange(len(table)), list_lengths(column))
        pairs = np.unique(crystal * len(total) + flat_values(column))
        total += np.bincount(pairs % len(total), minlength=len(total))
    return {int(z): int(total[z]) for z in np.flatnonzero(total)}


def _finished(folder: RunFolder, tracker: Tracker, *, again: bool = False) -> FinishedRun:
    return FinishedRun(
        folder=folder.path,
        history=pd.read_csv(folder.path / HISTORY),
        vectors=read_vectors(folder.path / VECTORS / "vectors.safetensors"),
        tracking_uri=tracker.uri,
        run_id=tracker.run_id,
        again=again,
    )
