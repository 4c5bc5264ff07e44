"""The choice of a spectrum: what decides it, what does not, and whose crystals it may read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from crysatom.vectors.controls import one_hot
from crysatom.vectors.spectrum import as_read
from crysatom.vectors.spectrum_choice import (
    MOST,
    PENALTY,
    POWERS,
    WIDTH,
    Compositions,
    best_power,
    errors_by_power,
    sample,
)
from crysatom.vectors.table import AtomVectors

ELEMENTS = np.arange(1, 41)


def mixtures(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return compositions of two of 40 elements."""
    shares = np.zeros((count, 119))
    for row in shares:
        row[rng.choice(ELEMENTS, 2, replace=False)] = [0.5, 0.5]
    return shares


def learned(component: int, seed: int = 0) -> tuple[AtomVectors, Compositions, Compositions]:
    """Return a table with a steep spectrum, and crystals whose property is one of its components."""
    rng = np.random.default_rng(seed)
    rows = np.linalg.qr(rng.normal(size=(40, 20)))[0] * np.linspace(1, 0.3, 20)
    table = AtomVectors(atomic_numbers=ELEMENTS, vectors=rows.astype(np.float32))
    values = np.zeros(119)
    values[ELEMENTS] = rows[:, component] / rows[:, component].std()
    parts = []
    for count in (25, 300):
        shares = mixtures(rng, count)
        parts.append(Compositions(shares=shares, target=shares @ values + 0.05 * rng.normal(size=count)))
    return table, parts[0], parts[1]


def choice(table: AtomVectors, train: Compositions, val: Compositions) -> float:
    return best_power(errors_by_power(lambda power: as_read(table, "rms", power, ELEMENTS), train, val))


def test_a_property_of_the_leading_component_asks_for_a_steep_spectrum() -> None:
    assert choice(*learned(0)) <= -1
    assert choice(*learned(19)) == 0


def test_the_error_of_a_training_crystal_is_that_of_the_model_without_it() -> None:
    table, train, val = learned(0)
    errors = errors_by_power(lambda power: as_read(table, "rms", power, ELEMENTS), train, val)
    rows = np.zeros((119, table.dim))
    rows[ELEMENTS] = as_read(table, "rms", -1, ELEMENTS).vectors
    x, y = train.shares @ rows, train.target - train.target.mean()
    squares = ((x[:, None] - x) ** 2).sum(axis=-1)
    kernel = np.exp(-squares / (WIDTH * np.median(squares)))

    def error(k: int) -> float:
        """Solve again without crystal k."""
        kept = np.delete(np.arange(len(y)), k)
        weights = np.linalg.solve(kernel[np.ix_(kept, kept)] + PENALTY * np.eye(len(kept)), y[kept])
        return float(abs(kernel[k, kept] @ weights - y[k]))

    new = val.shares @ rows
    across = np.exp(-((new[:, None] - x) ** 2).sum(axis=-1) / (WIDTH * np.median(squares)))
    weights = np.linalg.solve(kernel + PENALTY * np.eye(len(y)), y)
    theirs = np.abs(across @ weights + train.target.mean() - val.target)
    every = np.concatenate([[error(k) for k in range(len(y))], theirs])
    plain = np.abs(np.concatenate([train.target, val.target]) - np.median(train.target))
    assert errors[-1.0] == pytest.approx(every.mean() / plain.mean(), rel=1e-6)


def test_the_unit_of_the_property_does_not_matter() -> None:
    table, train, val = learned(0)
    other = [dataclasses.replace(part, target=1000 * part.target - 7) for part in (train, val)]
    here, there = (
        errors_by_power(lambda power: as_read(table, "rms", power, ELEMENTS), *parts) for parts in ((train, val), other)
    )
    assert list(here) == list(POWERS)
    np.testing.assert_allclose(list(here.values()), list(there.values()), rtol=1e-6)


def test_a_table_without_a_spectrum_is_left_as_it_is() -> None:
    _, train, val = learned(3)
    assert choice(one_hot(), train, val) == 0


def test_a_property_without_variation_decides_nothing() -> None:
    table, train, val = learned(3)
    same = [dataclasses.replace(part, target=np.full(len(part.target), 2.0)) for part in (train, val)]
    assert choice(table, *same) == 0


@pytest.mark.parametrize(
    ("errors", "power"),
    [
        ({0.0: 0.4, -1.0: 0.3, -2.0: 0.35}, -1.0),
        ({0.0: 0.3009, -1.0: 0.3, -2.0: 0.3005}, 0.0),
    ],
)
def test_of_equal_errors_the_power_nearest_to_0_is_taken(errors: dict[float, float], power: float) -> None:
    assert best_power(errors) == power


def test_a_sample_is_always_the_same() -> None:
    crystals = np.arange(5, 3 * MOST)
    taken = sample(crystals)
    assert len(taken) == MOST
    assert (np.diff(taken) > 0).all()
    np.testing.assert_array_equal(sample(crystals), taken)
    np.testing.assert_array_equal(sample(crystals[:9]), crystals[:9])
