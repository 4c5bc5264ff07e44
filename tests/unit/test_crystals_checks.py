"""The checks against brute force and at their limits."""

from __future__ import annotations

import numpy as np
import pytest

from crysatom.config import Limits
from crysatom.crystals.checks import check
from crysatom.crystals.closest_pair import _with_cell_lists, closest_pair
from crysatom.crystals.quarantine import Rejection
from crysatom.crystals.table import Crystal

IMAGES = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 3), axis=-1).reshape(-1, 3)


def brute_force(lattice: np.ndarray, frac_coords: np.ndarray) -> float:
    """Smallest distance between atoms over 17^3 images, in angstrom."""
    coords = (frac_coords - np.floor(frac_coords)) @ lattice
    distances = np.linalg.norm(coords[:, None, None] - coords[None, :, None] + IMAGES @ lattice, axis=-1)
    for i in range(len(coords)):
        distances[i, i, (IMAGES == 0).all(axis=1)] = np.inf
    return float(distances.min())


def random_crystal(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Skewed cell of 1 to 8 atoms; in half of the cases, two are close across a cell boundary."""
    lattice = generator.normal(size=(3, 3)) * 6
    frac_coords = generator.uniform(-3, 3, size=(generator.integers(1, 9), 3))
    if generator.random() < 0.5 and len(frac_coords) > 1:
        frac_coords[1] = frac_coords[0] + generator.integers(-2, 3, size=3) + generator.normal(size=3) * 1e-2
    return lattice, frac_coords


@pytest.mark.parametrize("search", [closest_pair, lambda *a, below: _with_cell_lists(*a, below)])
def test_closest_pair_agrees_with_brute_force(search: object) -> None:
    generator = np.random.default_rng(0)
    found = tried = 0
    while tried < 60:
        lattice, frac_coords = random_crystal(generator)
        if abs(np.linalg.det(lattice)) < 30:
            continue
        tried += 1
        expected = brute_force(lattice, frac_coords)
        pair = search(lattice, frac_coords, below=0.5)  # type: ignore[operator]
        assert (pair is None) == (expected >= 0.5)
        if pair is not None:
            found += 1
            assert pair.distance == pytest.approx(expected, abs=1e-7)
    assert found > 10, "the test must meet close pairs"


def test_skewed_description_of_a_good_crystal_passes() -> None:
    lattice = np.array([[3.0, 0, 0], [900.0, 3, 0], [0, 600.0, 3]])
    check(crystal(lattice=lattice))


def crystal(**changes: np.ndarray) -> Crystal:
    content = {"lattice": 4 * np.eye(3), "frac_coords": np.zeros((1, 3)), "atomic_numbers": np.array([11])}
    return Crystal(material_id="x", **(content | changes))


def test_good_crystals_pass() -> None:
    check(crystal())
    check(crystal(lattice=-4 * np.eye(3)))  # left-handed
    check(crystal(lattice=np.diag([30.0, 30, 30])))  # an isolated atom in a box
    check(crystal(atomic_numbers=np.array([118])))


def test_min_distance_is_the_users() -> None:
    close = crystal(frac_coords=np.array([[0, 0, 0], [0.1, 0, 0]]), atomic_numbers=np.array([1, 1]))
    with pytest.raises(Rejection, match=r"0\.400 angstrom"):
        check(close)
    check(close, Limits(min_distance=0.3))
    check(close, Limits(min_distance=0))


def test_limit_of_atoms_is_inclusive() -> None:
    row = crystal(
        lattice=np.diag([40.0, 4, 4]),
        frac_coords=np.linspace(0, 1, 10, endpoint=False)[:, None] * [1, 0, 0],
        atomic_numbers=np.full(10, 11),
    )
    check(row, Limits(max_atoms=10))
    with pytest.raises(Rejection, match="more than 9"):
        check(row, Limits(max_atoms=9))
