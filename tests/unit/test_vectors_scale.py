"""Scaled tables: equal initial outputs of a predictor, unchanged geometry, no amplified rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crysatom.names import SYMBOLS
from crysatom.vectors.controls import one_hot, random_vectors
from crysatom.vectors.published import table_of_rows
from crysatom.vectors.scale import scaled
from crysatom.vectors.table import AtomVectors


@pytest.mark.parametrize("how", ["rms", "standardize"])
def test_scaled_tables_start_a_linear_layer_with_equal_outputs(learned: AtomVectors, how: str) -> None:
    """The claim is about PyTorch's own initialization, so it is measured with it."""
    for table in (learned, one_hot(), random_vectors(0, 200), random_vectors(1, 16)):
        made = scaled(table, how, [1, 8, 11, 17, 26])
        rows = torch.from_numpy(made.lookup([1, 8, 11, 17, 26]))
        assert rows.mean(0).abs().max() < 1e-5
        assert float(rows.double().square().mean()) == pytest.approx(1, rel=1e-5)
        layer = torch.nn.Linear(table.dim, 20000, bias=False)
        assert float(layer(rows).detach().square().mean()) == pytest.approx(1 / 3, rel=0.05)


def test_rms_keeps_the_geometry_and_standardize_equals_the_columns() -> None:
    table = table_of_rows({"H": [1, 1000, 5], "He": [2, 3000, 5], "Li": [4, 2000, 5]})

    def ratio(made: AtomVectors) -> float:
        a, b, c = made.vectors
        return float(np.linalg.norm(a - b) / np.linalg.norm(a - c))

    assert ratio(scaled(table, "rms")) == pytest.approx(ratio(table), rel=1e-5)
    standard = scaled(table, "standardize").vectors
    np.testing.assert_allclose(standard.std(axis=0), [np.sqrt(1.5), np.sqrt(1.5), 0], rtol=1e-5, atol=1e-6)
    assert scaled(table, "none") is table


def test_the_scale_does_not_depend_on_units_or_on_elements_outside_the_data(learned: AtomVectors) -> None:
    data = [8, 8, 11, 17]
    plain = scaled(learned, "rms", data)
    for other in (
        AtomVectors(atomic_numbers=learned.atomic_numbers, vectors=learned.vectors * 1000),
        AtomVectors(atomic_numbers=learned.atomic_numbers[:-1], vectors=learned.vectors[:-1]),
    ):
        made = scaled(other, "rms", data)
        np.testing.assert_allclose(made.lookup([1, 8, 26]), plain.lookup([1, 8, 26]), rtol=1e-4, atol=1e-5)
    assert plain.standard_errors is not None
    factor = np.asarray(learned.standard_errors) / plain.standard_errors
    np.testing.assert_allclose(factor, factor[0, 0], rtol=1e-5)
    assert plain.provenance == {"data_digest": "abc", "scale": {"how": "rms", "elements": 3}}


def test_columns_that_do_not_vary_are_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    noise = np.float32(1000) * (1 + np.float32(1e-7) * rng.integers(-1, 2, size=6))
    table = table_of_rows({SYMBOLS[i]: [float(i), float(noise[i])] for i in range(6)})
    assert np.abs(scaled(table, "standardize").vectors[:, 1]).max() == 0


def test_what_cannot_be_scaled_is_told() -> None:
    table = table_of_rows({"H": [1, 2], "He": [1, 2], "Li": [3, 4]})
    with pytest.raises(ValueError, match="equal for all of the 2 elements"):
        scaled(table, "rms", [1, 2])
    with pytest.raises(ValueError, match="equal for all of the 1 elements"):
        scaled(table, "standardize", [3])
    with pytest.raises(ValueError, match="no vector for Fe"):
        scaled(table, "rms", [1, 26])
    with pytest.raises(ValueError, match=r"unknown scale 'unit'.*none, rms, standardize"):
        scaled(table, "unit")
