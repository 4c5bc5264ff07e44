"""Featurize a crystal table into graph shards: resumable, and byte-identical wherever the work is done.

Shard k holds the graphs of a fixed range of the table's rows, so shards can be made in any order,
by any process, and again after a crash.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from crysatom.config import FeaturizeConfig, IngestConfig
from crysatom.crystals.ingest import IngestReport, ingest_plain
from crysatom.crystals.rejections import require_few
from crysatom.graphs.duplicates import duplicate_rows
from crysatom.graphs.folder import INGESTED, PROGRESS, enter, finish, held, is_finished, make_plan
from crysatom.graphs.shard_task import ShardRecord, ShardTask, make_shard
from crysatom.graphs.shards import read_manifest
from crysatom.names import DETAIL

Ingest = Callable[[IngestConfig], IngestReport]
MapShards = Callable[[list[ShardTask]], Iterable[ShardRecord]]
"""Makes shards in any process and returns their records in any order."""

PROGRESS_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FeaturizeReport:
    """Summary of a featurize run.

    Attributes:
        out: Folder of the shards.
        read: Crystals in the table.
        accepted: Crystals with a graph.
        rejected: Crystals in the quarantine.
        atoms: Atoms of all graphs.
        edges: Directed edges of all graphs.
        num_shards: Number of Parquet files.
        num_bytes: Total size of these files.
        made: Crystals read by this run; fewer than ``read`` if it resumed another, zero if the folder was complete.
        seconds: Wall-clock time.

    """

    out: str
    read: int
    accepted: int
    rejected: int
    atoms: int
    edges: int
    num_shards: int
    num_bytes: int
    made: int
    seconds: float

    @property
    def crystals_per_second(self) -> float:
        """Crystals that this run read per second."""
        return self.made / self.seconds


def featurize_plain(config: FeaturizeConfig) -> FeaturizeReport:
    """Featurize in this process; writes the same bytes as :func:`crysatom.cluster.featurize.featurize`.

    Raises:
        ValueError: If the crystals cannot be read, or the folder holds other files.

    """
    return run(config, ingest_plain, lambda tasks: map(make_shard, tasks))


def run(config: FeaturizeConfig, ingest: Ingest, map_shards: MapShards) -> FeaturizeReport:
    """Make the missing shards of ``config.out`` and finish the folder.

    Args:
        config: Crystals, output folder and graph specification.
        ingest: Converts any other source to a crystal table.
        map_shards: Makes the shards.

    Raises:
        ValueError: If the crystals cannot be read, the folder holds other files, or another process is writing to it.

    """
    out = Path(config.out).expanduser()
    with held(out):
        return _run(config, out, ingest, map_shards)


def _run(config: FeaturizeConfig, out: Path, ingest: Ingest, map_shards: MapShards) -> FeaturizeReport:
    start = time.perf_counter()
    table = _crystal_table(config, out, ingest)
    plan = make_plan(config, table)
    if is_finished(out, plan):
        logger.info("%s already holds the graphs of these crystals; nothing to do", out)
        return _report(out, made=0, start=start)
    enter(out, plan, resume=config.resume)
    total = plan["source"]["rows"]
    tasks = _tasks(config, table.absolute(), out.absolute(), total)
    missing = [task for task in tasks if not task.is_done()]
    made = sum(task.num_rows for task in missing)
    _log_progress(map_shards(missing), total=total, done=total - made)
    finish(out, plan, config.data, (task.record() for task in tasks))
    return _report(out, made=made, start=start)


def _crystal_table(config: FeaturizeConfig, out: Path, ingest: Ingest) -> Path:
    """Return the crystal table; any other source is ingested again, since it may have changed since the last run."""
    table = Path(config.data).expanduser()
    if table.suffix == ".parquet":
        return table
    folder = out / INGESTED
    report = ingest(
        IngestConfig(
            source=config.data,
            out=str(folder),
            limits=config.limits,
            overwrite=True,
        )
    )
    logger.info(
        "ingest: read %d = accepted %d + rejected %d (see %s)", report.read, report.accepted, report.rejected, folder
    )
    return report.table


def _tasks(config: FeaturizeConfig, table: Path, out: Path, num_rows: int) -> list[ShardTask]:
    limits = config.limits
    duplicates = duplicate_rows(table, config.graph, limits)
    tasks = []
    for k, start in enumerate(range(0, num_rows, config.crystals_per_shard)):
        stop = min(start + config.crystals_per_shard, num_rows)
        task = ShardTask(
            table=str(table),
            source=config.data,
            start=start,
            stop=stop,
            duplicates=tuple(duplicates[(duplicates >= start) & (duplicates < stop)].tolist()),
            graph=config.graph,
            limits=limits,
            file=str(out / f"shard-{k:05d}.parquet"),
            progress=str(out / PROGRESS),
        )
        tasks.append(task)
    return tasks


def _log_progress(records: Iterable[ShardRecord], *, total: int, done: int) -> None:
    """Wait for all records and log progress at intervals."""
    before, started = done, time.monotonic()
    logged = started
    accepted = rejected = 0
    for record in records:
        done += record.read
        accepted, rejected = accepted + record.rows, rejected + len(record.rejected)
        require_few(rejected, accepted, record.rejected[-1][DETAIL] if record.rejected else "")
        now = time.monotonic()
        if now - logged >= PROGRESS_SECONDS or done == total:
            logged = now
            rate = (done - before) / (now - started)
            left = (total - done) / rate
            logger.info("featurize: %s of %s read, %.0f crystals/s, %.0f s left", f"{done:,}", f"{total:,}", rate, left)


def _report(out: Path, *, made: int, start: float) -> FeaturizeReport:
    manifest = read_manifest(out)
    counts, shards = manifest["counts"], manifest["shards"]
    return FeaturizeReport(
        out=str(out),
        read=counts["read"],
        accepted=counts["accepted"],
        rejected=counts["rejected"],
        atoms=counts["atoms"],
        edges=counts["edges"],
        num_shards=len(shards),
        num_bytes=sum(shard["bytes"] for shard in shards),
        made=made,
        seconds=time.perf_counter() - start,
    )
