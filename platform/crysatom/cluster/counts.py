"""Count elements, bonds, compounds and contexts on a Ray cluster: every CPU reads shards; only counts are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from numpy.typing import NDArray

from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.vectors.counts import Counts, count_file
from crysatom.vectors.structure.tally import Tally, tally_file


def count_on_cluster(shards: Sequence[Path], tolerance: float, cutoff: float) -> Counts:
    """Return the counts over shards, as from :func:`crysatom.vectors.counts.count_file`, in any order."""
    return Counts.total(_each(shards, tolerance, cutoff))


def tally_on_cluster(
    shards: Sequence[Path], cell_volumes: Sequence[NDArray[Any]], tolerance: float, cutoff: float
) -> Tally:
    """Return the counts over shards, as from :func:`crysatom.vectors.structure.tally.tally_file`, in any order."""
    task = partial(_tally, list(shards), list(cell_volumes), tolerance, cutoff)
    return Tally.total(Tally.from_bytes(row["tally"]) for row in _rows(task, len(shards)))


def _tally(
    shards: list[Path], cell_volumes: list[NDArray[Any]], tolerance: float, cutoff: float, row: dict[str, Any]
) -> dict[str, Any]:
    number = row["id"]
    return {"tally": tally_file(shards[number], cell_volumes[number], tolerance, cutoff).to_bytes()}


def _rows(task: Callable[[dict[str, Any]], dict[str, Any]], number: int) -> Iterator[dict[str, Any]]:
    """Yield the results of a task for each number below ``number``, as they finish."""
    dataset = ray.data.range(number, override_num_blocks=number)
    dataset.context.enable_progress_bars = False
    yield from dataset.map(task).iter_rows()


def _each(shards: Sequence[Path], tolerance: float, cutoff: float) -> Iterator[Counts]:
    for row in _rows(partial(_count, list(shards), tolerance, cutoff), len(shards)):
        compounds = np.frombuffer(row["compounds"], np.uint16).reshape(-1, MAX_ATOMIC_NUMBER)
        yield Counts(**{**row, "crystals": int(row["crystals"]), "compounds": compounds})


def _count(shards: list[Path], tolerance: float, cutoff: float, row: dict[str, Any]) -> dict[str, Any]:
    found = count_file(shards[row["id"]], tolerance, cutoff)
    return {**asdict(found), "compounds": found.compounds.tobytes()}
