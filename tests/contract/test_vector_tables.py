"""Contract of every table of vectors, by any name: valid, reproducible, and restored from its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crysatom.names import SYMBOLS, VECTOR_SCALES
from crysatom.vectors.coverage import fill_missing, require_elements
from crysatom.vectors.files import read_vectors, write_vectors
from crysatom.vectors.given import given_vectors
from crysatom.vectors.scale import scaled
from crysatom.vectors.shipped import shipped_names
from crysatom.vectors.table import AtomVectors

DATA = os.environ.get("CRYSATOM_TEST_DATA")
PACKAGED = (
    *("magpie", "magpie_sc", "mat2vec", "matscholar", "megnet16", "mod_petti", "oliynyk", "oliynyk_sc", "random_200"),
    *("skipatom", "atomic", "crystallm", "xenonpy", "cgnf", "mace_mp0", "sevennet", "orb_v2", "chgnet", "matscibert"),
    "chemeleon",
)
FILES = ("atom2vec86", "cgcnn_onehot92", "crysatom_official200", "mat2vec200", "skipatom200", "skipatom200_induced")


def _file(name: str) -> str:
    return str(Path(str(DATA)) / "atom_vectors" / f"{name}.csv")


NAMES = [
    *shipped_names(),
    "onehot",
    "onehot92",
    "random:3",
    "random:3:17",
    "permuted:random:3",
    "permuted:5:onehot",
    "permuted:1:permuted:2:random:0:8",
    *PACKAGED,
    *(f"file:{name}" for name in FILES),
    f"permuted:6:file:{FILES[2]}",
]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Name as given by a user; ``file:`` stands for the folder of published files."""
    text: str = request.param
    if text in PACKAGED:
        pytest.importorskip("elementembeddings", reason="ElementEmbeddings is not installed")
    if text == "onehot92":
        pytest.importorskip("jarvis", reason="jarvis-tools is not installed")
    before, file, stem = text.partition("file:")
    if file and not DATA:
        pytest.skip("needs published vectors: set CRYSATOM_TEST_DATA to the folder of atom_vectors/")
    return before + _file(stem) if file else text


@pytest.fixture
def table(name: str) -> AtomVectors:
    return given_vectors(name)


def _rows(table: AtomVectors) -> Iterator[bytes]:
    return (row.tobytes() for row in table.vectors)


def test_it_is_finite_ascending_and_of_known_elements(table: AtomVectors) -> None:
    assert table.vectors.dtype == np.float32
    assert table.atomic_numbers.dtype == np.int64
    assert np.isfinite(table.vectors).all()
    assert (np.diff(table.atomic_numbers) > 0).all()
    assert set(table.symbols) <= set(SYMBOLS)
    assert len(table.atomic_numbers) >= 85, "all of these cover most of the elements in crystals"
    assert table.vectors.any(axis=1).all(), "a row of zeros is a missing vector in disguise"


def test_atoms_get_the_row_of_their_element(table: AtomVectors) -> None:
    atoms = [8, 1, 26, 8]
    rows = np.searchsorted(table.atomic_numbers, atoms)
    assert [table.symbols[i] for i in rows] == ["O", "H", "Fe", "O"]
    np.testing.assert_array_equal(table.lookup(atoms), table.vectors[rows])


def test_the_same_name_is_the_same_table(name: str, table: AtomVectors) -> None:
    again = given_vectors(name)
    assert again.vectors.tobytes() == table.vectors.tobytes()
    assert again.provenance == table.provenance


def test_it_says_what_it_is_in_json(name: str, table: AtomVectors) -> None:
    assert json.loads(json.dumps(table.provenance)) == table.provenance
    assert table.provenance["vectors"] == name
    assert len(table.provenance["sha256"]) == 64


def test_files_restore_it_and_serve_as_a_name(table: AtomVectors, tmp_path: Path) -> None:
    for path in [*write_vectors(table, tmp_path), tmp_path]:
        assert read_vectors(path).vectors.tobytes() == table.vectors.tobytes()
        again = given_vectors(str(path))
        assert again.provenance["sha256"] == table.provenance["sha256"]
        np.testing.assert_array_equal(again.atomic_numbers, table.atomic_numbers)
    assert again.provenance["of"] == table.provenance


def test_permuted_hands_every_row_to_another_element(name: str, table: AtomVectors) -> None:
    shuffled = given_vectors(f"permuted:11:{name}")
    np.testing.assert_array_equal(shuffled.atomic_numbers, table.atomic_numbers)
    assert sorted(_rows(shuffled)) == sorted(_rows(table))
    if len(set(_rows(table))) == len(table.vectors):  # CGCNN's bits and cgnf have elements with equal rows
        assert (shuffled.vectors != table.vectors).any(axis=1).all(), "an element kept its row"
    assert shuffled.provenance["of"] == table.provenance


@pytest.mark.parametrize("how", [how for how in VECTOR_SCALES if how != "none"])
def test_scaled_has_unit_mean_square_over_the_data(table: AtomVectors, how: str) -> None:
    data = table.atomic_numbers[::2]
    made = scaled(table, how, data)
    rows = made.lookup(data).astype(np.float64)
    assert np.mean(rows**2) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_array_equal(made.atomic_numbers, table.atomic_numbers)


def test_missing_elements_are_an_error_that_names_them_until_they_are_filled(table: AtomVectors) -> None:
    everything = np.arange(1, 119)
    missing = [SYMBOLS[z - 1] for z in everything if z not in table.atomic_numbers]
    arrays = {
        "atomic_numbers": everything,
        "atom_ptr": np.arange(119),
        "material_ids": [f"JVASP-{z}" for z in everything],
    }
    if missing:
        with pytest.raises(ValueError, match=f"  {missing[0]} in 1 crystal: JVASP-") as error:
            require_elements(table, **arrays)
        assert len(str(error.value).splitlines()) == len(missing) + 2
        with pytest.raises(ValueError, match=f"no vector for {', '.join(missing)};"):
            table.lookup(everything)
    filled = fill_missing(table, everything)
    require_elements(filled, **arrays)
    assert filled.provenance.get("filled", []) == missing
    np.testing.assert_array_equal(filled.lookup(table.atomic_numbers), table.vectors)
