"""Elements without vectors: reported with their crystals, or predicted and flagged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from crysatom.vectors.controls import random_vectors
from crysatom.vectors.coverage import fill_missing, require_elements
from crysatom.vectors.elements import element_features
from crysatom.vectors.given import given_vectors
from crysatom.vectors.published import table_of_rows
from crysatom.vectors.table import AtomVectors

DATA = os.environ.get("CRYSATOM_TEST_DATA")


def test_missing_elements_are_named_with_their_crystals() -> None:
    table = table_of_rows({"Na": [1.0], "Cl": [2.0]})
    crystals = [[11, 17], [2, 2, 11], [17], [26, 2], [], *([[26]] * 6), [119]]
    ids = [f"JVASP-{i}" for i in range(len(crystals))]
    numbers = np.concatenate([np.asarray(c, np.int16) for c in crystals])
    ptr = np.cumsum([0, *map(len, crystals)])
    with pytest.raises(ValueError, match="no vector") as error:
        require_elements(table, atomic_numbers=numbers, atom_ptr=ptr, material_ids=ids)
    assert str(error.value).splitlines()[1:4] == [
        "  He in 2 crystals: JVASP-1, JVASP-3",
        "  Fe in 7 crystals: JVASP-3, JVASP-5, JVASP-6, JVASP-7, JVASP-8, ...",
        "  atomic number 119 in 1 crystal: JVASP-11",
    ]
    covered = slice(0, 2)
    require_elements(table, atomic_numbers=numbers[covered], atom_ptr=np.array([0, 2]), material_ids=ids[:1])


def test_filled_vectors_are_flagged_and_the_others_kept(learned: AtomVectors) -> None:
    table = fill_missing(learned, [[11, 3], [118, 3]])
    assert table.symbols == ("H", "Li", "O", "Na", "Cl", "Fe", "U", "Og")
    np.testing.assert_array_equal(table.lookup(learned.atomic_numbers), learned.vectors)
    assert table.site_counts is not None
    assert table.standard_errors is not None
    assert table.site_counts.tolist() == [10, 0, 20, 30, 40, 50, 60, 0]
    assert np.isnan(table.standard_errors).any(axis=1).tolist() == [z in (3, 118) for z in table.atomic_numbers]
    assert table.provenance["filled"] == ["Li", "Og"]
    assert table.provenance["data_digest"] == "abc"
    again = fill_missing(table, [2])
    assert again.provenance["filled"] == ["He", "Li", "Og"]
    assert fill_missing(learned, [11, 17]) is learned


def test_the_ridge_is_the_textbook_one_with_errors_of_rows_really_left_out() -> None:
    """Solve the normal equations for the chosen penalty, once for each left-out element."""
    mixed = element_features("elements").features[:60, :7] * 2 + 0.3 * random_vectors(1, 7).vectors[:60]
    table = AtomVectors(atomic_numbers=np.arange(1, 61), vectors=mixed)
    filled = fill_missing(table, [61, 90])
    x = element_features("elements").lookup(table.atomic_numbers).astype(np.float64)
    y = table.vectors.astype(np.float64)
    unit = np.mean(np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2)
    penalty = filled.provenance["ridge"]["penalty"] * unit

    def predict(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
        design = np.hstack([np.ones((len(x), 1)), x])
        gram = design.T @ design + penalty * np.diag([0.0] + [1.0] * x.shape[1])
        return np.hstack([np.ones((len(at), 1)), at]) @ np.linalg.solve(gram, design.T @ y)

    wanted = element_features("elements").lookup([61, 90])
    np.testing.assert_allclose(filled.lookup([61, 90]), predict(x, y, wanted), rtol=1e-4, atol=1e-5)
    keep = [np.arange(60) != i for i in range(60)]
    errors = np.concatenate([predict(x[k], y[k], x[~k]) - y[~k] for k in keep]) / y.std(axis=0)
    means = np.concatenate([y[k].mean(0) - y[~k] for k in keep]) / y.std(axis=0)
    relative = np.sqrt(np.mean(errors**2) / np.mean(means**2))
    assert filled.provenance["ridge"]["error"] == pytest.approx(relative, rel=1e-6)


def test_chemistry_is_predicted_and_noise_is_not() -> None:
    features = element_features("elements")
    weights = np.random.default_rng(0).normal(size=(features.features.shape[1], 10))
    linear = (features.features @ weights).astype(np.float32)
    held = np.array([9, 26, 57])
    known = ~np.isin(features.atomic_numbers, held)
    table = AtomVectors(atomic_numbers=features.atomic_numbers[known], vectors=linear[known])
    filled = fill_missing(table, held)
    mean_error = np.linalg.norm(linear[held - 1] - table.vectors.mean(0))
    assert np.linalg.norm(filled.lookup(held) - linear[held - 1]) < 0.5 * mean_error
    assert filled.provenance["ridge"]["error"] < 0.6
    noise = random_vectors(0, 50)
    guessed = fill_missing(AtomVectors(atomic_numbers=noise.atomic_numbers[:80], vectors=noise.vectors[:80]), [90])
    assert guessed.provenance["ridge"]["error"] > 0.95


def test_the_choice_of_penalty_does_not_depend_on_units() -> None:
    features = element_features("elements")
    known = slice(0, 80)
    vectors = features.features[known, :12] + 0.5 * random_vectors(2, 12).vectors[known]
    units = np.logspace(-3, 3, 12).astype(np.float32)
    numbers = features.atomic_numbers[known]
    one = fill_missing(AtomVectors(atomic_numbers=numbers, vectors=vectors), [90])
    other = fill_missing(AtomVectors(atomic_numbers=numbers, vectors=vectors * units), [90])
    assert one.provenance["ridge"]["penalty"] == other.provenance["ridge"]["penalty"]
    np.testing.assert_allclose(other.lookup([90]) / units, one.lookup([90]), rtol=1e-3, atol=1e-5)


def test_what_cannot_be_filled_is_told(learned: AtomVectors) -> None:
    with pytest.raises(ValueError, match=r"a single element \(H\)"):
        fill_missing(table_of_rows({"H": [1.0]}), [2])
    with pytest.raises(ValueError, match="no features for atomic number 119"):
        fill_missing(learned, [119])


@pytest.mark.skipif(
    not DATA, reason="needs third-party files that may not be committed: set CRYSATOM_TEST_DATA to their folder"
)
def test_published_vectors_can_be_filled_better_than_by_their_mean() -> None:
    for name in ("mat2vec200", "skipatom200", "crysatom_official200"):
        table = given_vectors(str(Path(str(DATA)) / "atom_vectors" / f"{name}.csv"))
        filled = fill_missing(table, np.arange(1, 119))
        assert len(filled.atomic_numbers) == 118
        assert filled.provenance["ridge"]["error"] < 1, name
