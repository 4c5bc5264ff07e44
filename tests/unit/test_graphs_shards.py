"""Graph shards: content, reuse of a folder, and messages if it cannot be reused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from crysatom.config import FeaturizeConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.table import Crystal
from crysatom.graphs.featurize import featurize_plain, run
from crysatom.graphs.graph import material_keys
from crysatom.graphs.neighbors import neighbor_graph
from crysatom.graphs.shard_task import ShardRecord, ShardTask, make_shard
from crysatom.graphs.shards import SCHEMA, iter_tables, load, read_manifest
from crysatom.names import EMBEDDED_SOURCE, IMAGE
from tests.graph_crystals import prototypes, write_table


def _crystals() -> list[Crystal]:
    """60 real crystals, with one repeated id and one crystal with coincident atoms."""
    crystals = prototypes()[::5][:58]
    broken = replace(crystals[3], material_id="broken", frac_coords=np.zeros_like(crystals[3].frac_coords))
    return [*crystals[:20], replace(crystals[40], material_id=crystals[2].material_id), broken, *crystals[20:]]


@pytest.fixture
def config(tmp_path: Path) -> FeaturizeConfig:
    write_table(tmp_path / "crystals.parquet", _crystals(), row_group_size=17)
    return FeaturizeConfig.of(
        data=str(tmp_path / "crystals.parquet"), out=str(tmp_path / "graphs"), crystals_per_shard=13, max_atoms=30
    )


def _content(folder: str | Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_nothing_is_lost(config: FeaturizeConfig) -> None:
    report = featurize_plain(config)
    crystals = _crystals()
    large = [c.material_id for c in crystals if len(c.atomic_numbers) > 30]
    quarantine = pq.read_table(Path(config.out) / "quarantine.parquet").to_pylist()
    reasons = {(row["material_id"], row["reason"]) for row in quarantine}
    duplicate = crystals[2].material_id
    assert reasons == {(i, "too_large") for i in large} | {("broken", "overlapping_atoms"), (duplicate, "duplicate_id")}
    assert large
    assert report.read == len(crystals) == report.accepted + report.rejected
    assert quarantine[0]["source"].startswith(f"{config.data}#")
    arrays = load(config.out)
    accepted = [c for c in crystals if len(c.atomic_numbers) <= 30 and c.material_id != "broken"]
    del accepted[[c.material_id for c in accepted].index(duplicate, 3)]
    assert arrays.material_ids.tolist() == [c.material_id for c in accepted]


def test_shards_hold_the_graphs(config: FeaturizeConfig) -> None:
    featurize_plain(config)
    arrays = load(config.out, SCHEMA.names, verify=True)
    by_id = {c.material_id: c for c in reversed(_crystals())}
    np.testing.assert_array_equal(arrays.material_keys, material_keys(arrays.material_ids))
    assert arrays.image is not None
    for b, material_id in enumerate(arrays.material_ids):
        crystal = by_id[material_id]
        atoms = slice(arrays.atom_ptr[b], arrays.atom_ptr[b + 1])
        edges = slice(arrays.edge_ptr[atoms.start], arrays.edge_ptr[atoms.stop])
        graph = neighbor_graph(crystal.lattice, crystal.frac_coords, config.graph)
        np.testing.assert_array_equal(arrays.atomic_numbers[atoms], crystal.atomic_numbers)
        np.testing.assert_array_equal(np.diff(arrays.edge_ptr)[atoms], graph.degree)
        np.testing.assert_array_equal(arrays.neighbor[edges], graph.neighbor)
        np.testing.assert_array_equal(arrays.image[edges], graph.image)
        np.testing.assert_array_equal(arrays.distance[edges], graph.distance)


def test_manifest_agrees_with_the_shards(config: FeaturizeConfig) -> None:
    report = featurize_plain(config)
    manifest = read_manifest(config.out)
    tables = list(iter_tables(config.out))
    assert sum(t.num_rows for t in tables) == sum(s["rows"] for s in manifest["shards"]) == report.accepted
    assert sum(manifest["counts"]["elements"].values()) == manifest["counts"]["atoms"] == report.atoms
    assert len(manifest["shards"]) == report.num_shards == 5
    assert sorted(p.name for p in Path(config.out).iterdir()) == [
        "manifest.json",
        "quarantine.parquet",
        *(f"shard-{k:05d}.parquet" for k in range(5)),
    ]


def test_material_key_is_the_head_of_the_sha256() -> None:
    # printf JVASP-1 | sha256sum
    assert f"{int(material_keys(['JVASP-1'])[0]) % 2**64:016x}" == "d878ee8b1e62663e"


def test_second_run_does_nothing(config: FeaturizeConfig, caplog: pytest.LogCaptureFixture) -> None:
    first = featurize_plain(config)
    before = {p: p.stat().st_mtime_ns for p in Path(config.out).iterdir()}
    with caplog.at_level("INFO"):
        second = featurize_plain(config)
    assert second.made == 0
    assert "nothing to do" in caplog.text
    assert replace(second, made=first.made, seconds=first.seconds) == first
    assert {p: p.stat().st_mtime_ns for p in Path(config.out).iterdir()} == before


@pytest.mark.parametrize("seed", range(3))
def test_shards_made_in_any_order_leave_the_same_bytes(config: FeaturizeConfig, tmp_path: Path, seed: int) -> None:
    featurize_plain(config)
    other = config.replace(out=str(tmp_path / "other"))

    def in_another_order(tasks: list[ShardTask]) -> Iterator[ShardRecord]:
        assert len(tasks) > 3
        for k in np.random.default_rng(seed).permutation(len(tasks)):
            yield make_shard(tasks[k])

    run(other, ingest_plain, in_another_order)
    assert _content(other.out) == _content(config.out)


def test_another_spec_is_refused(config: FeaturizeConfig) -> None:
    featurize_plain(config)
    with pytest.raises(ValueError, match=r"made otherwise \(graph: .*choose another --out"):
        featurize_plain(config.replace(cutoff=6.0))


def test_other_crystals_are_refused(config: FeaturizeConfig) -> None:
    featurize_plain(config)
    write_table(Path(config.data), _crystals()[:-1])
    with pytest.raises(ValueError, match=r"made otherwise \(source: "):
        featurize_plain(config)


def test_a_folder_of_something_else_is_refused(config: FeaturizeConfig) -> None:
    Path(config.out).mkdir()
    (Path(config.out) / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not an empty folder"):
        featurize_plain(config)
    with pytest.raises(ValueError, match="is a file"):
        featurize_plain(config.replace(out=config.data))


def test_an_unfinished_run_is_continued_only_if_asked_for(config: FeaturizeConfig) -> None:
    featurize_plain(config)
    whole = _content(config.out)
    plan = {**json.loads(whole["manifest.json"])["plan"], "versions": read_manifest(config.out)["versions"]}
    progress = Path(config.out) / ".progress"
    progress.mkdir()
    (progress / "plan.json").write_text(json.dumps(plan))
    (Path(config.out) / "manifest.json").unlink()
    with pytest.raises(ValueError, match="--resume"):
        featurize_plain(config)
    with pytest.raises(ValueError, match="made otherwise"):
        featurize_plain(config.replace(resume=True, num_neighbors=10))
    featurize_plain(config.replace(resume=True))
    assert _content(config.out) == whole


def test_damage_is_noticed(config: FeaturizeConfig) -> None:
    featurize_plain(config)
    shard = Path(config.out) / "shard-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00001.parquet is not the file"):
        load(config.out, verify=True)
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"shard-00001.parquet is not the file"):
        load(config.out)
    shard.unlink()
    with pytest.raises(ValueError, match="is missing"):
        load(config.out)


def test_loading_needs_a_finished_folder_and_all_training_columns(config: FeaturizeConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished graph shards"):
        load(tmp_path)
    featurize_plain(config)
    with pytest.raises(ValueError, match="missing: material_id"):
        load(config.out, [name for name in SCHEMA.names if name not in {IMAGE, "material_id"}])


def test_a_table_that_is_none_is_refused(config: FeaturizeConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        featurize_plain(config.replace(data=str(tmp_path / "absent.parquet")))


def test_every_crystal_can_be_rejected(config: FeaturizeConfig) -> None:
    report = featurize_plain(config.replace(max_atoms=1, min_distance=5.0))
    assert report.accepted == 0
    assert load(config.out).num_crystals == 0


def test_any_source_of_the_ingest_job_can_be_featurized(tmp_path: Path) -> None:
    config = FeaturizeConfig.of(data=EMBEDDED_SOURCE, out=str(tmp_path / "graphs"))
    assert featurize_plain(config).accepted == 288
    assert featurize_plain(config).made == 0
    assert read_manifest(config.out)["source"] == EMBEDDED_SOURCE
