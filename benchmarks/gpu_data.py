"""Graphs for ``benchmarks/gpu.py``: made here, where the packages for it are installed, and read on a bare machine.

A bundle has the folder ``pool`` of unlabeled crystals for the pretraining, one folder of labeled crystals for each
kind of graph that the predictors read, named after the first predictor of that kind, and the labels.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from crysatom.config import GraphSpec
from crysatom.config import default as pretraining
from crysatom.config.downstream import default
from crysatom.graphs.batch import GraphTensors
from crysatom.graphs.graph import GraphArrays
from crysatom.graphs.shards import load
from crysatom.names import MATERIAL_ID, TARGET
from crysatom.predictors.registry import PREDICTORS

POOL, LABELS, ABOUT = "pool", "labels.parquet", "bundle.json"
MOST_BYTES = 60 * 2**20
"""Limit on a bundle: what may travel to a borrowed machine."""


def graph_of(predictor: str) -> GraphSpec:
    """Return the graphs that a predictor reads by default."""
    return default(predictor).graph


def folder_of(predictor: str) -> str:
    """Return the folder of a predictor's graphs: the name of the first predictor that reads such graphs."""
    return next(name for name in PREDICTORS if graph_of(name) == graph_of(predictor))


@dataclass(frozen=True)
class Labeled:
    """Labeled graphs in memory.

    Attributes:
        arrays: Graphs of M crystals.
        targets: ``(M,)`` float64.

    """

    arrays: GraphArrays
    targets: NDArray[np.float64]

    def tensors(self, device: torch.device) -> GraphTensors:
        """Return the graphs on a device."""
        return GraphTensors.of(self.arrays).to(device)


def first(arrays: GraphArrays, count: int) -> GraphArrays:
    """Return the first crystals, at most ``count``."""
    count = min(count, len(arrays.material_ids))
    atoms = int(arrays.atom_ptr[count])
    edges, pairs = int(arrays.edge_ptr[atoms]), int((np.diff(arrays.atom_ptr[: count + 1]) ** 2).sum())
    return GraphArrays(
        material_ids=arrays.material_ids[:count],
        material_keys=arrays.material_keys[:count],
        atom_ptr=arrays.atom_ptr[: count + 1],
        edge_ptr=arrays.edge_ptr[: atoms + 1],
        atomic_numbers=arrays.atomic_numbers[:atoms],
        neighbor=arrays.neighbor[:edges],
        distance=arrays.distance[:edges],
        image=None if arrays.image is None else arrays.image[:edges],
        vector=None if arrays.vector is None else arrays.vector[:edges],
        potential=None if arrays.potential is None else arrays.potential[:pairs],
    )


def read_pool(bundle: Path) -> GraphArrays:
    """Read the unlabeled graphs."""
    return load(bundle / POOL)


def read_labeled(bundle: Path, predictor: str) -> Labeled:
    """Read the graphs of a predictor, with labels."""
    arrays = load(bundle / folder_of(predictor))
    table = pq.read_table(bundle / LABELS)
    found = dict(zip(table[MATERIAL_ID].to_pylist(), table[TARGET].to_pylist(), strict=True))
    return Labeled(arrays, np.array([found[name] for name in arrays.material_ids], dtype=np.float64))


def pack(pool: Path, labeled: Path, target: str, out: Path, *, sizes: tuple[int, int], seed: int = 0) -> int:
    """Featurize random samples of two crystal tables into a bundle; return its bytes.

    Args:
        pool: Table of unlabeled crystals.
        labeled: Table with the column ``target``.
        target: Column to learn.
        out: Folder to write, new.
        sizes: Crystals of the pool and labeled crystals.
        seed: Seed of the samples.

    Raises:
        ValueError: If the bundle is larger than :data:`MOST_BYTES`.

    """
    from crysatom.crystals.table import read_table, write_table

    out.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    crystals, known = read_table(pool), read_table(labeled)
    known = known.filter(known[target].is_valid())
    sample, some = (
        table.take(np.sort(rng.choice(len(table), min(size, len(table)), replace=False)))
        for table, size in zip((crystals, known), sizes, strict=True)
    )
    labels = {MATERIAL_ID: some[MATERIAL_ID], TARGET: some[target].cast(pa.float64())}
    pq.write_table(pa.table(labels), out / LABELS)
    table = out / "crystals.parquet"
    write_table(sample, table)
    _featurize(table, out / POOL, pretraining().graph)
    write_table(some, table)
    for predictor in {folder_of(name) for name in PREDICTORS}:
        _featurize(table, out / predictor, graph_of(predictor))
    table.unlink()
    about = {"pool": pool.name, "pool_crystals": len(crystals), "labeled": labeled.name, "target": target, "seed": seed}
    (out / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        raise ValueError(f"the bundle has {size / 2**20:.1f} MiB, more than {MOST_BYTES >> 20}; pack fewer crystals")
    return size


def _featurize(table: Path, out: Path, graph: GraphSpec) -> None:
    from crysatom.config import FeaturizeConfig
    from crysatom.graphs.featurize import featurize_plain

    featurize_plain(FeaturizeConfig.of(data=str(table), out=str(out), **dataclasses.asdict(graph)))
