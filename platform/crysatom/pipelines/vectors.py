"""Vectors by SkipAtom and Atom2Vec, and controls, from beginning to end: data, counts, vectors, card, tracking."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crysatom.config import VectorsConfig, digest, recorded
from crysatom.graphs.shards import read_manifest, shard_files
from crysatom.names import LOSS, NUM_ELEMENTS, SYMBOLS
from crysatom.pipelines.places import default_tracking_uri, resolve
from crysatom.pipelines.preparing import prepare
from crysatom.pipelines.run_folder import RunFolder
from crysatom.pipelines.tracked import tracked, where_to_look
from crysatom.report.figures import has_map, vector_map
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.fields import DATA_DIGEST, DIMENSIONS, ELEMENTS, VECTORS
from crysatom.tracking.runs import Tracker
from crysatom.training.machine import hardware
from crysatom.vectors.atom2vec import decompose
from crysatom.vectors.card import CARD_MD, CardFacts, card
from crysatom.vectors.controls import one_hot, random_vectors
from crysatom.vectors.counts import Counts, count_file
from crysatom.vectors.files import read_vectors, write_vectors
from crysatom.vectors.skipatom import factorize, induced
from crysatom.vectors.table import AtomVectors

logger = logging.getLogger(__name__)

Array = NDArray[Any]

DEFAULT_DIM = 200
"""Of CrysAtom's, SkipAtom's and mat2vec's published vectors."""


@dataclass(frozen=True, kw_only=True)
class FinishedVectors:
    """Where a finished run left its results.

    Attributes:
        folder: The run's folder.
        vectors: The element vectors.
        facts: Numbers about how they were made.
        tracking_uri: MLflow store.
        run_id: MLflow run; empty if MLflow was away.
        again: True if the run had been finished before and nothing was done now.

    """

    folder: Path
    vectors: AtomVectors
    facts: dict[str, float]
    tracking_uri: str
    run_id: str
    again: bool = False


def run(config: VectorsConfig) -> FinishedVectors:
    """Make the vectors, or return what an earlier run of the same configuration on the same data left.

    Raises:
        ValueError: If the data cannot be read or hold nothing to learn from, or the folder holds another run.

    """
    if config.num_workers > 0:
        from crysatom.cluster.session import start_ray

        logger.info("starting Ray ...")
        start_ray()
    out = resolve(config.out)
    shards = prepare(config, out)
    data_digest = _data_digest(shards)
    folder = RunFolder(out / (config.name or f"{config.method}-{digest(config)}-{data_digest[:8]}"))
    tracker = Tracker.at(folder.path, default_tracking_uri(config.tracking_uri))
    finished = folder.claim(config, data_digest)
    with folder.held():
        if finished:
            tracker.settle()
        else:
            _learn(config, shards, folder, tracker)
        return _finished(folder, tracker, again=finished)


def _learn(config: VectorsConfig, shards: Path, folder: RunFolder, tracker: Tracker) -> None:
    torch.set_num_threads(1)  # the matrices are small: on a busy machine threads wait for each other, 15 times as long
    with tracked(folder, tracker, config, experiment=config.experiment, tags={}):
        start = time.perf_counter()
        counts = _count(config, shards)
        vectors, facts = learned(config, counts)
        facts |= {"seconds": time.perf_counter() - start, NUM_ELEMENTS: len(vectors.symbols)}
        _write(config, folder, tracker, counts, vectors, facts)
    folder.finish(run_id=tracker.run_id, facts=facts)
    tracker.finish()


