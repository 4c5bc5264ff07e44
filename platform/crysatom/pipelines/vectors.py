"""The pipeline for vectors from counts, and controls: data, counts, vectors, card, tracking."""

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
from crysatom.figures.pretraining import has_map, vector_map
from crysatom.graphs.shards import read_manifest, shard_files
from crysatom.inputs.graphs import prepare
from crysatom.names import LOSS, NUM_ELEMENTS, SYMBOLS
from crysatom.pipelines.structure import learned_from_structures
from crysatom.runs.lifecycle import Run, opened, start_ray, where_to_look
from crysatom.runs.paths import Paths
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.fields import DATA, DATA_DIGEST, DIMENSIONS, ELEMENTS, VECTORS
from crysatom.training.machine import flushed_denormals, hardware
from crysatom.vectors.atom2vec import decompose
from crysatom.vectors.card import CARD_MD, CardFacts, card
from crysatom.vectors.controls import one_hot, random_vectors
from crysatom.vectors.counts import Counts, count_file
from crysatom.vectors.files import read_vectors, write_vectors
from crysatom.vectors.skipatom import factorize, induced
from crysatom.vectors.structure.tally import Tally
from crysatom.vectors.table import AtomVectors
from crysatom.writing import write_text

logger = logging.getLogger(__name__)

Array = NDArray[Any]

DEFAULT_DIM = 200
"""Dimensions of CrysAtom's, SkipAtom's and mat2vec's published vectors."""


@dataclass(frozen=True, kw_only=True)
class FinishedVectors:
    """Results of a run.

    Attributes:
        folder: The run's folder.
        vectors: The element vectors.
        facts: Numbers about how the vectors were made.
        tracking_uri: MLflow store.
        run_id: MLflow run; empty if MLflow was unavailable.
        again: True if the run was already finished and nothing was done now.

    """

    folder: Path
    vectors: AtomVectors
    facts: dict[str, float]
    tracking_uri: str
    run_id: str
    again: bool = False


def run(config: VectorsConfig) -> FinishedVectors:
    """Make the vectors, or return the results of an earlier run of the same configuration on the same data.

    Raises:
        ValueError: If the data cannot be read or hold nothing to learn from, or the folder holds another run.

    """
    start_ray(config.num_workers)
    paths = Paths.of(config.output, config.tracking)
    shards = prepare(config.source, config.limits, config.graph, paths.out, num_workers=config.num_workers)
    data_digest = _data_digest(shards)
    name = config.output.name or f"{config.method}-{digest(config)}-{data_digest[:8]}"
    with opened(
        config, paths, name, data_digest, tags={DATA: config.source.data}, experiment=config.tracking.experiment
    ) as run:
        if not run.again:
            run.finish(facts=_learn(config, shards, run))
        return FinishedVectors(
            **run.address,
            vectors=read_vectors(run.path / VECTORS),
            facts=run.folder.read()["facts"],
            again=run.again,
        )


def _learn(config: VectorsConfig, shards: Path, run: Run) -> dict[str, float]:
    """Write the vectors; return numbers about how they were made."""
    torch.set_num_threads(1)  # with small matrices, threads on a busy machine wait for each other: 15 times slower
    start = time.perf_counter()
    counts: Counts | Tally
    with flushed_denormals():
        if config.method == "structure":
            counts, vectors, facts = learned_from_structures(config, shards)
        else:
            counts = _count(config, shards)
            vectors, facts = learned(config, counts)
    facts |= {"seconds": time.perf_counter() - start, NUM_ELEMENTS: len(vectors.symbols)}
    _write(config, run, counts, vectors, facts)
    return facts


def learned(config: VectorsConfig, counts: Counts) -> tuple[AtomVectors, dict[str, float]]:
    """Return vectors of the counted elements, and numbers about how they were learned.

    Raises:
        ValueError: If there is nothing to learn from, or fewer dimensions than requested.

    """
    if not counts.crystals:
        raise ValueError(f"{config.source.data} holds no crystal with a graph; there is nothing to learn from")
    facts = {
        "crystals": float(counts.crystals),
        "pairs": float(counts.pairs.sum()),
        "compounds": float(len(counts.compounds)),
    }
    if config.method == "skipatom":
        numbers = np.flatnonzero(counts.pairs.sum(1)) + 1
        if not len(numbers):
            raise ValueError(f"no two atoms of {config.source.data} are bonded within {config.graph.cutoff:g} angstrom")
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
            logger.warning("%s: in the crystals, but never bonded; skipatom gives it no vector", unbonded)
        rare = pairs.sum(1) < config.induce_below
        facts |= {LOSS: found.loss, "entropy": found.entropy, "induced_elements": float(rare.sum())}
        return _table(numbers, induced(found.vectors, numbers, rare), counts), facts
    if config.method == "atom2vec":
        numbers, vectors = decompose(counts.compounds)
        if config.dim > len(numbers):
            raise ValueError(
                f"{config.source.data} holds {len(numbers)} elements, which atom2vec gives at most as many dimensions; "
                f"--dim {config.dim} is more"
            )
        return _table(numbers, vectors[:, : config.dim or None], counts), facts
    every = one_hot() if config.method == "onehot" else random_vectors(config.seed, config.dim or DEFAULT_DIM)
    numbers = np.flatnonzero(counts.sites) + 1
    return _table(numbers, every.lookup(numbers), counts), facts


def describe(finished: FinishedVectors) -> str:
    """Return the summary for the end of the job."""
    lines = ["Nothing to do: this run is finished."] if finished.again else []
    facts, vectors = finished.facts, finished.vectors
    counted = {"pairs": "bonded pairs", "contexts": "contexts", "compounds": "compounds"}
    lines.append(
        ", ".join(
            [f"{facts['crystals']:,.0f} crystals", *(f"{facts[k]:,.0f} {v}" for k, v in counted.items() if k in facts)]
        )
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
        return Counts.total(count_file(file, config.bond_tolerance, config.graph.cutoff) for file in files)
    from crysatom.cluster.counts import count_on_cluster

    return count_on_cluster(files, config.bond_tolerance, config.graph.cutoff)


def _write(
    config: VectorsConfig, run: Run, counts: Counts | Tally, vectors: AtomVectors, facts: dict[str, float]
) -> None:
    note, folder, tracker = run.folder.read(), run.path, run.tracker
    provenance = {
        "data": config.source.data,
        "data_digest": note["data_digest"],
        "config_digest": note["config_digest"],
        "config": recorded(config),
        **environment_tags(hardware()),
    }
    vectors = dataclasses.replace(vectors, provenance=provenance)
    write_vectors(vectors, folder / VECTORS)
    described = CardFacts(
        data=config.source.data,
        data_digest=note["data_digest"],
        num_crystals=counts.crystals,
        crystals_per_element={int(z) + 1: int(counts.crystals_of[z]) for z in np.flatnonzero(counts.crystals_of)},
        config=recorded(config),
        losses=facts,
        run_id=tracker.run_id,
    )
    write_text(folder / VECTORS / CARD_MD, card(vectors, described))
    tracker.log_metrics(facts, 0)
    if has_map(vectors):
        tracker.log_figure(vector_map(vectors), "vector_map")
    if config.tracking.register:
        tags = {DIMENSIONS: str(vectors.dim), ELEMENTS: str(len(vectors.symbols)), DATA_DIGEST: note["data_digest"]}
        tracker.register(config.tracking.register, tags, folder / VECTORS, to=VECTORS)
    else:
        tracker.log_artifact(folder / VECTORS, to=VECTORS)
