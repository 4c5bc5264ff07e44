"""Vectors by name: the table of each name, and the message for a wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crysatom.vectors.controls import permuted, random_vectors
from crysatom.vectors.elements import element_features
from crysatom.vectors.files import write_vectors
from crysatom.vectors.given import given_vectors
from crysatom.vectors.published import published_names, table_of_rows
from crysatom.vectors.table import AtomVectors

DATA = os.environ.get("CRYSATOM_TEST_DATA")


def test_one_hot_has_one_bit_for_each_element() -> None:
    table = given_vectors("onehot")
    np.testing.assert_array_equal(table.vectors, np.eye(118))
    assert table.lookup([26])[0].argmax() == 25


def test_random_vectors_do_not_depend_on_the_other_elements_or_on_the_machine() -> None:
    table = given_vectors("random:7")
    assert table.vectors.shape == (118, 200)
    # pinned: numpy does not promise the stream of standard_normal for all versions
    np.testing.assert_allclose(table.lookup([26])[0, :3], [-1.191683, 0.6479966, -0.5728292], rtol=1e-6)
    np.testing.assert_array_equal(given_vectors("random:7:16").vectors, table.vectors[:, :16])
    np.testing.assert_array_equal(given_vectors("random").vectors, given_vectors("random:0:200").vectors)


def test_random_vectors_are_independent_standard_normal() -> None:
    draws = np.concatenate([random_vectors(seed, 200).vectors for seed in range(4)]).astype(np.float64)
    n = draws.size
    assert abs(draws.mean()) < 4 / np.sqrt(n)
    assert abs(draws.var() - 1) < 4 * np.sqrt(2 / n)
    cosine = np.corrcoef(draws)[np.triu_indices(len(draws), 1)]
    assert np.abs(cosine).max() < 6 / np.sqrt(200), "two elements or seeds share a stream"


def test_permuted_takes_a_seed_and_any_other_name(learned: AtomVectors, tmp_path: Path) -> None:
    write_vectors(learned, tmp_path)
    for inner in (
        "random",
        "random:5:8",
        "onehot",
        str(tmp_path / "vectors.csv"),
        f"{tmp_path}",
        "permuted:9:random:3",
    ):
        default, other = given_vectors(f"permuted:{inner}"), given_vectors(f"permuted:1:{inner}")
        plain = given_vectors(inner)
        np.testing.assert_array_equal(default.vectors, permuted(plain, 0).vectors)
        np.testing.assert_array_equal(other.vectors, permuted(plain, 1).vectors)
        assert (default.vectors != other.vectors).any()
        assert default.provenance["of"] == plain.provenance
        assert (default.provenance["seed"], other.provenance["seed"]) == (0, 1)


def test_a_permutation_is_the_same_on_every_machine() -> None:
    donor = given_vectors("permuted:onehot").lookup([1, 2, 3, 26]).argmax(axis=1) + 1
    assert donor.tolist() == [67, 93, 118, 2]


def test_a_permuted_row_takes_its_count_and_errors_along(learned: AtomVectors) -> None:
    shuffled = permuted(learned, 2)
    assert shuffled.site_counts is not None
    assert shuffled.standard_errors is not None
    assert sorted(shuffled.site_counts) == sorted(np.asarray(learned.site_counts))
    assert (shuffled.site_counts != learned.site_counts).all()
    np.testing.assert_array_equal(shuffled.standard_errors, np.abs(shuffled.vectors) / 10)


def test_permutations_of_few_elements_all_occur() -> None:
    """Three elements have two cycles; the seed must reach both."""
    table = table_of_rows({"H": [1], "He": [2], "Li": [3]})
    assert {tuple(permuted(table, seed).vectors[:, 0]) for seed in range(20)} == {(2, 3, 1), (3, 1, 2)}


def test_a_file_or_folder_keeps_what_it_says_of_itself(learned: AtomVectors, tmp_path: Path) -> None:
    paths = write_vectors(learned, tmp_path)
    tables = [given_vectors(str(path)) for path in (*paths, tmp_path)]
    assert len({table.provenance["sha256"] for table in tables}) == 1, "one content, whatever holds it"
    assert [table.provenance["of"] for table in tables] == [{}, {}, {"data_digest": "abc"}, {"data_digest": "abc"}]
    assert tables[0].provenance["vectors"] == str(paths[0])


def test_a_folder_in_the_way_does_not_hide_a_name(
    learned: AtomVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_vectors(learned, tmp_path / "onehot")
    monkeypatch.chdir(tmp_path)
    assert given_vectors("onehot").dim == 118
    assert given_vectors("./onehot").dim == 4


def test_the_store_is_read_by_whoever_can(learned: AtomVectors) -> None:
    asked = []

    def fetch(uri: str) -> AtomVectors:
        asked.append(uri)
        return learned

    table = given_vectors("permuted:4:models:/crysatom-vectors/3", fetch)
    assert given_vectors("runs:/abc", fetch).provenance["of"] == {"data_digest": "abc"}
    assert asked == ["models:/crysatom-vectors/3", "runs:/abc"]
    np.testing.assert_array_equal(table.vectors, permuted(learned, 4).vectors)
    with pytest.raises(ValueError, match=r"runs:/abc: .*fetch=crysatom\.tracking\.vectors\.load_vectors"):
        given_vectors("runs:/abc")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random:x", "random:SEED or random:SEED:DIM"),
        ("random:-1", "random:SEED or random:SEED:DIM"),
        ("random:1:2:3", "random:SEED or random:SEED:DIM"),
        ("random:1:0", "at least 1 dimension, got 0"),
        (f"random:{2**64}", f"a seed must be in 0..{2**64 - 1}, got {2**64}"),
        ("permuted", "permuted:NAME or permuted:SEED:NAME"),
        ("permuted:3", "permuted:NAME or permuted:SEED:NAME"),
        ("permuted:3:", "permuted:NAME or permuted:SEED:NAME"),
        ("permuted:x:onehot", "no vectors are known as 'x:onehot'"),
        ("one-hot", "no vectors are known as 'one-hot'.*onehot92, elements, random:SEED"),
        ("", "no vectors are known as ''"),
        ("absent.csv", "no such vectors file"),
        ("absent/", "no such vectors file"),
    ],
)
def test_a_wrong_name_is_told_what_there_is(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given_vectors(name)


def test_a_table_of_one_element_cannot_be_permuted() -> None:
    with pytest.raises(ValueError, match=r"one element \(H\)"):
        permuted(table_of_rows({"H": [1, 2]}), 0)


def test_rows_that_cannot_serve_are_dropped_by_name_never_zeros() -> None:
    rows = {"Na": [1.0, 2.0], "H": [3.0, 4.0], "He": [np.nan, 1.0], "Li": [1e39, 0.0], "Uut": [1.0, 1.0]}
    table = table_of_rows(rows)
    assert table.symbols == ("H", "Na")
    assert table.provenance["dropped"] == {
        "He": "a component is NaN or infinite",
        "Li": "a component is NaN or infinite",
        "Uut": "not an element symbol",
    }
    with pytest.raises(ValueError, match="no vector for He"):
        table.lookup([2])
    with pytest.raises(ValueError, match=r"no element has a vector; dropped: \{'He'"):
        table_of_rows({"He": [np.nan]})


def test_without_element_embeddings_its_names_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("elementembeddings", "elementembeddings.utils", "elementembeddings.utils.config"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"'mat2vec'.*pip install \"crysatom\[vectors\]\".*choose among .*onehot"):
        given_vectors("mat2vec")
    assert given_vectors("random").dim == 200, "the others do not need it"


def test_element_embeddings_names_are_listed_quickly() -> None:
    pytest.importorskip("elementembeddings", reason="ElementEmbeddings is not installed")
    script = (
        "from crysatom.vectors.given import given_vectors as g; import sys\ntry: g('mat3vec')\nexcept ValueError as e: "
    )
    script += "print(e)\nassert 'umap' not in sys.modules and 'elementembeddings.core' not in sys.modules"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=60, env=env, capture_output=True, text=True
    )
    assert "'mat3vec'; ElementEmbeddings has" in out.stdout
    assert "skipatom" in out.stdout


def test_former_symbols_do_not_give_an_element_two_rows() -> None:
    pytest.importorskip("elementembeddings", reason="ElementEmbeddings is not installed")
    table = given_vectors("random_200")
    assert set(table.provenance["dropped"]) == {"Uut", "Uup", "Uuh"}
    assert "Lv" in table.symbols
    assert table.provenance["package"].startswith("ElementEmbeddings 0.")


@pytest.mark.skipif(
    not DATA, reason="needs third-party files that may not be committed: set CRYSATOM_TEST_DATA to their folder"
)
@pytest.mark.parametrize(("name", "file"), [("skipatom", "skipatom200_induced"), ("mat2vec", "mat2vec200")])
def test_element_embeddings_tables_are_the_published_ones(name: str, file: str) -> None:
    pytest.importorskip("elementembeddings", reason="ElementEmbeddings is not installed")
    table, published = given_vectors(name), given_vectors(str(Path(str(DATA)) / "atom_vectors" / f"{file}.csv"))
    common = np.intersect1d(table.atomic_numbers, published.atomic_numbers)
    assert len(common) >= 86
    np.testing.assert_allclose(table.lookup(common), published.lookup(common), atol=1e-6)


def test_published_names_are_names_not_paths() -> None:
    pytest.importorskip("elementembeddings", reason="ElementEmbeddings is not installed")
    names = published_names()
    assert {"skipatom", "mat2vec", "magpie", "mace_mp0", "orb_v2"} <= set(names)
    assert not [name for name in names if set(name) & set("./:\\")], "the form of a text tells a path from a name"


def test_what_pretraining_reads_of_an_element() -> None:
    table, features = given_vectors("elements"), element_features("elements")
    assert np.array_equal(table.lookup([8, 26, 118]), features.lookup([8, 26, 118]))
    assert len(table.symbols) == 118
