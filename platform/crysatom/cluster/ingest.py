"""Ingest on a Ray cluster: all its CPUs parse and check records; order is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import ray.data

from crysatom.config import IngestConfig, Limits
from crysatom.crystals.examine import examine_batch
from crysatom.crystals.ingest import IngestReport, run_ingest

WINDOW_BYTES = 256_000_000
"""Bytes of raw records in the object store at a time. The driver reads the files, so workers need not see them."""


def ingest(config: IngestConfig, start: Callable[[], None] | None = None) -> IngestReport:
    """Ingest a source; the result equals that of :func:`crysatom.crystals.ingest.ingest_plain`, row for row.

    Args:
        config: Input and output.
        start: Starts or joins Ray. Called once the source is open and holds more than one batch; fewer records are
            parsed here, which is faster than starting a cluster.

    Raises:
        ValueError: If the source cannot be opened, or the output exists and may not be replaced.

    """
    return run_ingest(config, partial(_examine, start))


def _examine(start: Callable[[], None] | None, batches: Iterator[pa.Table], limits: Limits) -> Iterator[pa.Table]:
    first = list(islice(batches, 2))
    if len(first) < 2:
        yield from (examine_batch(batch, limits) for batch in first)
        return
    if start:
        start()
    yield from _examine_on_cluster(chain(first, batches), limits)


def _examine_on_cluster(batches: Iterator[pa.Table], limits: Limits) -> Iterator[pa.Table]:
    for window in windows(batches):
        dataset = ray.data.from_arrow(window)
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        examine: Callable[[Any], Any] = partial(examine_batch, limits=limits)
        outcomes = dataset.map_batches(examine, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
        yield from outcomes.iter_batches(batch_format="pyarrow", batch_size=None)


def windows(batches: Iterator[pa.Table]) -> Iterator[list[pa.Table]]:
    """Yield batches in runs of about :data:`WINDOW_BYTES`."""
    window: list[pa.Table] = []
    size = 0
    for batch in batches:
        window.append(batch)
        size += batch.nbytes
        if size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window
