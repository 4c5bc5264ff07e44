"""From whatever a user names as data to a folder of graph shards, made once and found again by its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from crysatom.config import FeaturizeConfig, GraphSpec, IngestConfig
from crysatom.crystals.ingest import TABLE_FILE, ingest_plain
from crysatom.crystals.table import open_table
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.folder import INGESTED
from crysatom.graphs.shards import MANIFEST, file_sha256, read_manifest
from crysatom.names import EMBEDDED_SOURCE
from crysatom.pipelines.places import find

logger = logging.getLogger(__name__)

CACHE = "data"


class Wanted(Protocol):
    """What is read of a job's configuration."""

    @property
    def data(self) -> str:
        """Graph shards, a crystal table, or a source."""

    @property
    def graph(self) -> GraphSpec:
        """How a crystal becomes a graph."""

    @property
    def max_atoms(self) -> int:
        """Of a cell."""

    @property
    def min_distance(self) -> float:
        """Between atoms, in angstrom."""

    @property
    def num_workers(self) -> int:
        """0: without Ray."""

    @property
    def resume(self) -> bool:
        """Whether to go on with what the run began with."""


def prepare(config: Wanted, out: Path) -> Path:
    """Return a folder of graph shards of ``config.data``, featurizing it first when needed.

    Args:
        config: Data and graph specification; without workers all is done in this process, else by Ray Data.
        out: Tables and shards that had to be made are kept in its ``data`` folder.

    Raises:
        ValueError: If the data cannot be read, or are shards of another graph specification or of laxer limits.

    """
    given = find(config.data)
    if (given / MANIFEST).is_file():
        _require_same_graph(given, config.graph)
        _require_limits_kept(given, config)
        return given.resolve()
    cache = out / CACHE
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):  # of two runs started together one builds, the other waits and finds
        return _build(config, given, cache)


def crystal_table(config: Wanted, shards: Path) -> Path:
    """Return the crystal table that graph shards were made of, which has what they do not hold: labels.

    Args:
        config: Its ``data`` may be that table.
        shards: What :func:`prepare` returned.

    Raises:
        ValueError: If it is not where it was when the graphs were made, or is another one now.

    """
    manifest = read_manifest(shards)
    places = [find(config.data), find(manifest["source"]), shards / INGESTED / TABLE_FILE]
    for place in places:
        if place.is_file() and file_sha256(place) == manifest["plan"]["source"]["sha256"]:
            return place
    raise ValueError(
        f"the crystal table that the graphs in {shards} were made of is not at {manifest['source']}; name the table "
        "itself as --data, since its columns hold the labels"
    )


def _build(config: Wanted, given: Path, cache: Path) -> Path:
    table = given.resolve() if given.suffix == ".parquet" else _ingest(config, given, cache)
    num_crystals = open_table(table).metadata.num_rows
    logger.info("building the graphs of %s, unless they are there ...", table)
    how = {**_limits(config), **config.graph.to_dict()}
    shards = cache / f"graphs-{_digest(file_sha256(table), how)[:12]}"
    featurize = FeaturizeConfig(data=str(table), out=str(shards), resume=True, **how)
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


def _ingest(config: Wanted, given: Path, cache: Path) -> Path:
    source = str(given) if given.exists() else config.data
    logger.info("reading the crystals of %s ...", source)
    name = re.sub(r"[^A-Za-z0-9]+", "-", config.data).strip("-")[-40:]
    folder = cache / f"{name}-{_digest(config.data, _limits(config))[:8]}"
    ingest = IngestConfig(source=source, out=str(folder), overwrite=True, **_limits(config))
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


def _limits(config: Wanted) -> dict[str, Any]:
    """Return what a crystal must keep to, as the flags of the jobs that ingest and featurize."""
    return {"max_atoms": config.max_atoms, "min_distance": config.min_distance}


def _digest(of: str, how: Mapping[str, Any]) -> str:
    return hashlib.sha256((of + json.dumps(how, sort_keys=True)).encode()).hexdigest()


def _require_same_graph(folder: Path, graph: GraphSpec) -> None:
    found = dataclasses.asdict(GraphSpec(**read_manifest(folder)["plan"]["graph"]))
    wanted = dataclasses.asdict(graph)
    if differing := {name: value for name, value in wanted.items() if found[name] != value}:
        was = {name: found[name] for name in differing}
        raise ValueError(
            f"{folder} holds graphs made with {was}, this run wants {differing}; change the flags or featurize again"
        )


def _require_limits_kept(folder: Path, config: Wanted) -> None:
    """Raise if shards may hold crystals that this run would quarantine; no graph is taken out of finished shards."""
    plan = read_manifest(folder)["plan"]
    if plan["max_atoms"] > config.max_atoms or plan["min_distance"] < config.min_distance:
        was = {name: plan[name] for name in _limits(config)}
        raise ValueError(
            f"{folder} holds graphs of crystals within {was}, this run wants {_limits(config)}; featurize again, "
            f"or take them as they are with --max-atoms {was['max_atoms']} --min-distance {was['min_distance']:g}"
        )
