"""The pretraining pipeline: data, training, vectors, card, tracking, figures."""

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

from crysatom.config import PretrainConfig, TrainingWorkers, digest, recorded
from crysatom.crystals.csv_files import write_csv
from crysatom.figures.pretraining import cross_correlation, has_map, loss_curves, vector_map
from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.shards import iter_tables, read_manifest
from crysatom.inputs.graphs import prepare
from crysatom.names import ALL_LOSS_TERMS, ATOMIC_NUMBERS, HELD_OUT, LOSS, MAX_ATOMIC_NUMBER, SYMBOLS, TRAIN
from crysatom.runs.folder import RunFolder
from crysatom.runs.lifecycle import Run, opened, require_workers, start_ray, where_to_look
from crysatom.runs.paths import Paths
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.fields import DATA, DATA_DIGEST, DIMENSIONS, ELEMENTS, HELD_OUT_LOSS, OBJECTIVE
from crysatom.training.context import Context, Metrics
from crysatom.training.encoder_files import ENCODER, save_encoder
from crysatom.training.pretrain import PretrainOutcome, pretrain, resident_data
from crysatom.vectors.card import CARD_MD, CardFacts, card
from crysatom.vectors.elements import element_features
from crysatom.vectors.files import read_vectors, write_vectors
from crysatom.vectors.table import AtomVectors
from crysatom.writing import write_text

logger = logging.getLogger(__name__)

HISTORY = "history.csv"
VECTORS = "vectors"
RESIDENT_BYTES_PER_EDGE = 12
RESIDENT_BYTES_PER_ATOM = 24
"""Bytes of the flat arrays, with index arrays; see GraphTensors."""

SHOWN_ELEMENTS = ("Na", "Cl", "Fe", "Si", "La", "O")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Results of a run.

    Attributes:
        folder: The run's folder.
        history: Metrics, one row per epoch.
        vectors: The element vectors.
        tracking_uri: MLflow store.
        run_id: MLflow run; empty if MLflow was unavailable.
        again: True if the run was already finished and nothing was done now.

    """

    folder: Path
    history: pd.DataFrame
    vectors: AtomVectors
    tracking_uri: str
    run_id: str
    again: bool = False


def run(config: PretrainConfig) -> FinishedRun:
    """Pretrain, or return the results of an earlier run of the same configuration on the same data.

    Raises:
        ValueError: If data, flags or the run's folder are unusable.
        NonFiniteLossError: If the loss or the gradient of a batch is not finite.

    """
    start_ray(config.workers.num_workers)
    paths = Paths.of(config.output, config.tracking)
    shards = prepare(
        config.source,
        config.limits,
        config.graph,
        paths.out,
        num_workers=config.workers.num_workers,
        resume=config.output.resume,
    )
    manifest = read_manifest(shards)
    _check_data(config, manifest)
    data_digest = input_digest(config, manifest)
    name = config.output.name or default_name(config, data_digest)
    streamed = RunFolder(paths.out / name).read().get("streamed", _is_streamed(config, manifest))
    require_workers(config.workers, streamed=streamed)  # before the folder is claimed
    with opened(
        config,
        paths,
        name,
        data_digest,
        tags={DATA: config.source.data},
        experiment=config.tracking.experiment,
        resume=config.output.resume,
        workers_report=config.workers.num_workers > 0,
    ) as run:
        if not run.again:
            run.folder.note(streamed=streamed)
            outcome = _train(config, shards, run, streamed=streamed)
            _write_results(config, shards, run, outcome)
            run.finish(seconds=sum(epoch["seconds"] for epoch in outcome.history))
        return FinishedRun(
            **run.address,
            history=pd.read_csv(run.path / HISTORY),
            vectors=read_vectors(run.path / VECTORS / "vectors.safetensors"),
            again=run.again,
        )


def _train(config: PretrainConfig, shards: Path, run: Run, *, streamed: bool) -> PretrainOutcome:
    stream = None
    if streamed:
        from crysatom.cluster.data import streamed_dataset

        stream = streamed_dataset(config, shards)
    work = partial(_pretrain, _with_absolute_paths(config), shards, streamed)
    return run.train(work, config.workers, epochs=config.optimization.epochs, line=epoch_line, stream=stream)


def _pretrain(config: PretrainConfig, shards: Path, streamed: bool, context: Context) -> PretrainOutcome:
    """Pretrain on one worker."""
    if streamed:
        from crysatom.cluster.data import streamed_data

        return pretrain(config, streamed_data(config, shards, context.device), context)
    return pretrain(config, resident_data(config, shards, context.device), context)


def _with_absolute_paths(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with absolute paths, because workers have other working directories."""
    path = Path(config.encoder.node_features)
    return config.replace(node_features=str(path.resolve())) if path.exists() else config


def epoch_line(metrics: Metrics) -> str:
    """Return the results of an epoch as a line: training losses and held-out loss."""
    losses = "  ".join(
        f"{term} {metrics[f'{TRAIN}/{term}']:.4f}" for term in ALL_LOSS_TERMS if f"{TRAIN}/{term}" in metrics
    )
    held_out = metrics.get(f"{HELD_OUT}/{LOSS}")
    return losses + ("" if held_out is None else f"  held-out {held_out:.4f}")


