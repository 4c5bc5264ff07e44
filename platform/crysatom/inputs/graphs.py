"""Graph shards of the data that a user names, built once and found again by their digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from crysatom.config import FeaturizeConfig, GraphSpec, IngestConfig, Limits, Source
from crysatom.crystals.ingest import TABLE_FILE, ingest_plain
from crysatom.crystals.table import open_table
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.folder import INGESTED
from crysatom.graphs.shards import MANIFEST, file_sha256, read_manifest
from crysatom.names import EMBEDDED_SOURCE
from crysatom.runs.paths import find

logger = logging.getLogger(__name__)

CACHE = "data"


def prepare(
    source: Source, limits: Limits, graph: GraphSpec, out: Path, *, num_workers: int, resume: bool = False
) -> Path:
    """Return a folder of graph shards; build it if needed.

    Args:
        source: Graph shards, a crystal table, or crystals to ingest.
        limits: Limits beyond which crystals are quarantined.
        graph: Content of the graphs.
        out: New tables and shards are kept in its ``data`` folder.
        num_workers: 0: work in this process; otherwise use Ray Data.
        resume: Keep the crystals that the run started with, whatever the source holds now.

    Raises:
        ValueError: If the data cannot be read, or are shards with another graph specification or wider limits.

    """
    given = find(source.data)
    if (given / MANIFEST).is_file():
        _require_same_graph(given, graph)
        _require_limits_kept(given, limits)
        return given.resolve()
    cache = out / CACHE
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):  # of two runs that start together, one builds and the other waits
        table = given.resolve()
        if given.suffix != ".parquet":
            table = _ingest(source.data, given, limits, cache, on_cluster=num_workers > 0, resume=resume)
        return _featurize(table, limits, graph, cache, on_cluster=num_workers > 0)


def crystal_table(source: Source, shards: Path) -> Path:
    """Return the crystal table that graph shards were made from; it holds the labels.

    Args:
        source: May be that table.
        shards: Folder of graph shards, from :func:`prepare`.

    Raises:
        ValueError: If the table has moved since the graphs were made, or has changed.

    """
    manifest = read_manifest(shards)
    for place in (find(source.data), find(manifest["source"]), shards / INGESTED / TABLE_FILE):
        if place.is_file() and file_sha256(place) == manifest["plan"]["source"]["sha256"]:
            return place
    raise ValueError(
        f"the crystal table that the graphs in {shards} were made of is not at {manifest['source']}; name the table "
        "itself as --data, since its columns hold the labels"
    )


def _featurize(table: Path, limits: Limits, graph: GraphSpec, cache: Path, *, on_cluster: bool) -> Path:
    num_crystals = open_table(table).metadata.num_rows
    logger.info("building the graphs of %s, unless they exist ...", table)
    how = {**limits.flat(), **graph.to_dict()}
    shards = cache / f"graphs-{_digest(file_sha256(table), how)[:12]}"
    featurize = FeaturizeConfig(data=str(table), out=str(shards), resume=True, limits=limits, graph=graph)
    if not on_cluster or num_crystals <= featurize.crystals_per_shard:
        report = featurize_plain(featurize)  # one shard is made by one process anyway
    else:
        from crysatom.cluster.featurize import featurize as featurize_on_cluster

        report = featurize_on_cluster(featurize)
    if report.rejected:
        logger.warning(
            "%d of %d crystals have no graph; see %s", report.rejected, report.read, shards / "quarantine.parquet"
        )
    return shards


def _ingest(data: str, given: Path, limits: Limits, cache: Path, *, on_cluster: bool, resume: bool) -> Path:
    source = str(given) if given.exists() else data
    logger.info("reading the crystals of %s ...", source)
    name = re.sub(r"[^A-Za-z0-9]+", "-", data).strip("-")[-40:]
    folder = cache / f"{name}-{_digest(data, limits.flat())[:8]}"
    ingest = IngestConfig(source=source, out=str(folder), overwrite=True, limits=limits)
    table = Path(ingest.out) / TABLE_FILE
    if resume and table.exists():
        return table
    if not on_cluster or source == EMBEDDED_SOURCE:
        report = ingest_plain(ingest)  # faster than starting a cluster
    else:
        from crysatom.cluster.ingest import ingest as ingest_on_cluster

        report = ingest_on_cluster(ingest)
    if report.rejected:
        logger.warning("%d of %d crystals were rejected; see %s", report.rejected, report.read, report.quarantine)
    if not report.accepted:
        raise ValueError(f"{data} holds no crystal that can be used; see {report.quarantine}")
    return report.table


def _digest(of: str, how: Mapping[str, Any]) -> str:
    return hashlib.sha256((of + json.dumps(how, sort_keys=True)).encode()).hexdigest()


def _require_same_graph(folder: Path, graph: GraphSpec) -> None:
    found = dataclasses.asdict(GraphSpec(**read_manifest(folder)["plan"]["graph"]))
    wanted = dataclasses.asdict(graph)
    if differing := {name: value for name, value in wanted.items() if found[name] != value}:
        was = {name: found[name] for name in differing}
        raise ValueError(
            f"{folder} holds graphs made with {was}, this run needs {differing}; change the flags or featurize again"
        )


def _require_limits_kept(folder: Path, limits: Limits) -> None:
    """Check that shards hold no crystal outside these limits, because finished shards are not filtered."""
    plan = read_manifest(folder)["plan"]
    if plan["max_atoms"] > limits.max_atoms or plan["min_distance"] < limits.min_distance:
        was = {name: plan[name] for name in Limits.names()}
        raise ValueError(
            f"{folder} holds graphs of crystals within {was}, this run needs {limits.flat()}; featurize again, "
            f"or accept them with --max-atoms {was['max_atoms']} --min-distance {was['min_distance']:g}"
        )
