"""Lattice sums of potentials: known constants, direct summation, invariances, the published decay."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from crysatom.graphs.lattices import skewness
from crysatom.graphs.potentials import coulomb_sums, london_sums, pair_potentials, pauli_sums
from tests.graph_crystals import in_another_cell, prototypes, reordered, rotated, supercell, translated

FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / np.sqrt(2)
BCC = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / np.sqrt(3)
ORIGIN = np.zeros((1, 3))


@pytest.mark.parametrize(
    ("lattice", "expected"), [(FCC, 14.4539210437), (BCC, 12.2536678673), (np.eye(3), 8.40192397482)]
)
def test_sums_of_london_over_cubic_lattices(lattice: np.ndarray, expected: float) -> None:
    """Lennard-Jones & Ingham, Proc. R. Soc. A 107, 636 (1925), in units of the nearest neighbor's distance."""
    assert london_sums(lattice, ORIGIN)[0, 0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("lattice", "site", "nearest", "expected"),
    [
        (FCC * np.sqrt(2), [0.5, 0.5, 0.5], 1.0, 1.747564594633),
        (np.eye(3), [0.5, 0.5, 0.5], np.sqrt(3) / 2, 1.762674773071),
    ],
    ids=["rock salt", "cesium chloride"],
)
def test_constants_of_madelung(lattice: np.ndarray, site: list[float], nearest: float, expected: float) -> None:
    sums = coulomb_sums(lattice, np.array([[0.0, 0.0, 0.0], site]))
    assert (sums[0, 1] - sums[0, 0]) * nearest == pytest.approx(expected, rel=1e-10)


def direct(lattice: np.ndarray, coords: np.ndarray, reach: float) -> np.ndarray:
    """Distances ``(N, N, images)`` of at least all images within a reach."""
    counts = np.ceil(reach * np.linalg.norm(np.linalg.inv(lattice), axis=0) + 1).astype(int)
    images = np.array(list(itertools.product(*(range(-n, n + 1) for n in counts))))
    vectors = (coords[:, None] - coords)[:, :, None] + images
    return np.linalg.norm(vectors @ lattice, axis=-1)


def test_pauli_by_direct_summation() -> None:
    chosen = [c for c in prototypes() if len(c.atomic_numbers) <= 6]
    chosen = sorted(chosen, key=lambda c: -float(skewness(c.lattice[None])[0]))[:3] + chosen[::20]
    for crystal in chosen:
        expected = np.exp(-3 * direct(crystal.lattice, crystal.frac_coords, 11.0)).sum(-1)
        assert pauli_sums(crystal.lattice, crystal.frac_coords) == pytest.approx(expected, rel=1e-9)


def test_london_by_direct_summation() -> None:
    """An integral replaces the terms beyond the reach; the remaining oscillation is 1e-4 of the nearest terms."""
    for crystal in [c for c in prototypes() if len(c.atomic_numbers) <= 3][::12]:
        reach = 30.0
        r = direct(crystal.lattice, crystal.frac_coords, reach)
        kept = np.where((r > 1e-6) & (r < reach), r, np.inf)
        tail = 4 * np.pi / (3 * reach**3) / abs(np.linalg.det(crystal.lattice))
        expected = (kept**-6).sum(-1) + tail
        assert london_sums(crystal.lattice, crystal.frac_coords) == pytest.approx(expected, rel=2e-4)


def test_the_published_decay() -> None:
    """The routine divides the decay by the square root of V^(1/3), by V^(1/6) (PotNet's released code)."""
    lattice = np.diag([4.0, 5.0, 6.25])
    site = np.array([[0.0, 0.0, 0.0], [0.2, 0.3, 0.4]])
    rate = 3 / np.sqrt(np.prod([4.0, 5.0, 6.25]) ** (1 / 3))
    expected = np.exp(-rate * direct(lattice, site, 30.0)).sum(-1)
    assert pauli_sums(lattice, site, "paper") == pytest.approx(expected, rel=1e-9)
    assert pauli_sums(lattice, site)[0, 1] < 0.5 * expected[0, 1]


def test_the_description_of_a_crystal_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    for crystal in [c for c in prototypes() if 2 <= len(c.atomic_numbers) <= 8][::10]:
        expected = pair_potentials(crystal.lattice, crystal.frac_coords)
        assert np.array_equal(expected, expected.T)
        for other in (rotated(crystal, rng), translated(crystal, rng), in_another_cell(crystal, rng)):
            assert pair_potentials(other.lattice, other.frac_coords) == pytest.approx(expected, rel=1e-8, abs=1e-8)
        order = rng.permutation(len(crystal.atomic_numbers))
        other = reordered(crystal, order)
        found = pair_potentials(other.lattice, other.frac_coords)
        assert found == pytest.approx(expected[np.ix_(order, order)], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("sums", [coulomb_sums, london_sums, pauli_sums])
def test_a_supercell_spreads_a_sum_over_the_copies(sums: Callable[..., np.ndarray]) -> None:
    """This holds for Coulomb sums too: the backgrounds of the copies add up to that of the cell."""
    crystal = next(c for c in prototypes() if len(c.atomic_numbers) == 3)
    large = supercell(crystal, (2, 1, 3))
    copies = 6
    found = sums(large.lattice, large.frac_coords).reshape(3, copies, 3, copies)
    expected = sums(crystal.lattice, crystal.frac_coords)
    assert found.sum(-1)[:, 0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(ValueError, match="positive volume"):
        pair_potentials(np.zeros((3, 3)), ORIGIN)
    with pytest.raises(ValueError, match="finite coordinates"):
        pair_potentials(np.eye(3), ORIGIN + np.nan)
    with pytest.raises(ValueError, match="unknown decay 'published'"):
        pair_potentials(np.eye(3), ORIGIN, "published")  # type: ignore[arg-type]