def describe(finished: FinishedRun) -> str:
    """Return the summary for the end of the job."""
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
    """Return the default name of a run; runs with the same settings share its first half."""
    return f"pretrain-{digest(config)}-{data_digest[:8]}"


def input_digest(config: PretrainConfig, manifest: Mapping[str, Any]) -> str:
    """Return 16 hex digits that identify the training data: the shards' checksums and the element features."""
    features = element_features(config.encoder.node_features)
    shards = [shard["sha256"] for shard in manifest["shards"]]
    text = json.dumps([shards, features.atomic_numbers.tolist(), features.features.shape])
    return hashlib.sha256(text.encode() + features.features.tobytes()).hexdigest()[:16]


def fits_in_memory(workers: TrainingWorkers, manifest: Mapping[str, Any], memory_gb: float = 0.0) -> bool:
    """Return whether every worker can hold all graphs in half of its share of the memory.

    Args:
        workers: Workers that share this machine's memory, or have a GPU each.
        manifest: Manifest of the graph shards.
        memory_gb: Memory of a worker; 0: measured.

    """
    counts = manifest["counts"]
    needed = counts["edges"] * RESIDENT_BYTES_PER_EDGE + counts["atoms"] * RESIDENT_BYTES_PER_ATOM
    return bool(needed < (memory_gb * 1e9 or _worker_memory(workers)) / 2)


def _worker_memory(workers: TrainingWorkers) -> float:
    if workers.use_gpu and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return psutil.virtual_memory().available / max(1, workers.most)


def _check_data(config: PretrainConfig, manifest: Mapping[str, Any]) -> None:
    counts = manifest["counts"]
    if counts["accepted"] < 2:
        raise ValueError(
            f"{config.source.data} has {counts['accepted']} usable crystals; pretraining compares crystals and needs 2 "
            "or more"
        )
    features = element_features(config.encoder.node_features)
    if features.features.min() < 0 or features.features.max() > 1:
        raise ValueError(
            f"{config.encoder.node_features}: features must lie in [0, 1], since the decoder restores them as "
            f"probabilities; these reach from {features.features.min():g} to {features.features.max():g}"
        )
    features.lookup([SYMBOLS.index(symbol) + 1 for symbol in counts["elements"]])


def _is_streamed(config: PretrainConfig, manifest: Mapping[str, Any]) -> bool:
    if config.loading.loader == "auto":
        return not fits_in_memory(config.workers, manifest, config.loading.memory_gb)
    return config.loading.loader == "streamed"


def _write_results(config: PretrainConfig, shards: Path, run: Run, outcome: PretrainOutcome) -> None:
    note, folder, tracker = run.folder.read(), run.path, run.tracker
    provenance = {
        "data": config.source.data,
        "data_digest": note["data_digest"],
        "config_digest": note["config_digest"],
        "config": recorded(config),
        **environment_tags(outcome.hardware),
    }
    vectors = dataclasses.replace(outcome.vectors, provenance=provenance)
    history = pd.DataFrame(outcome.history)
    write_csv(history, folder / HISTORY)
    write_vectors(vectors, folder / VECTORS)
    save_encoder(folder / ENCODER, outcome.encoder, provenance)
    selected = outcome.history[outcome.selected_epoch]
    losses = {k: v for k, v in selected.items() if k.startswith((TRAIN, HELD_OUT))}
    facts = CardFacts(
        data=config.source.data,
        data_digest=note["data_digest"],
        num_crystals=read_manifest(shards)["counts"]["accepted"],
        crystals_per_element=crystals_per_element(shards),
        config=recorded(config),
        losses=losses,
        run_id=tracker.run_id,
    )
    write_text(folder / VECTORS / CARD_MD, card(vectors, facts))
    tracker.log_artifact(folder / HISTORY)
    tracker.log_artifact(folder / ENCODER, to=ENCODER)
    tracker.log_figure(loss_curves(history), "losses")
    if has_map(vectors):
        tracker.log_figure(vector_map(vectors), "vector_map")
    if outcome.cross_correlation is not None:
        tracker.log_figure(cross_correlation(outcome.cross_correlation), "cross_correlation")
    if config.tracking.register:
        tags = {DIMENSIONS: str(vectors.dim), ELEMENTS: str(len(vectors.symbols)), DATA_DIGEST: note["data_digest"]}
        tags |= {OBJECTIVE: config.loss.objective}
        held_out = selected.get(f"{HELD_OUT}/{LOSS}")
        tags |= {} if held_out is None else {HELD_OUT_LOSS: f"{held_out:.6g}"}
        tracker.register(config.tracking.register, tags, folder / VECTORS, to=VECTORS)
    else:
        tracker.log_artifact(folder / VECTORS, to=VECTORS)


def crystals_per_element(shards: Path) -> dict[int, int]:
    """Return the number of crystals that contain each element, by atomic number."""
    total = np.zeros(MAX_ATOMIC_NUMBER + 1, np.int64)
    for table in iter_tables(shards, (ATOMIC_NUMBERS,)):
        column = table[ATOMIC_NUMBERS]
        crystal = np.repeat(np.arange(len(table)), list_lengths(column))
        pairs = np.unique(crystal * len(total) + flat_values(column))
        total += np.bincount(pairs % len(total), minlength=len(total))
    return {int(z): int(total[z]) for z in np.flatnonzero(total)}
