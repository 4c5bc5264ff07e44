"""Spectra of tables: powers of the singular values, whatever basis, signs and order these are computed in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crysatom.vectors.controls import one_hot
from crysatom.vectors.given import given_vectors
from crysatom.vectors.scale import scaled
from crysatom.vectors.spectrum import as_read, power_of, with_spectrum
from crysatom.vectors.table import AtomVectors

POWERS = st.floats(-4, 1).map(lambda power: round(power, 2))
SHAPES = st.tuples(st.integers(2, 12), st.integers(1, 15), st.integers(0, 2**32 - 1))


def table_of(rows: NDArray[np.floating]) -> AtomVectors:
    return AtomVectors(atomic_numbers=np.arange(1, len(rows) + 1), vectors=rows.astype(np.float32))


def drawn(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return random rows with a common part, and singular values from 0.05 to 1 that are not 0 by construction."""
    elements, dim, seed = shape
    rng = np.random.default_rng(seed)
    rank = min(elements - 1, dim)
    u = np.linalg.qr(np.column_stack([np.ones(elements), rng.normal(size=(elements, rank))]))[0][:, 1:]
    v = np.linalg.qr(rng.normal(size=(dim, rank)))[0]
    return 3 + (u * rng.uniform(0.05, 1, size=rank)) @ v.T


def singular(table: AtomVectors) -> NDArray[np.float64]:
    rows = table.vectors.astype(np.float64)
    return np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)


@given(SHAPES, POWERS)
def test_singular_values_get_the_power_and_directions_stay(shape: tuple[int, int, int], power: float) -> None:
    rows = drawn(shape)
    centered = rows - rows.mean(axis=0)
    u, s, vt = np.linalg.svd(centered, full_matrices=False)
    kept = s > 1e-10
    expected = (u[:, kept] * (s[kept] * (s[kept] / s[0]) ** -power)) @ vt[kept]
    made = with_spectrum(table_of(rows), power)
    np.testing.assert_allclose(made.vectors, expected, atol=1e-4 * np.abs(expected).max())
    assert made.provenance["spectrum"] == {"power": power, "elements": shape[0]}


def test_power_0_only_centers_and_power_1_whitens() -> None:
    rows = drawn((9, 4, 0))
    np.testing.assert_allclose(with_spectrum(table_of(rows), 0).vectors, rows - rows.mean(axis=0), atol=1e-5)
    white = with_spectrum(table_of(rows), 1).vectors
    covariance = white.T @ white
    np.testing.assert_allclose(covariance, np.eye(4) * covariance[0, 0], atol=1e-4 * covariance[0, 0])


@given(SHAPES, st.floats(-1.5, 0.75), st.floats(-1.5, 0.75))
def test_powers_compose(shape: tuple[int, int, int], first: float, second: float) -> None:
    """The spectrum s^(1 - p) of the first power is the s of the second."""
    table = table_of(drawn(shape))
    twice = with_spectrum(with_spectrum(table, first), second).vectors
    once = with_spectrum(table, 1 - (1 - first) * (1 - second)).vectors
    # each divides by its own largest singular value
    np.testing.assert_allclose(twice, once, atol=1e-3 * np.abs(once).max())


@given(SHAPES, POWERS)
def test_rotations_of_columns_and_orders_of_elements_commute_with_it(shape: tuple[int, int, int], power: float) -> None:
    rows = drawn(shape)
    rotation = np.linalg.qr(np.random.default_rng(shape[2]).normal(size=(shape[1], shape[1])))[0]
    order = np.random.default_rng(shape[2]).permutation(shape[0])
    plain = with_spectrum(table_of(rows), power).vectors
    tolerance = 1e-3 * np.abs(plain).max()
    np.testing.assert_allclose(
        with_spectrum(table_of(rows @ rotation), power).vectors, plain @ rotation, atol=tolerance
    )
    np.testing.assert_allclose(with_spectrum(table_of(-rows), power).vectors, -plain, atol=tolerance)
    np.testing.assert_allclose(with_spectrum(table_of(rows[order]), power).vectors, plain[order], atol=tolerance)


