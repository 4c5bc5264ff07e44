"""Atom vectors: files restore them exactly, broken files are rejected, missing elements are named."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from crysatom.vectors.card import CardFacts, card
from crysatom.vectors.files import read_vectors, write_vectors
from crysatom.vectors.published import published_names, published_vectors, table_of_rows
from crysatom.vectors.table import AtomVectors, centered_cosine

DATA = os.environ.get("CRYSATOM_TEST_DATA")


@pytest.fixture
def table() -> AtomVectors:
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(4, 6)).astype(np.float32)
    vectors[0, 0], vectors[1, 1], vectors[2, 2] = 1e-38, 3.4e38, -1 / 3
    return AtomVectors(
        atomic_numbers=np.array([1, 11, 17, 118]),
        vectors=vectors,
        site_counts=np.array([5, 4, 3, 1]),
        standard_errors=np.abs(rng.normal(size=(4, 6))).astype(np.float32),
        provenance={"data": "aflow:prototypes", "config": {"epochs": 2}},
    )


def test_every_file_restores_the_vectors_bit_for_bit(table: AtomVectors, tmp_path: Path) -> None:
    paths = write_vectors(table, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths), "temporary files were left"
    for path in [*paths, tmp_path]:
        again = read_vectors(path)
        np.testing.assert_array_equal(again.atomic_numbers, table.atomic_numbers)
        assert again.vectors.dtype == np.float32
        assert again.vectors.tobytes() == table.vectors.tobytes(), path


@pytest.mark.parametrize("layout", ["columns", "strides", "reversed"])
def test_files_do_not_depend_on_how_an_array_lies_in_memory(table: AtomVectors, layout: str, tmp_path: Path) -> None:
    """safetensors writes an array by columns as if it were by rows, without an error."""
    rows = table.vectors
    stretched = np.repeat(rows, 2, axis=1)
    same = {"columns": np.asfortranarray(rows), "strides": stretched[:, ::2], "reversed": rows[:, ::-1].copy()[:, ::-1]}
    assert not same[layout].flags.c_contiguous
    for path in write_vectors(dataclasses.replace(table, vectors=same[layout]), tmp_path):
        np.testing.assert_array_equal(read_vectors(path).vectors, rows)


def test_safetensors_restore_everything(table: AtomVectors, tmp_path: Path) -> None:
    write_vectors(table, tmp_path)
    again = read_vectors(tmp_path / "vectors.safetensors")
    assert again.site_counts is not None
    assert again.standard_errors is not None
    np.testing.assert_array_equal(again.site_counts, np.array([5, 4, 3, 1]))
    np.testing.assert_array_equal(again.standard_errors, np.asarray(table.standard_errors))
    assert again.provenance == table.provenance


def test_forms_that_other_codes_expect(table: AtomVectors, tmp_path: Path) -> None:
    write_vectors(table, tmp_path)
    lines = (tmp_path / "vectors.csv").read_text().splitlines()
    assert lines[0] == "element,0,1,2,3,4,5"
    assert lines[2].startswith("Na,")
    assert list(json.loads((tmp_path / "atom_init.json").read_text())) == ["1", "11", "17", "118"]


def test_symbol_keyed_json_and_unsorted_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "by_symbol.json"
    path.write_text('{"Cl": [1, 2], "Na": [3, 4]}')
    assert read_vectors(path).lookup([11, 17]).tolist() == [[3, 4], [1, 2]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nan.csv", "element,0\nNa,nan\n", "NaN or infinite in the vectors of Na"),
        ("overflow.csv", "element,0\nNa,1e39\n", "NaN or infinite in the vectors of Na"),
        ("twice.csv", "element,0\nNa,1\nCl,2\nNa,1\n", "line 4: Na appears twice"),
        ("ragged.csv", "element,0,1\nNa,1,2\nCl,2\n", "line 3: 1 components where the first element has 2"),
        ("unknown.csv", "element,0\nXx,1\n", "line 2: 'Xx' is neither an element symbol nor an atomic number"),
        ("zero.csv", "element,0\n0,1\n", "line 2: '0' is neither"),
        ("text.csv", "element,0\nNa,one\n", "line 2: a component is not a number"),
        ("header.csv", "Na,1,2\n", "header that begins with 'element' or 'symbol'"),
        ("none.csv", "element,0\n", "no elements"),
        ("empty.csv", "", "header"),
        ("narrow.csv", "element\nNa\n", "at least 1"),
        ("binary.csv", b"element,0\nNa,\xff\n", "utf-8"),
        ("nan.json", '{"11": [NaN]}', "NaN or infinite in the vectors of Na"),
        ("twice.json", '{"11": [1], "Na": [1]}', "key 'Na': Na appears twice"),
        ("same.json", '{"11": [1], "11": [2]}', "key '11': Na appears twice"),
        ("list.json", "[1, 2]", "keyed by atomic number or symbol"),
        ("scalar.json", '{"11": 1}', "key '11': a component is not a number"),
        ("broken.json", '{"11": [1', "delimiter"),
        ("broken.safetensors", b"no such thing", "broken.safetensors"),
        ("vectors.pkl", b"", "cannot tell the form"),
    ],
)
def test_broken_files_are_refused_with_the_reason(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_vectors(path)
    assert str(path) in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such vectors file"):
        read_vectors(tmp_path / "absent.csv")


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="missing, unknown or wrongly typed tensors: atomic_numbers, vectors, weight"):
        read_vectors(tmp_path / "model.safetensors")


def test_an_element_without_vector_is_an_error_never_zeros(table: AtomVectors) -> None:
    assert table.lookup([[17, 1], [1, 1]]).shape == (2, 2, 6)
    with pytest.raises(ValueError, match="no vector for He, Fe"):
        table.lookup([1, 26, 2, 26])


def test_inconsistent_tables_cannot_be_made() -> None:
    vectors = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="atomic_numbers must have shape"):
        AtomVectors(atomic_numbers=np.array([1, 2, 3]), vectors=vectors)
    with pytest.raises(ValueError, match="ascend"):
        AtomVectors(atomic_numbers=np.array([2, 1]), vectors=vectors)
    with pytest.raises(ValueError, match="standard_errors"):
        AtomVectors(atomic_numbers=np.array([1, 2]), vectors=vectors, standard_errors=np.zeros((2, 2), np.float32))


def test_nearest_ignores_the_common_component() -> None:
    directions = np.array([[1, 0], [0.9, 0.1], [-1, 0], [0, 1]], np.float32)
    near = AtomVectors(atomic_numbers=np.array([3, 11, 17, 26]), vectors=directions + 100).nearest("Li", k=3)
    assert [symbol for symbol, _ in near] == ["Na", "Fe", "Cl"]
    assert near[0][1] > 0.9
    assert near[-1][1] < -0.5


def test_centered_cosine_of_equal_vectors_is_zero_not_nan() -> None:
    np.testing.assert_array_equal(centered_cosine(np.ones((3, 2), np.float32)), np.zeros((3, 3)))


def test_nearest_names_unknown_and_missing_elements(table: AtomVectors) -> None:
    with pytest.raises(ValueError, match="unknown element symbol 'Xx'"):
        table.nearest("Xx")
    with pytest.raises(ValueError, match="no vector for Fe"):
        table.nearest("Fe")


def test_card_tells_counts_absences_and_how_to_load(table: AtomVectors, tmp_path: Path) -> None:
    facts = CardFacts(
        data="aflow:prototypes",
        data_digest="abc123",
        num_crystals=1288,
        crystals_per_element={1: 2, 11: 3, 17: 3, 118: 1},
        config={"epochs": 2},
        losses={"held_out/loss": 1.25},
        run_id="r1",
    )
    text = card(table, facts)
    parts = '1,288 crystals;`abc123`;| Na | 3 | 4 |;| held_out/loss | 1.25 |;"epochs": 2;2409.04737;`r1`'
    for part in parts.split(";"):
        assert part in text
    rival = card(table, dataclasses.replace(facts, config={"objective": "masking"}))
    assert rival.startswith("# Vectors by masking: ")
    assert "1905.12265" in rival
    assert "2409.04737" not in rival
    absent = next(line for line in text.splitlines() if line.startswith("Never seen"))
    assert " He," in absent
    assert " Na," not in absent
    unbonded = card(table, dataclasses.replace(facts, crystals_per_element={1: 2, 2: 1, 11: 3, 17: 3, 118: 1}))
    assert "Seen, but bonded to nothing, and therefore absent: He." in unbonded
    assert " He," not in next(line for line in unbonded.splitlines() if line.startswith("Never seen"))
    write_vectors(table, tmp_path)
    example = text.split("```python\n")[1].split("```")[0]
    code = example.replace("vectors.safetensors", str(tmp_path / "vectors.safetensors"))
    scope: dict[str, np.ndarray] = {}
    exec(code, scope)  # noqa: S102 - the card's own example must run
    assert scope["rows"].shape == (2, 6)


@pytest.mark.skipif(
    not DATA, reason="needs third-party files that may not be committed: set CRYSATOM_TEST_DATA to their folder"
)
@pytest.mark.parametrize(
    ("name", "elements", "dim"),
    [("crysatom_official200", 89, 200), ("skipatom200", 86, 200), ("atom2vec86", 87, 86), ("mat2vec200", 86, 200)],
)
def test_published_vectors_load(name: str, elements: int, dim: int) -> None:
    table = read_vectors(Path(str(DATA)) / "atom_vectors" / f"{name}.csv")
    assert table.vectors.shape == (elements, dim)


def test_element_embeddings_reads_our_csv(table: AtomVectors, tmp_path: Path) -> None:
    core = pytest.importorskip("elementembeddings.core", reason="ElementEmbeddings is not installed")
    write_vectors(table, tmp_path)
    embedding = core.Embedding.from_csv(str(tmp_path / "vectors.csv"))
    assert list(embedding.embeddings) == ["H", "Na", "Cl", "Og"]
    np.testing.assert_array_equal(np.float32(embedding.embeddings["Cl"]), table.vectors[2])


def test_tables_of_element_embeddings_are_what_its_own_reader_gives() -> None:
    core = pytest.importorskip("elementembeddings.core", reason="ElementEmbeddings is not installed")
    for name in published_names():
        ours, theirs = published_vectors(name), table_of_rows(core.Embedding.load_data(name).embeddings)
        np.testing.assert_array_equal(ours.atomic_numbers, theirs.atomic_numbers, err_msg=name)
        np.testing.assert_array_equal(ours.vectors, theirs.vectors, err_msg=name)
