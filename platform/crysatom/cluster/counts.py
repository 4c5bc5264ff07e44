"""Count elements, bonds and compounds on a Ray cluster: every CPU reads shards; only counts are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.vectors.counts import Counts, count_file


def count_on_cluster(shards: Sequence[Path], tolerance: float, cutoff: float) -> Counts:
    """Return the counts over shards, as from :func:`crysatom.vectors.counts.count_file`, in any order."""
    return Counts.total(_each(shards, tolerance, cutoff))


def _each(shards: Sequence[Path], tolerance: float, cutoff: float) -> Iterator[Counts]:
    dataset = ray.data.range(len(shards), override_num_blocks=len(shards))
    dataset.context.enable_progress_bars = False
    task: Callable[[dict[str, Any]], dict[str, Any]] = partial(_count, list(shards), tolerance, cutoff)
    for row in dataset.map(task).iter_rows():
        compounds = np.frombuffer(row["compounds"], np.uint16).reshape(-1, MAX_ATOMIC_NUMBER)
        yield Counts(**{**row, "crystals": int(row["crystals"]), "compounds": compounds})


def _count(shards: list[Path], tolerance: float, cutoff: float, row: dict[str, Any]) -> dict[str, Any]:
    found = count_file(shards[row["id"]], tolerance, cutoff)
    return {**asdict(found), "compounds": found.compounds.tobytes()}