def test_equal_singular_values_leave_no_choice() -> None:
    """Any basis of their space gives the same vectors: two of the four values are equal here."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(np.column_stack([np.ones(8), rng.normal(size=(8, 4))]))[0][:, 1:]
    v = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    values = np.array([3.0, 2.0, 2.0, 0.5])
    made = with_spectrum(table_of((u * values) @ v.T), -2).vectors
    np.testing.assert_allclose(made, (u * values**3 / 9) @ v.T, atol=1e-6)


@pytest.mark.parametrize("power", [1.0, -1.0, -2.0])
def test_one_hot_vectors_have_no_spectrum_to_change(power: float) -> None:
    elements = [1, 8, 26, 79]
    made = as_read(one_hot(), "rms", power, elements)
    np.testing.assert_allclose(made.vectors, scaled(one_hot(), "rms", elements).vectors, atol=1e-4)


@pytest.mark.parametrize("power", [0.0, 1.0, -2.0])
def test_columns_without_information_stay_so(power: float) -> None:
    rows = drawn((7, 3, 1))
    plain = with_spectrum(table_of(rows), power).vectors
    rng = np.random.default_rng(2)
    rounding = 1000 * (1 + 1e-7 * rng.integers(-1, 2, size=(7, 1)))
    more = with_spectrum(table_of(np.hstack([rows, rounding, np.full((7, 1), 5.0)])), power).vectors
    np.testing.assert_allclose(more[:, :3], plain, atol=1e-3 * np.abs(plain).max())
    assert np.abs(more[:, 3:]).max() < 1e-3 * np.abs(plain).max()


def test_a_steeper_spectrum_concentrates_the_variance() -> None:
    shares = []
    for power in (1, 0, -1, -2):
        squares = singular(with_spectrum(given_vectors("onehot92"), power)) ** 2
        shares.append(squares[0] / squares.sum())
    assert shares == sorted(shares)
    assert shares[0] < 0.02
    assert shares[-1] > 0.4


def test_standard_errors_are_those_of_draws() -> None:
    rows, errors = drawn((10, 3, 3)), np.random.default_rng(4).uniform(0.01, 0.05, size=(10, 3))
    errors[4] = np.nan
    given_errors = dataclasses.replace(table_of(rows), standard_errors=errors.astype(np.float32))
    made = with_spectrum(given_errors, -1)
    mean, (_, s, vt) = rows.mean(axis=0), np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    noise = np.random.default_rng(5).normal(size=(20_000, 10, 3)) * errors
    moved = (rows + noise - mean) @ (vt.T * s / s[0]) @ vt
    found = np.asarray(made.standard_errors)
    assert np.isnan(found[4]).all()
    np.testing.assert_allclose(np.delete(found, 4, 0), np.delete(moved.std(axis=0), 4, 0), rtol=0.03)
    assert with_spectrum(table_of(rows), -1).standard_errors is None


def test_added_elements_do_not_change_the_spectrum() -> None:
    rows = drawn((8, 3, 6))
    plain = with_spectrum(table_of(rows), -1)
    more = with_spectrum(table_of(np.vstack([rows, [[100, -50, 3]]])), -1, plain.atomic_numbers)
    np.testing.assert_allclose(more.vectors[:8], plain.vectors, rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, -1.0])
def test_units_of_columns_come_first(power: float) -> None:
    """Magpie's kelvin must not decide the principal directions."""
    rows, trained = drawn((9, 4, 7)), [1, 3, 5, 6, 9]
    made = as_read(table_of(rows), "standardize", power, trained)
    units = as_read(table_of(rows * [1, 1000, 0.01, 5]), "standardize", power, trained)
    np.testing.assert_allclose(units.vectors, made.vectors, atol=1e-3)
    read = made.lookup(trained)
    assert np.abs(read.mean(axis=0)).max() < 1e-5
    assert float((read**2).mean()) == pytest.approx(1, rel=1e-5)


def test_power_0_is_the_scaled_table_and_not_recorded() -> None:
    table = given_vectors("onehot92")
    made = as_read(table, "rms", 0, [1, 8])
    np.testing.assert_array_equal(made.vectors, scaled(table, "rms", [1, 8]).vectors)
    assert "spectrum" not in made.provenance
    assert power_of(made.provenance) == 0
    assert power_of(as_read(table, "rms", -0.5, [1, 8]).provenance) == -0.5
    kept = as_read(table, "none", -1, [1, 8])
    assert singular(kept)[0] == pytest.approx(singular(table)[0], rel=1e-5), "the leading component keeps its size"


def test_what_has_no_spectrum_is_told() -> None:
    with pytest.raises(ValueError, match="equal for all of 3 elements have no spectrum"):
        with_spectrum(table_of(np.full((3, 2), 1000.0)), -1)
    with pytest.raises(ValueError, match="must be finite, got nan"):
        with_spectrum(one_hot(), float("nan"))
    with pytest.raises(ValueError, match="no vector for Og"):
        with_spectrum(given_vectors("onehot92"), -1, [118])
