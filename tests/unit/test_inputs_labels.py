"""Data of a predictor: targets, splits, and vectors that cover them, identified by content."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crysatom.graphs.shards import load, load_atoms
from crysatom.inputs.graphs import crystal_table
from crysatom.inputs.labels import Labeled, labeled
from crysatom.names import EMBEDDED_SOURCE, MATERIAL_ID, VOLUME_PER_ATOM
from crysatom.pipelines.downstream import default_experiment, default_name
from crysatom.runs.paths import find_vectors
from crysatom.vectors.files import write_vectors
from crysatom.vectors.given import given_vectors
from crysatom.vectors.spectrum import with_spectrum
from tests.small_regressions import tiny, volumes
from tests.small_runs import make_shards, prepared


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    volumes(folder, tiny())
    return folder


def elements_of(data: Labeled, part: str) -> set[int]:
    arrays = load(data.task.shards)
    crystals = getattr(data.split, part)
    return {int(z) for k in crystals for z in arrays.atomic_numbers[arrays.atom_ptr[k] : arrays.atom_ptr[k + 1]]}


def test_atoms_are_read_without_edges(folder: Path) -> None:
    arrays = load(folder / "graphs")
    ids, ptr, numbers = load_atoms(folder / "graphs")
    assert ids.tolist() == arrays.material_ids.tolist()
    assert np.array_equal(ptr, arrays.atom_ptr)
    assert np.array_equal(numbers, arrays.atomic_numbers)


def table_without(folder: Path, symbols: set[str]) -> str:
    """Write a table of vectors that lacks some elements; return its path."""
    table = given_vectors("onehot92")
    kept = np.array([s not in symbols for s in table.symbols])
    lacking = dataclasses.replace(table, atomic_numbers=table.atomic_numbers[kept], vectors=table.vectors[kept])
    write_vectors(lacking, folder)
    return str(folder / "vectors.csv")


def test_missing_vectors_are_refused_left_out_or_predicted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = volumes(folder, tiny(vectors="onehot92"))
    vectors = table_without(tmp_path, {"O", "Cs"})
    with pytest.raises(ValueError, match=r"(?s)vectors\.csv: .*O in \d+ crystals: .*--missing-vectors leave_out, or"):
        volumes(folder, tiny(vectors=vectors))

    with caplog.at_level(logging.WARNING, "crysatom"):
        left = volumes(folder, tiny(vectors=vectors, missing_vectors="leave_out"))
    counts = [len(data.split.train) + len(data.split.val) + len(data.split.test) for data in (whole, left)]
    assert len(left.left_out) == counts[0] - counts[1] > 0
    assert f"{len(left.left_out)} crystals contain elements without a vector" in caplog.text
    assert set(left.left_out["elements"]) <= {"O", "Cs", "O Cs"}
    assert not elements_of(left, "train") & {8, 55}
    kept = {*left.split.ids("train"), *left.split.ids("val"), *left.split.ids("test")}
    assert not kept & set(left.left_out[MATERIAL_ID])

    filled = volumes(folder, tiny(vectors=vectors, missing_vectors="ridge"))
    assert filled.split.digest() == whole.split.digest()
    assert filled.task.vectors.provenance["filled"] == ["O"]  # no crystal here contains Cs
    assert not len(filled.left_out)


def test_vectors_are_scaled_over_the_elements_of_the_training_crystals(folder: Path) -> None:
    data = volumes(folder, tiny(vectors="random:0:30", vector_scale="rms"))
    rows = data.task.vectors.lookup(sorted(elements_of(data, "train")))
    assert rows.mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert (rows**2).mean() == pytest.approx(1, rel=1e-5)
    plain = volumes(folder, tiny(vectors="random:0:30", vector_scale="none")).task.vectors
    assert np.array_equal(plain.vectors, given_vectors("random:0:30").vectors)


def test_the_spectrum_is_of_the_elements_that_have_vectors(folder: Path, tmp_path: Path) -> None:
    """Predicted vectors and the crystals of the training do not change it."""
    data = volumes(folder, tiny(vectors="onehot92", vector_spectrum=-1.0))
    own = with_spectrum(given_vectors("onehot92"), -1)
    rows, expected = (table.lookup(sorted(elements_of(data, "train"))) for table in (data.task.vectors, own))
    centered = expected - expected.mean(axis=0)
    np.testing.assert_allclose(rows, centered / np.sqrt((centered**2).mean()), atol=1e-5)
    lacking = table_without(tmp_path, {"O"})
    filled = volumes(folder, tiny(vectors=lacking, missing_vectors="ridge", vector_spectrum=-1.0)).task.vectors
    assert filled.provenance["filled"] == ["O"]
    assert filled.provenance["spectrum"] == {"power": -1.0, "elements": len(filled.atomic_numbers) - 1}


def test_a_spectrum_is_chosen_without_test_crystals(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    auto = tiny(vectors="onehot92", vector_spectrum="auto")
    with caplog.at_level(logging.INFO, "crysatom"):
        data = volumes(folder, auto)
    spectrum = data.task.vectors.provenance["spectrum"]
    assert f"spectrum of the vectors: power {spectrum['power']:g}, by relative errors" in caplog.text
    fixed = volumes(folder, tiny(vectors="onehot92", vector_spectrum=spectrum["power"]))
    assert fixed.vectors_digest == data.vectors_digest
    assert min(spectrum["errors"].values()) >= spectrum["errors"][f"{spectrum['power']:g}"] / 1.005
    table = pq.read_table(folder / "crystals.parquet")
    ids = table[MATERIAL_ID].to_pylist()
    tested = set(data.split.ids("test"))
    target = [1e6 if name in tested else float(k % 7) for k, name in enumerate(ids)]
    plain = [float(k % 7) for k in range(len(ids))]
    errors = []
    for labels in (plain, target):
        pq.write_table(table.append_column("energy", pa.array(labels)), folder / "labels.parquet")
        more = labeled(auto.replace(property="energy"), folder / "graphs", folder / "labels.parquet", "")
        errors.append(more.task.vectors.provenance["spectrum"]["errors"])
    assert errors[0] == errors[1] != spectrum["errors"]


def test_a_spectrum_is_chosen_for_what_the_predictor_learns(folder: Path) -> None:
    """With a composition reference that is the rest, which is small here."""
    auto = tiny(vectors="onehot92", vector_spectrum="auto")
    whole, rest = (
        volumes(folder, auto.replace(composition_reference=known)).task.vectors.provenance["spectrum"]["errors"]
        for known in (False, True)
    )
    assert whole != rest


SPLITS = {"auto": "random:seed=0", "random": "random:seed=0", "composition": "composition:seed=0"}


@pytest.mark.parametrize(("split", "name"), SPLITS.items())
def test_splits_by_name(folder: Path, split: str, name: str) -> None:
    assert volumes(folder, tiny(split=split)).split.name.startswith(name)


def test_elements_are_held_out(folder: Path) -> None:
    data = volumes(folder, tiny(split="held_out_elements:O,Fe"))
    assert not (elements_of(data, "train") | elements_of(data, "val")) & {8, 26}
    assert elements_of(data, "test") & {8, 26}


def test_a_part_without_crystals_is_refused(folder: Path, tmp_path: Path) -> None:
    count = pq.read_metadata(folder / "crystals.parquet").num_rows
    with pytest.raises(ValueError, match="split official:energy has no val crystals with a label; choose another"):
        with_columns(folder, tmp_path, energy=[1.0, 2.0] * (count // 2), split_energy=["train", "test"] * (count // 2))


def with_columns(folder: Path, tmp_path: Path, **columns: list[Any]) -> Labeled:
    """Read a table with further columns but the same graphs."""
    table = pq.read_table(folder / "crystals.parquet")
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "more.parquet")
    return labeled(tiny(property="energy"), folder / "graphs", tmp_path / "more.parquet", "")


def test_the_published_split_is_taken_where_there_is_one(folder: Path, tmp_path: Path) -> None:
    count = pq.read_metadata(folder / "crystals.parquet").num_rows
    energies: list[Any] = [float(k) for k in range(count)]
    energies[0] = None
    parts = ["test", "train", "val", "train", "train"] * count
    data = with_columns(folder, tmp_path, energy=energies, split_energy=parts[:count])
    assert data.split.name == "official:energy"
    assert data.split.test.tolist() == list(range(5, count, 5)), "the first crystal has no label"
    assert data.targets.unit == ""


def test_targets_of_a_file(folder: Path, tmp_path: Path) -> None:
    ids, _, _ = load_atoms(folder / "graphs")
    lines = [f"{name},{k * k}" for k, name in enumerate(ids) if k % 7]
    (tmp_path / "mine.csv").write_text("\n".join([f"{MATERIAL_ID},squares", *lines]))
    data = volumes(folder, tiny(targets=str(tmp_path / "mine.csv")))
    assert data.targets.name == "squares"
    used = np.concatenate([data.split.train, data.split.val, data.split.test])
    assert sorted(used) == [k for k in range(len(ids)) if k % 7]
    assert np.array_equal(data.task.labels[used], used.astype(float) ** 2)


def test_the_digest_is_of_graphs_labels_and_split_and_of_nothing_else(folder: Path, tmp_path: Path) -> None:
    known = volumes(folder, tiny()).data_digest
    same = [{"seeds": (3,)}, {"lr": 0.5}, {"vectors": "random:0"}, {"width": 4}, {"composition_reference": True}]
    assert {volumes(folder, tiny(**options)).data_digest for options in same} == {known}
    other = [{"split_seed": 1}, {"train_fraction": 0.5}, {"property": "density"}, {"split": "composition"}]
    assert len({known, *(volumes(folder, tiny(**options)).data_digest for options in other)}) == 1 + len(other)
    make_shards(tmp_path, count=50, num_neighbors=5)
    assert volumes(tmp_path, tiny()).data_digest != known, "the same crystals, other graphs"


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_the_digest_is_of_the_labels_of_each_part(folder: Path, tmp_path: Path, part: str) -> None:
    count = pq.read_metadata(folder / "crystals.parquet").num_rows
    energies: list[Any] = [float(k) for k in range(count)]
    one = with_columns(folder, tmp_path, energy=energies)
    energies[getattr(one.split, part)[-1]] += 1e-9
    other = with_columns(folder, tmp_path, energy=energies)
    assert one.split.digest() == other.split.digest()
    assert one.data_digest != other.data_digest


def test_the_digest_is_of_the_split_though_labels_are_alike(folder: Path, tmp_path: Path) -> None:
    """Two neighbors with equal labels swap their parts, so the labels of all parts are unchanged, in the same order."""
    count = pq.read_metadata(folder / "crystals.parquet").num_rows
    energies: list[Any] = [float(k % 5 == 0) for k in range(count)]
    parts = (["train", "test", "val", "train", "train"] * count)[:count]
    one = with_columns(folder, tmp_path, energy=energies, split_energy=parts)
    parts[1], parts[2] = parts[2], parts[1]
    other = with_columns(folder, tmp_path, energy=energies, split_energy=parts)
    for part in ("train", "val", "test"):
        labels = [data.task.labels[getattr(data.split, part)].tolist() for data in (one, other)]
        assert labels[0] == labels[1]
    assert one.data_digest != other.data_digest


def test_fewer_training_crystals_and_the_same_test(folder: Path) -> None:
    whole, half = volumes(folder, tiny()), volumes(folder, tiny(train_fraction=0.5))
    assert set(half.split.train) < set(whole.split.train)
    assert np.array_equal(half.split.test, whole.split.test)
    assert half.task.normalizer != whole.task.normalizer


def test_runs_are_named_by_what_they_compute(folder: Path, tmp_path: Path) -> None:
    def name(**options: Any) -> str:
        config = tiny(**options)
        return default_name(config, volumes(folder, config))

    base = name()
    assert base.startswith("cgcnn-volume_per_atom-onehot-")
    assert name(seeds=(4, 5)) == base, "the seed is added to the name"
    others = [{"vectors": "random:0"}, {"split_seed": 1}, {"lr": 0.5}, {"property": "density"}, {"criterion": "mse"}]
    assert len({base, *(name(**options) for options in others)}) == 1 + len(others)
    files = [given_vectors("random:0"), given_vectors("random:1")]
    for k, table in enumerate(files):
        write_vectors(table, tmp_path / str(k))
    assert len({name(vectors=str(tmp_path / str(k) / "vectors.csv"))[-8:] for k in range(2)}) == 2


def test_one_experiment_for_a_data_set() -> None:
    assert default_experiment("/data/jarvis_dft_3d.parquet") == "crysatom-jarvis_dft_3d"
    assert default_experiment(EMBEDDED_SOURCE) == "crysatom-aflow-prototypes"


def test_the_table_of_graphs_is_found_by_its_content(folder: Path, tmp_path: Path) -> None:
    table = Path(shutil.copy(folder / "crystals.parquet", tmp_path / "crystals.parquet"))
    config = tiny(data=str(table))
    shards = prepared(config, tmp_path / "runs")
    assert crystal_table(config.source, shards) == table
    assert crystal_table(tiny(data=str(shards)).source, shards) == table
    moved = table.rename(tmp_path / "moved.parquet")
    with pytest.raises(ValueError, match=r"is not at .*crystals\.parquet; name the table itself as --data"):
        crystal_table(tiny(data=str(shards)).source, shards)
    assert crystal_table(tiny(data=str(moved)).source, shards) == moved
    assert volumes(folder, tiny()).targets.name == VOLUME_PER_ATOM


def test_vectors_are_found_in_the_home_folder_permuted_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    write_vectors(given_vectors("onehot92"), home / "runs" / "a")
    monkeypatch.setenv("CRYSATOM_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    for control in ("", "permuted:", "permuted:3:"):
        assert find_vectors(f"{control}runs/a") == f"{control}{home}/runs/a"
        assert given_vectors(find_vectors(f"{control}runs/a")).dim == 92
    for name in ("mat2vec", "permuted:mat2vec", "permuted:3:runs/absent", "runs:/1234", "random:0:20"):
        assert find_vectors(name) == name
