"""Configurations of the ingest job and of the featurize job."""

from __future__ import annotations

from dataclasses import dataclass

from crysatom.config.base import Group, places, reads
from crysatom.config.checks import require
from crysatom.config.groups import GraphSpec, Limits
from crysatom.names import EMBEDDED_SOURCE


@dataclass(frozen=True, kw_only=True)
class IngestConfig(Group):
    """Read crystals from a source, check each one, write a crystal table and a quarantine."""

    source: str = reads(EMBEDDED_SOURCE)
    """Source of crystals: aflow:prototypes | folder of CIFs (with optional id_prop.csv) | .parquet |
    .json/.jsonl(.gz) | anything ASE reads (.xyz, .db, ...) | jarvis:dft_3d | mp:QUERY."""

    out: str = places()
    """Output folder for crystals.parquet and quarantine.parquet."""

    limits: Limits = Limits()

    overwrite: bool = places(False)
    """Replace an existing table in the output folder."""


@dataclass(frozen=True, kw_only=True)
class FeaturizeConfig(Group):
    """Turn a crystal table into graph shards."""

    data: str = reads()
    """Crystals: a crystal table (.parquet), or any source that the ingest job reads."""

    out: str = places()
    """Output folder for the shards, manifest.json and quarantine.parquet."""

    graph: GraphSpec = GraphSpec()

    crystals_per_shard: int = 4096
    """Crystals per shard, which is one Parquet file."""

    limits: Limits = Limits()

    resume: bool = places(False)
    """Continue a killed run; finished shards are kept, and the result has the same bytes."""

    def __post_init__(self) -> None:
        require(self.crystals_per_shard >= 1, f"crystals_per_shard must be positive, got {self.crystals_per_shard}")