def learned(config: VectorsConfig, counts: Counts) -> tuple[AtomVectors, dict[str, float]]:
    """Return vectors of the elements that were counted, and numbers about how they were learned.

    Raises:
        ValueError: If there is nothing to learn from, or are fewer dimensions than were asked for.

    """
    if not counts.crystals:
        raise ValueError(f"{config.data} holds no crystal with a graph; there is nothing to learn from")
    facts = {
        "crystals": float(counts.crystals),
        "pairs": float(counts.pairs.sum()),
        "compounds": float(len(counts.compounds)),
    }
    if config.method == "skipatom":
        numbers = np.flatnonzero(counts.pairs.sum(1)) + 1
        if not len(numbers):
            raise ValueError(f"no two atoms of {config.data} are bonded within {config.cutoff:g} angstrom")
        pairs = counts.pairs[np.ix_(numbers - 1, numbers - 1)]
        found = factorize(
            pairs,
            config.dim or DEFAULT_DIM,
            steps=config.steps,
            lr=config.lr,
            seed=config.seed,
            batch_size=config.batch_size,
        )
        if unbonded := [SYMBOLS[z] for z in np.flatnonzero(counts.sites) if not counts.pairs[z].any()]:
            logger.warning("%s: in the crystals, but bonded to nothing; skipatom has no vector of it", unbonded)
        rare = pairs.sum(1) < config.induce_below
        facts |= {LOSS: found.loss, "entropy": found.entropy, "induced_elements": float(rare.sum())}
        return _table(numbers, induced(found.vectors, numbers, rare), counts), facts
    if config.method == "atom2vec":
        numbers, vectors = decompose(counts.compounds)
        if config.dim > len(numbers):
            raise ValueError(
                f"{config.data} holds {len(numbers)} elements, which atom2vec gives at most as many dimensions; "
                f"--dim {config.dim} is more"
            )
        return _table(numbers, vectors[:, : config.dim or None], counts), facts
    every = one_hot() if config.method == "onehot" else random_vectors(config.seed, config.dim or DEFAULT_DIM)
    numbers = np.flatnonzero(counts.sites) + 1
    return _table(numbers, every.lookup(numbers), counts), facts


def describe(finished: FinishedVectors) -> str:
    """Return what a user wants to know at the end."""
    lines = ["Nothing to do: this run is finished."] if finished.again else []
    facts, vectors = finished.facts, finished.vectors
    lines.append(
        f"{facts['crystals']:,.0f} crystals, {facts['pairs']:,.0f} bonded pairs, {facts['compounds']:,.0f} compounds"
    )
    if LOSS in facts:
        lines.append(f"loss {facts[LOSS]:.4f} nats; no vectors can go below {facts['entropy']:.4f}")
    lines.append(f"{len(vectors.symbols)} vectors of {vectors.dim} dimensions: {finished.folder / VECTORS}")
    lines.append(where_to_look(finished.tracking_uri, finished.run_id))
    return "\n".join(lines)


def _table(numbers: Array, vectors: Array, counts: Counts) -> AtomVectors:
    return AtomVectors(
        atomic_numbers=numbers.astype(np.int64),
        vectors=vectors.astype(np.float32),
        site_counts=counts.sites[numbers - 1],
    )


def _data_digest(shards: Path) -> str:
    text = json.dumps([shard["sha256"] for shard in read_manifest(shards)["shards"]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _count(config: VectorsConfig, shards: Path) -> Counts:
    files = shard_files(shards)
    logger.info("counting in %d shards ...", len(files))
    if config.num_workers == 0 or len(files) == 1:
        return Counts.total(count_file(file, config.bond_tolerance, config.cutoff) for file in files)
    from crysatom.cluster.counts import count_on_cluster

    return count_on_cluster(files, config.bond_tolerance, config.cutoff)


def _write(
    config: VectorsConfig,
    folder: RunFolder,
    tracker: Tracker,
    counts: Counts,
    vectors: AtomVectors,
    facts: dict[str, float],
) -> None:
    note = folder.read()
    provenance = {
        "data": config.data,
        "data_digest": note["data_digest"],
        "config_digest": note["config_digest"],
        "config": recorded(config),
        **environment_tags(hardware()),
    }
    vectors = dataclasses.replace(vectors, provenance=provenance)
    write_vectors(vectors, folder.path / VECTORS)
    described = CardFacts(
        data=config.data,
        data_digest=note["data_digest"],
        num_crystals=counts.crystals,
        crystals_per_element={int(z) + 1: int(counts.crystals_of[z]) for z in np.flatnonzero(counts.crystals_of)},
        config=recorded(config),
        losses=facts,
        run_id=tracker.run_id,
    )
    (folder.path / VECTORS / CARD_MD).write_text(card(vectors, described))
    tracker.log_metrics(facts, 0)
    if has_map(vectors):
        tracker.log_figure(vector_map(vectors), "vector_map")
    if config.register:
        tags = {DIMENSIONS: str(vectors.dim), ELEMENTS: str(len(vectors.symbols)), DATA_DIGEST: note["data_digest"]}
        tracker.register(config.register, tags, folder.path / VECTORS, to=VECTORS)
    else:
        tracker.log_artifact(folder.path / VECTORS, to=VECTORS)


def _finished(folder: RunFolder, tracker: Tracker, *, again: bool = False) -> FinishedVectors:
    return FinishedVectors(
        folder=folder.path,
        vectors=read_vectors(folder.path / VECTORS),
        facts=folder.read()["facts"],
        tracking_uri=tracker.uri,
        run_id=tracker.run_id,
        again=again,
    )
