"""Edge cases of the neighbor list: the cutoff, ties, isolated atoms, padding."""

from __future__ import annotations

import numpy as np
import pytest

from crysatom.config import GraphSpec
from crysatom.graphs.lattices import reduce_lattice, skewness
from crysatom.graphs.neighbors import neighbor_graph, neighbor_graphs

ORIGIN = np.zeros((1, 3))


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("shift", [0.0, 0.1, -1e-17, 1.0, 1 / 3])
def test_neighbors_at_exactly_the_cutoff_are_connected(shift: float, rotated: bool) -> None:
    lattice = 8.0 * np.eye(3)
    if rotated:
        lattice = lattice @ np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    graph = neighbor_graph(lattice, ORIGIN + shift, GraphSpec(cutoff=8.0))
    assert graph.degree.tolist() == [6]
    assert graph.distance.tolist() == [8.0] * 6


def test_neighbors_beyond_the_cutoff_are_not() -> None:
    assert neighbor_graph(8.00001 * np.eye(3), ORIGIN, GraphSpec(cutoff=8.0)).degree.tolist() == [0]


def test_the_last_shell_is_completed() -> None:
    # Simple cubic: 6 neighbors at 1, 12 at sqrt(2), 8 at sqrt(3) lattice constants.
    for wanted, found in ((1, 6), (6, 6), (7, 18), (18, 18), (19, 26)):
        assert neighbor_graph(3.0 * np.eye(3), ORIGIN, GraphSpec(num_neighbors=wanted)).degree.tolist() == [found]


def test_truncation_keeps_exactly_the_number_asked_for() -> None:
    graph = neighbor_graph(3.0 * np.eye(3), ORIGIN, GraphSpec(num_neighbors=7, ties="truncate"))
    assert graph.degree.tolist() == [7]
    np.testing.assert_allclose(graph.distance, [3.0] * 6 + [3.0 * 2**0.5], atol=1e-6)


@pytest.mark.parametrize(("difference", "degree"), [(0.0009, 6), (0.001, 6), (0.0011, 2)])
def test_tie_tolerance(difference: float, degree: int) -> None:
    lattice = np.diag([3.0, 3.0 + difference, 3.0 + difference])
    assert neighbor_graph(lattice, ORIGIN, GraphSpec(num_neighbors=2)).degree.tolist() == [degree]


RADIUS = 4.0


@pytest.mark.parametrize(
    ("inner", "outer", "tolerance"),
    [(-0.0004, 0.0004, 0.001), (-2e-7, 2e-7, 0.0), (-0.04, 0.04, 0.1), (0.05, 0.14, 0.1)],
    ids=["a tie within the tolerance", "a tie by rounding", "a wide shell", "a shell that begins in the margin"],
)
def test_a_shell_that_the_search_radius_cuts_is_found_whole(inner: float, outer: float, tolerance: float) -> None:
    """The first radius, for an expected 2.2 times the wanted neighbors, is 4 angstrom in this cell.

    Edges along a and b end slightly within or beyond it. Along c, two neighbors are at 2.5 angstrom. The next
    neighbors of all are at 4.7.
    """
    volume = 4 / 3 * np.pi * RADIUS**3 / (2.2 * 3)
    a, b = RADIUS + inner, RADIUS + outer
    graph = neighbor_graph(
        np.diag([a, b, volume / (a * b)]), ORIGIN, GraphSpec(num_neighbors=3, tie_tolerance=tolerance)
    )
    assert graph.degree.tolist() == [6]
    assert graph.distance[2:].tolist() == pytest.approx([a, a, b, b])


def test_isolated_atom_has_no_edges() -> None:
    graph = neighbor_graph(30.0 * np.eye(3), ORIGIN, GraphSpec())
    assert graph.degree.tolist() == [0]
    assert graph.image.shape == (0, 3)


def test_padding_fills_short_lists_only() -> None:
    lattice, coords = np.diag([30.0, 30.0, 30.0]), np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.6]])
    spec = GraphSpec(num_neighbors=3, pad_short_lists=True)
    graph = neighbor_graph(lattice, coords, spec)
    assert graph.degree.tolist() == [3, 3]
    assert graph.neighbor.tolist() == [1, 0, 0, 0, 0, 0]
    assert graph.distance.tolist() == [3.0, 9.0, 9.0, 3.0, 9.0, 9.0]
    assert not graph.image.any()
    full = GraphSpec(num_neighbors=12, pad_short_lists=True)
    assert neighbor_graph(3.0 * np.eye(3), ORIGIN, full).degree.tolist() == [18]


def test_no_crystals_make_no_edges() -> None:
    graph = neighbor_graphs(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros(1, dtype=int), GraphSpec())
    assert len(graph.degree) == len(graph.distance) == 0


def test_reduction_keeps_the_lattice_and_makes_it_compact() -> None:
    lattice = np.array([[4.0, 0, 0], [400.0, 4, 0], [40_000.0, 400, 4]])
    transform = reduce_lattice(lattice)
    assert round(np.linalg.det(transform)) == 1
    assert skewness((transform @ lattice)[None])[0] < 2
