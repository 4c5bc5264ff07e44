"""From whatever a user names as data to a folder of graph shards, made once and found again by its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from pathlib import Path

from filelock import FileLock

from crysatom.config import FeaturizeConfig, GraphSpec, IngestConfig, PretrainConfig
from crysatom.crystals.ingest import TABLE_FILE, ingest_plain
from crysatom.crystals.table import open_table
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import MANIFEST, file_sha256, read_manifest
from crysatom.names import EMBEDDED_SOURCE
from crysatom.pipelines.places import find

logger = logging.getLogger(__name__)

CACHE = "data"


def prepare(config: PretrainConfig, out: Path) -> Path:
    """Return a folder of graph shards of ``config.data``, featurizing it first when needed.

    Args:
        config: Data and graph specification; without workers all is done in this process, else by Ray Data.
        out: Tables and shards that had to be made are kept in its ``data`` folder.

    Raises:
        ValueError: If the data cannot be read, or are shards of another graph specification.

    """
    given = find(config.data)
    if (given / MANIFEST).is_file():
        _require_same_graph(given, config.graph)
        return given.resolve()
    cache = out / CACHE
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):  # of two runs started together one builds, the other waits and finds
        return _build(config, given, cache)


def _build(config: PretrainConfig, given: Path, cache: Path) -> Path:
    table = given.resolve() if given.suffix == ".parquet" else _ingest(config, given, cache)
    num_crystals = open_table(table).metadata.num_rows
    logger.info("building the graphs of %s, unless they are there ...", table)
    shards = cache / f"graphs-{_shard_digest(table, config.graph)}"
    featurize = FeaturizeConfig(data=str(table), out=str(shards), resume=True, **dataclasses.asdict(config.graph))
    if config.num_workers == 0 or num_crystals <= featurize.crystals_per_shard:
        report = featurize_plain(featurize)  # one shard is made by one process anyway
    else:
        from crysatom.cluster.featurize import featurize as featurize_on_cluster

        report = featurize_on_cluster(featurize)
    if report.rejected:
        logger.warning(
            "%d of %d crystals have no graph; see %s", report.rejected, report.read, shards / "quarantine.parquet"
        )
    return shards


def _ingest(config: PretrainConfig, given: Path, cache: Path) -> Path:
    source = str(given) if given.exists() else config.data
    logger.info("reading the crystals of %s ...", source)
    name = re.sub(r"[^A-Za-z0-9]+", "-", config.data).strip("-")[-40:]
    digest = hashlib.sha256(config.data.encode()).hexdigest()[:8]
    ingest = IngestConfig(source=source, out=str(cache / f"{name}-{digest}"), overwrite=True)
    table = Path(ingest.out) / TABLE_FILE
    if config.resume and table.exists():
        return table  # the run began with it, whatever the source holds now
    if config.num_workers == 0 or source == EMBEDDED_SOURCE:
        report = ingest_plain(ingest)  # sooner done than the processes of a cluster are started
    else:
        from crysatom.cluster.ingest import ingest as ingest_on_cluster

        report = ingest_on_cluster(ingest)
    if report.rejected:
        logger.warning("%d of %d crystals were rejected; see %s", report.rejected, report.read, report.quarantine)
    if not report.accepted:
        raise ValueError(f"{config.data} holds no crystal that can be used; see {report.quarantine}")
    return report.table


def _shard_digest(table: Path, graph: GraphSpec) -> str:
    text = file_sha256(table) + json.dumps(dataclasses.asdict(graph), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _require_same_graph(folder: Path, graph: GraphSpec) -> None:
    found = read_manifest(folder)["plan"]["graph"]
    wanted = dataclasses.asdict(graph)
    if differing := {name: value for name, value in wanted.items() if found[name] != value}:
        was = {name: found[name] for name in differing}
        raise ValueError(
            f"{folder} holds graphs made with {was}, this run wants {differing}; change the flags or featurize again"
        )
