"""The first usable crystal of each id is kept, as in the ingest job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from crysatom.config import FeaturizeConfig, IngestConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.table import Crystal, read_table
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import load
from tests.graph_crystals import prototypes, small, write_table

LINE = np.linspace(0, 1, 99, endpoint=False)[:, None] * [1, 0, 0]

DEFECTS: dict[str, Callable[[Crystal], Crystal]] = {
    "by its rows": lambda c: replace(c, frac_coords=LINE, atomic_numbers=np.full(99, 11)),
    "by its structure": lambda c: replace(c, lattice=np.full((3, 3), np.nan)),
    "by its neighbors": lambda c: replace(c, frac_coords=np.zeros((len(c.frac_coords), 3))),
}
"""Defects that are rejected, one per check of the featurize job."""


def binary() -> list[Crystal]:
    """Crystals of two sites: all distinct, and each can be given any defect."""
    return [c for c in prototypes() if len(c.atomic_numbers) == 2]


def many(path: Path) -> list[Crystal]:
    """Crystals in seven row groups with repeated ids: broken first, broken between, broken alone, and far apart."""
    good = small(8, 40)
    spoiled = [DEFECTS["by its neighbors"](c) for c in binary()[:6]]
    crystals = [
        replace(spoiled[0], material_id="broken first"),
        *good[:10],
        replace(good[20], material_id="broken first"),
        replace(good[21], material_id="broken between"),
        replace(spoiled[1], material_id="broken between"),
        *good[10:15],
        replace(good[22], material_id="broken between"),
        replace(spoiled[2], material_id="broken alone"),
        replace(spoiled[3], material_id="broken alone"),
        *good[15:20],
        replace(good[23], material_id=good[0].material_id),
        replace(good[24], material_id="broken first"),
        replace(spoiled[4], material_id="broken first"),
    ]
    write_table(path, crystals, row_group_size=4)
    return crystals


@pytest.mark.parametrize("name", DEFECTS)
def test_a_broken_crystal_takes_its_id_from_nobody(name: str, tmp_path: Path) -> None:
    first, second, third = (replace(c, material_id="x") for c in binary()[:3])
    write_table(tmp_path / "crystals.parquet", [DEFECTS[name](first), second, third])
    config = FeaturizeConfig.of(data=str(tmp_path / "crystals.parquet"), out=str(tmp_path / "graphs"), max_atoms=90)
    assert featurize_plain(config).accepted == 1
    np.testing.assert_array_equal(load(config.out).atomic_numbers, second.atomic_numbers)
    reasons = pq.read_table(tmp_path / "graphs" / "quarantine.parquet")["reason"].to_pylist()
    assert reasons[0] != "duplicate_id"
    assert reasons[1:] == ["duplicate_id"]


@pytest.mark.parametrize("per_shard", [1, 3, 100])
def test_the_ingest_job_decides_likewise(per_shard: int, tmp_path: Path) -> None:
    table = tmp_path / "crystals.parquet"
    crystals = many(table)
    ingested = ingest_plain(IngestConfig.of(source=str(table), out=str(tmp_path / "ingested")))
    config = FeaturizeConfig.of(data=str(table), out=str(tmp_path / "graphs"), crystals_per_shard=per_shard)
    report = featurize_plain(config)
    kept, graphs = read_table(ingested.table), load(config.out)
    assert graphs.material_ids.tolist() == kept["material_id"].to_pylist()
    assert graphs.atomic_numbers.tolist() == [z for numbers in kept["atomic_numbers"].to_pylist() for z in numbers]
    assert "broken first" in graphs.material_ids
    assert (report.read, report.rejected) == (len(crystals), ingested.rejected)
    quarantines = [pq.read_table(path) for path in (ingested.quarantine, tmp_path / "graphs" / "quarantine.parquet")]
    assert len({tuple(table["reason"].to_pylist()) for table in quarantines}) == 1
    assert quarantines[0]["reason"].to_pylist().count("duplicate_id") == 3
