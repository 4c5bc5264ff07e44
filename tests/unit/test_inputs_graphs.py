"""From the user's data source to graph shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crysatom.config import PretrainConfig
from crysatom.graphs.shards import MANIFEST, load, read_manifest
from tests.small_runs import prepared
from tests.unit.broken_inputs import cif


@pytest.fixture
def table(prototypes: pa.Table, tmp_path: Path) -> Path:
    path = tmp_path / "crystals.parquet"
    pq.write_table(prototypes.slice(0, 12), path)
    return path


def test_a_table_is_featurized_once(table: Path, tmp_path: Path) -> None:
    config = PretrainConfig.of(data=str(table), num_workers=0)
    shards = prepared(config, tmp_path / "runs")
    assert shards.is_relative_to(tmp_path / "runs" / "data")
    assert read_manifest(shards)["counts"]["accepted"] == 12
    before = (shards / MANIFEST).stat().st_mtime_ns
    assert prepared(config, tmp_path / "runs") == shards
    assert (shards / MANIFEST).stat().st_mtime_ns == before


def test_other_crystals_or_other_graphs_get_their_own_shards(table: Path, tmp_path: Path) -> None:
    first = prepared(PretrainConfig.of(data=str(table), num_workers=0), tmp_path)
    other_graph = prepared(PretrainConfig.of(data=str(table), num_workers=0, num_neighbors=6), tmp_path)
    pq.write_table(pq.read_table(table).slice(0, 6), table)
    other_crystals = prepared(PretrainConfig.of(data=str(table), num_workers=0), tmp_path)
    assert len({first, other_graph, other_crystals}) == 3


def test_limits_reach_the_jobs_that_ingest_and_featurize(table: Path, tmp_path: Path) -> None:
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    for name, number in (("small", 1), ("large", 3)):
        atoms = "".join(f"Na Na{k} {k / number} 0 0 1\n" for k in range(number))
        (cifs / f"{name}.cif").write_text(cif(atoms, cell=(4.0 * number, 4, 4, 90, 90, 90)))
    for data in (str(table), str(cifs)):
        loose = prepared(PretrainConfig.of(data=data, num_workers=0), tmp_path)
        strict = prepared(PretrainConfig.of(data=data, num_workers=0, max_atoms=2), tmp_path)
        apart = prepared(PretrainConfig.of(data=data, num_workers=0, min_distance=1.0), tmp_path)
        assert len({loose, strict, apart}) == 3, "other limits, other crystals: neither replaces the other"
        largest = {shards: np.diff(load(shards).atom_ptr).max() for shards in (loose, strict)}
        assert largest[strict] <= 2 < largest[loose]
        assert read_manifest(apart)["plan"]["min_distance"] == 1.0
        assert read_manifest(loose)["plan"]["max_atoms"] == 500


def test_shards_of_laxer_limits_are_refused(table: Path, tmp_path: Path) -> None:
    shards = prepared(PretrainConfig.of(data=str(table), num_workers=0), tmp_path)
    for strict in (
        PretrainConfig.of(data=str(shards), max_atoms=2),
        PretrainConfig.of(data=str(shards), min_distance=1.0),
    ):
        with pytest.raises(ValueError, match=r"featurize again, or accept .* --max-atoms 500 --min-distance 0\.5$"):
            prepared(strict, tmp_path)
    assert prepared(PretrainConfig.of(data=str(shards), max_atoms=600, min_distance=0.1), tmp_path) == shards


def test_shards_are_taken_as_they_are_if_they_hold_the_graphs_asked_for(table: Path, tmp_path: Path) -> None:
    shards = prepared(PretrainConfig.of(data=str(table), num_workers=0), tmp_path)
    assert prepared(PretrainConfig.of(data=str(shards), num_workers=0), tmp_path) == shards
    with pytest.raises(ValueError, match=r"graphs made with \{'cutoff': 8.0\}, this run needs \{'cutoff': 6.0\}"):
        prepared(PretrainConfig.of(data=str(shards), num_workers=0, cutoff=6.0), tmp_path)


def test_a_source_without_usable_crystals_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / "bad.cif").write_text("nothing")
    with pytest.raises(ValueError, match=r"holds no crystal that can be used; see .*quarantine"):
        prepared(PretrainConfig.of(data=str(tmp_path / "cifs"), num_workers=0), tmp_path)


def test_data_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.parquet"):
        prepared(PretrainConfig.of(data=str(tmp_path / "absent.parquet"), num_workers=0), tmp_path)
