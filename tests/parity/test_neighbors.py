"""Neighbor lists against a search over all images, against ASE, and against themselves in another cell."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from crysatom.config import GraphSpec
from crysatom.crystals.table import Crystal
from crysatom.graphs.neighbors import RESOLUTION, Neighbors, neighbor_graph, neighbor_graphs
from tests.graph_crystals import (
    expected_edges,
    other_cell,
    prototypes,
    random_transform,
    small,
    supercell,
    with_lattice,
)

SPEC = GraphSpec()
ROUNDING = 2 * RESOLUTION  # the grid of distances, and float32 beyond 16 angstrom


def _graph(crystal: Crystal, spec: GraphSpec = SPEC) -> Neighbors:
    return neighbor_graph(crystal.lattice, crystal.frac_coords, spec)


def _edges(graph: Neighbors) -> list[set[tuple[int, ...]]]:
    rows = np.column_stack([graph.neighbor, graph.image]).tolist()
    return [{tuple(row) for row in part} for part in np.split(np.array(rows), np.cumsum(graph.degree)[:-1])]


def _vector_lengths(crystal: Crystal, graph: Neighbors) -> np.ndarray:
    center = np.repeat(np.arange(len(graph.degree)), graph.degree)
    frac = crystal.frac_coords
    return np.linalg.norm((frac[graph.neighbor] + graph.image - frac[center]) @ crystal.lattice, axis=1)


def _fingerprint(crystal: Crystal, graph: Neighbors) -> np.ndarray:
    """For each atom: species, degree, species of neighbors, distances; ordered by species, then distance."""
    numbers = crystal.atomic_numbers.astype(int)
    width = int(graph.degree.max(initial=0))
    rows = np.zeros((len(numbers), 2 + 2 * width))
    start = 0
    for i, degree in enumerate(graph.degree):
        part = slice(start, start + int(degree))
        species, distance = numbers[graph.neighbor[part]], graph.distance[part].astype(float)
        order = np.lexsort((distance, species))
        rows[i, :2] = numbers[i], degree
        rows[i, 2 : 2 + degree], rows[i, 2 + width : 2 + width + degree] = species[order], distance[order]
        start += int(degree)
    return rows


def _assert_same_environments(one: Crystal, two: Crystal, atoms: np.ndarray | None = None) -> None:
    """Compare the atoms of ``two`` with their originals in ``one`` (default: the same indices)."""
    first, second = _fingerprint(one, _graph(one)), _fingerprint(two, _graph(two))
    np.testing.assert_allclose(first if atoms is None else first[atoms], second, rtol=0, atol=2 * ROUNDING)


@pytest.mark.parametrize("num_neighbors", [1, 12])
def test_equals_search_over_all_images(num_neighbors: int) -> None:
    spec = GraphSpec(cutoff=6.0, num_neighbors=num_neighbors)
    crystals = small(limit=16, count=60)
    assert len(crystals) >= 50
    for crystal in crystals:
        graph = _graph(crystal, spec)
        assert _edges(graph) == expected_edges(crystal, spec), crystal.material_id
        np.testing.assert_allclose(graph.distance, _vector_lengths(crystal, graph), rtol=0, atol=ROUNDING)


def test_equals_search_over_all_images_where_lists_are_short() -> None:
    spec = GraphSpec(cutoff=2.6, num_neighbors=12)
    degrees = []
    for crystal in small(limit=12, count=60):
        graph = _graph(crystal, spec)
        assert _edges(graph) == expected_edges(crystal, spec), crystal.material_id
        degrees.extend(graph.degree.tolist())
    assert min(degrees) == 0
    assert max(degrees) > 4


@pytest.mark.parametrize("handedness", [1, -1])
def test_skewed_and_left_handed_cells_equal_search_over_all_images(handedness: int) -> None:
    rng = np.random.default_rng(1)
    spec = GraphSpec(cutoff=4.5)
    mirror = np.diag([1, 1, handedness])
    for crystal in small(limit=4, count=20):
        skewed = other_cell(crystal, mirror @ random_transform(rng, 1))
        assert _edges(_graph(skewed, spec)) == expected_edges(skewed, spec), crystal.material_id


def test_very_skewed_cells_have_the_same_environments() -> None:
    rng = np.random.default_rng(2)
    for crystal in small(limit=20, count=60):
        skewed = other_cell(crystal, random_transform(rng, 4))
        graph = _graph(skewed)
        np.testing.assert_allclose(graph.distance, _vector_lengths(skewed, graph), rtol=0, atol=ROUNDING)
        _assert_same_environments(crystal, skewed)


def test_equals_ase() -> None:
    for crystal in small(limit=30, count=60):
        atoms = Atoms(crystal.atomic_numbers, cell=crystal.lattice, scaled_positions=crystal.frac_coords, pbc=True)
        center, neighbor, image, distance = neighbor_list("ijSd", atoms, 5.0, self_interaction=False)
        graph = _graph(crystal, GraphSpec(cutoff=5.0, num_neighbors=500))  # everything within the cutoff
        ours = np.column_stack([np.repeat(np.arange(len(atoms)), graph.degree), graph.neighbor, graph.image])
        theirs = np.column_stack([center, neighbor, image])
        order, their_order = np.lexsort(ours.T[::-1]), np.lexsort(theirs.T[::-1])
        np.testing.assert_array_equal(ours[order], theirs[their_order], err_msg=crystal.material_id)
        np.testing.assert_allclose(graph.distance[order], distance[their_order], rtol=0, atol=ROUNDING)


def test_rotation_permutation_translation_and_unwrapping_change_nothing() -> None:
    rng = np.random.default_rng(3)
    for crystal in prototypes():
        frac = crystal.frac_coords
        rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        order = rng.permutation(len(frac))
        permuted = Crystal(
            material_id="",
            lattice=crystal.lattice,
            frac_coords=frac[order],
            atomic_numbers=crystal.atomic_numbers[order],
        )
        for other in (
            with_lattice(crystal, crystal.lattice @ rotation, frac),
            with_lattice(crystal, crystal.lattice, frac + rng.random(3)),
            with_lattice(crystal, crystal.lattice, frac + rng.integers(-3, 4, frac.shape)),
        ):
            _assert_same_environments(crystal, other)
        _assert_same_environments(crystal, permuted, order)


def test_supercell_has_the_same_environments() -> None:
    for crystal in small(limit=24, count=80):
        atoms = np.repeat(np.arange(len(crystal.atomic_numbers)), 6)
        _assert_same_environments(crystal, supercell(crystal, (2, 1, 3)), atoms)


def test_image_belongs_to_the_coordinates_as_given() -> None:
    rng = np.random.default_rng(4)
    for crystal in small(limit=30, count=50):
        moved = with_lattice(
            crystal, crystal.lattice, crystal.frac_coords + rng.integers(-5, 6, (len(crystal.frac_coords), 3))
        )
        graph = _graph(moved)
        np.testing.assert_allclose(graph.distance, _vector_lengths(moved, graph), rtol=0, atol=ROUNDING)


def test_truncation_equals_sorting_each_atoms_list() -> None:
    """The reference sorts (distance on our grid, neighbor, image in the wrapped cell), atom by atom."""
    for crystal in small(limit=16, count=60):
        wrapped = with_lattice(crystal, crystal.lattice, crystal.frac_coords - np.floor(crystal.frac_coords))
        whole = _graph(wrapped, GraphSpec(num_neighbors=40))
        graph = _graph(wrapped, GraphSpec(ties="truncate"))
        expected, start = [], 0
        for degree in whole.degree.tolist():
            rows = range(start, start + degree)
            key = {k: (float(whole.distance[k]), int(whole.neighbor[k]), *whole.image[k].tolist()) for k in rows}
            expected += [key[k] for k in sorted(rows, key=key.__getitem__)[:12]]
            start += degree
        found = np.column_stack([graph.distance, graph.neighbor, graph.image])
        np.testing.assert_array_equal(found, np.array(expected), err_msg=crystal.material_id)


def test_lists_are_sorted_by_distance() -> None:
    for spec in (SPEC, GraphSpec(ties="truncate", pad_short_lists=True, cutoff=3.0)):
        for crystal in prototypes()[::5]:
            graph = _graph(crystal, spec)
            center = np.repeat(np.arange(len(graph.degree)), graph.degree)
            assert (np.diff(graph.distance)[np.diff(center) == 0] >= 0).all()


def test_many_crystals_at_once_equal_one_at_a_time() -> None:
    crystals = prototypes()
    counts = [len(c.atomic_numbers) for c in crystals]
    together = neighbor_graphs(
        np.stack([c.lattice for c in crystals]),
        np.concatenate([c.frac_coords for c in crystals]),
        np.concatenate([[0], np.cumsum(counts)]),
        SPEC,
    )
    alone = [_graph(c) for c in crystals]
    for name in ("degree", "neighbor", "image", "distance"):
        np.testing.assert_array_equal(getattr(together, name), np.concatenate([getattr(g, name) for g in alone]))
