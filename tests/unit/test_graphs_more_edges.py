"""Edges in both directions, edges along lattice vectors, and pairs of bonds against loops, on real crystals."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from crysatom.config import GraphSpec
from crysatom.config.downstream import default, paper
from crysatom.crystals.table import Crystal
from crysatom.graphs.lattice_edges import PUBLISHED, first_copies, primitive_cell, voronoi_vectors
from crysatom.graphs.lattices import skewness
from crysatom.graphs.neighbors import neighbor_graph
from crysatom.nn.line_graph import ANGLE_RESOLUTION, LineGraph
from tests.graph_crystals import (
    batch_of,
    brute_force,
    expected_edges,
    in_another_cell,
    prototypes,
    small,
    supercell,
)

Edge = tuple[int, ...]


@pytest.fixture(scope="module", name="crystals")
def _crystals() -> list[Crystal]:
    """60 crystals of up to 20 atoms, including the most skewed cells."""
    some = [c for c in prototypes() if len(c.atomic_numbers) <= 20]
    return sorted(some, key=lambda c: -float(skewness(c.lattice[None])[0]))[:15] + small(20, 45)


def edges_of(crystal: Crystal, spec: GraphSpec) -> Counter[Edge]:
    """Count center, neighbor and image of each edge."""
    found = neighbor_graph(crystal.lattice, crystal.frac_coords, spec)
    center = np.repeat(np.arange(len(found.degree)), found.degree)
    return Counter(map(tuple, np.column_stack([center, found.neighbor, found.image]).tolist()))


def backward(edge: Edge) -> Edge:
    center, neighbor, *image = edge
    return neighbor, center, *(-n for n in image)


def test_an_edge_is_kept_both_ways(crystals: list[Crystal]) -> None:
    spec = default("alignn").graph
    for crystal in crystals:
        nearest = {(i, *edge) for i, edges in enumerate(expected_edges(crystal, spec)) for edge in edges}
        assert edges_of(crystal, spec) == Counter(nearest | {backward(edge) for edge in nearest})


def test_the_published_shells(crystals: list[Crystal]) -> None:
    """Nearest shells without a cutoff, edges with i <= j in a set, each then both ways (ALIGNN's released code)."""
    spec = paper("alignn").graph
    for crystal in crystals[::3]:
        shells = set()
        for i, (neighbor, image, distance) in enumerate(brute_force(crystal, 14.0)):
            last = np.sort(distance)[spec.num_neighbors - 1]
            for j, cell in zip(neighbor[distance <= last + 2e-6], image[distance <= last + 2e-6], strict=True):
                edge = (i, int(j), *map(int, cell))
                shells.add(edge if i <= j else backward(edge))
        assert edges_of(crystal, spec) == Counter([*shells, *map(backward, shells)])


def test_edges_are_sorted_and_equally_long_both_ways(crystals: list[Crystal]) -> None:
    for crystal in crystals[::5]:
        found = neighbor_graph(crystal.lattice, crystal.frac_coords, default("alignn").graph)
        center = np.repeat(np.arange(len(found.degree)), found.degree)
        assert (np.diff(found.distance)[np.diff(center) == 0] >= 0).all()
        edges = list(map(tuple, np.column_stack([center, found.neighbor, found.image]).tolist()))
        length = dict(zip(edges, found.distance.tolist(), strict=True))
        assert all(length[edge] == length[backward(edge)] for edge in edges)


def test_the_shortest_vectors_of_each_class(crystals: list[Crystal]) -> None:
    coefficients = np.array(list(itertools.product(range(-6, 7), repeat=3)))
    for crystal in crystals:
        lattice = crystal.lattice
        vectors = voronoi_vectors(lattice)
        assert len({tuple(v % 2) for v in vectors}) == 7
        every = np.linalg.norm(coefficients @ lattice, axis=1)
        for vector in vectors:
            alike = ((coefficients - vector) % 2 == 0).all(axis=1)
            length = np.linalg.norm(vector @ lattice)
            assert length <= every[alike].min() + 1e-9
            if np.abs(vector).max() <= 6:
                assert length == pytest.approx(every[alike].min(), rel=1e-12)


def test_a_supercell_is_known_for_one() -> None:
    rng = np.random.default_rng(0)
    for crystal in small(8, 8):
        numbers = crystal.atomic_numbers
        alone = abs(np.linalg.det(primitive_cell(crystal.lattice, crystal.frac_coords, numbers, 1e-3)))
        for repeats in ((2, 1, 3), (1, 2, 2)):
            large = in_another_cell(supercell(crystal, repeats), rng)
            cell = primitive_cell(large.lattice, large.frac_coords, large.atomic_numbers, 1e-3)
            copies = np.prod(repeats)
            assert abs(np.linalg.det(cell)) == pytest.approx(alone / copies, rel=1e-9)
            of = first_copies(large.lattice, large.frac_coords, large.atomic_numbers, 1e-3)
            assert len(np.unique(of)) == round(alone * len(numbers))
            assert (np.bincount(of)[np.unique(of)] == copies / alone).all()


def test_edges_along_lattice_vectors() -> None:
    rng = np.random.default_rng(1)
    without = GraphSpec(reverse_edges="add")
    ours, published = (GraphSpec(reverse_edges="add", lattice_edges=how) for how in ("primitive", "cell"))
    for crystal in small(8, 8):
        plain = Counter(batch_of([crystal], without).distance.tolist())
        atoms = len(crystal.atomic_numbers)
        added = Counter(batch_of([crystal], published).distance.tolist()) - plain
        lengths = np.linalg.norm(PUBLISHED @ crystal.lattice, axis=1)
        assert sorted(added.elements()) == pytest.approx(np.sort(np.tile(lengths, 2 * atoms)), abs=1e-6)
        added = Counter(batch_of([crystal], ours).distance.tolist()) - plain
        assert added.total() == 14 * atoms
        large = in_another_cell(supercell(crystal, (2, 1, 2)), rng)
        large_plain = Counter(batch_of([large], without).distance.tolist())
        of_large = Counter(batch_of([large], ours).distance.tolist()) - large_plain
        assert sorted(of_large.elements()) == pytest.approx(np.repeat(sorted(added.elements()), 4), abs=3e-6)


def test_pairs_of_bonds_and_their_angles(crystals: list[Crystal]) -> None:
    """Loops over coordinates: for the bond from j to i, each bond that ends at j, and the angle at j."""
    for crystal in crystals[::4]:
        batch = batch_of([crystal], default("alignn").graph)
        line = LineGraph.of(batch)
        neighbor, center = batch.edge_index.tolist()
        found = Counter(zip(line.source.tolist(), line.target.tolist(), strict=True))
        expected = Counter((k, e) for e in range(len(center)) for k in range(len(center)) if center[k] == neighbor[e])
        assert found == expected
        vector, cosines = batch.vector.double().numpy(), line.steps * ANGLE_RESOLUTION
        for source, target, cosine in zip(line.source[::37], line.target[::37], cosines[::37], strict=True):
            to_k, to_i = vector[source], -vector[target]
            exact = to_k @ to_i / np.linalg.norm(to_k) / np.linalg.norm(to_i)
            assert cosine == pytest.approx(exact, abs=ANGLE_RESOLUTION)
        way_back = cosines[(cosines - 1).abs() < 1e-5]
        assert len(way_back) >= len(center), "each bond continues into its reverse"


def test_vectors_are_as_long_as_distances(crystals: list[Crystal]) -> None:
    batch = batch_of(crystals, default("alignn").graph)
    assert torch.allclose(batch.vector.norm(dim=1), batch.distance, atol=2e-6)


def test_a_batch_of_all_kinds_falls_apart_into_its_crystals() -> None:
    spec = GraphSpec(reverse_edges="add", directions=True, potentials="exact")
    crystals = small(6, 4)
    for part, crystal in zip(batch_of(crystals, spec).to_data_list(), crystals, strict=True):
        alone = batch_of([crystal], spec)
        for name in ("edge_index", "vector", "pair_index", "potential"):
            assert torch.equal(part[name], alone[name]), name
