"""SkipAtom and Atom2Vec: counts against loops over real crystals, factorizations against known results."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import reduce
from math import gcd

import numpy as np
import pyarrow as pa
import pytest
import torch

from crysatom.config import GraphSpec, Limits, VectorsConfig
from crysatom.crystals.table import to_table
from crysatom.graphs.shard_task import make_graphs
from crysatom.names import SYMBOLS
from crysatom.pipelines.vectors import learned
from crysatom.vectors.atom2vec import decompose
from crysatom.vectors.counts import Counts, count, environments
from crysatom.vectors.skipatom import cross_entropy, factorize, induced
from tests.graph_crystals import Crystal, small, supercell

TOLERANCE = 0.15


@pytest.fixture(scope="module", name="crystals")
def _crystals() -> list[Crystal]:
    chosen = small(10, 40)
    return [*chosen, supercell(chosen[0], (2, 1, 1)), chosen[3]]


def graphs_of(crystals: list[Crystal], spec: GraphSpec | None = None) -> pa.RecordBatch:
    batch = to_table(crystals).combine_chunks().to_batches()[0]
    return make_graphs(batch, spec or GraphSpec(), Limits())[1]


@pytest.fixture(scope="module", name="counts")
def _counts(crystals: list[Crystal]) -> Counts:
    return count(graphs_of(crystals), TOLERANCE, GraphSpec.cutoff)


def test_pairs_are_those_of_a_loop_over_coordinates(crystals: list[Crystal], counts: Counts) -> None:
    expected = np.zeros((118, 118), dtype=int)
    for crystal in crystals:
        numbers = crystal.atomic_numbers
        images = np.array(list(itertools.product(range(-3, 4), repeat=3)))
        apart = (crystal.frac_coords[:, None] - crystal.frac_coords)[:, :, None] + images
        distance = np.linalg.norm(apart @ crystal.lattice, axis=-1)
        distance[distance < 1e-6] = np.inf
        ordered = np.sort(distance.reshape(len(numbers), -1), axis=1)
        reach = np.minimum((1 + TOLERANCE) * ordered[:, 0], ordered[:, 11] + GraphSpec.tie_tolerance)  # twelve nearest
        bonded = (distance <= reach[:, None, None]).any(axis=2)
        for i, j in zip(*np.nonzero(bonded | bonded.T), strict=True):
            expected[numbers[i] - 1, numbers[j] - 1] += 1
    assert np.array_equal(counts.pairs, expected)
    assert expected.sum() > 400


def test_sites_crystals_and_compounds_are_those_of_a_loop(crystals: list[Crystal], counts: Counts) -> None:
    sites = Counter(int(z) for crystal in crystals for z in crystal.atomic_numbers)
    holding = Counter(z for crystal in crystals for z in {int(z) for z in crystal.atomic_numbers})
    assert {z + 1: int(n) for z, n in enumerate(counts.sites) if n} == sites
    assert {z + 1: int(n) for z, n in enumerate(counts.crystals_of) if n} == holding
    assert counts.crystals == len(crystals)
    compounds = set()
    for crystal in crystals:
        of = Counter(int(z) for z in crystal.atomic_numbers)
        divisor = reduce(gcd, of.values())
        compounds.add(tuple(sorted((z, n // divisor) for z, n in of.items())))
    found = [tuple((int(z) + 1, int(row[z])) for z in np.flatnonzero(row)) for row in counts.compounds]
    assert set(found) == compounds
    assert len(found) == len(compounds) < len(crystals), "a supercell and a repeated crystal are no new compounds"


def test_counts_of_parts_add_up(crystals: list[Crystal], counts: Counts) -> None:
    parts = Counts.total(count(graphs_of(some), TOLERANCE, GraphSpec.cutoff) for some in (crystals[7:], crystals[:7]))
    for name in ("crystals", "sites", "crystals_of", "pairs", "compounds"):
        assert np.array_equal(getattr(parts, name), getattr(counts, name)), name


@pytest.mark.parametrize("pad", [False, True])
def test_an_atom_out_of_reach_of_all_others_is_bonded_to_nothing(pad: bool) -> None:
    """Padding of its short list points at the crystal's first atom."""
    places = np.array([[0, 0, 0], [0.09, 0, 0], [0.5, 0.5, 0.5]])
    crystal = Crystal(
        material_id="far", lattice=30 * np.eye(3), frac_coords=places, atomic_numbers=np.array([11, 17, 10])
    )
    found = count(graphs_of([crystal], GraphSpec(pad_short_lists=pad)), TOLERANCE, GraphSpec.cutoff)
    assert np.argwhere(found.pairs).tolist() == [[10, 16], [16, 10]]
    vectors, _ = learned(VectorsConfig.of(steps=5), found)
    assert vectors.symbols == ("Na", "Cl")
    assert learned(VectorsConfig.of(method="atom2vec"), found)[0].symbols == ("Ne", "Na", "Cl")


def compounds_of(*formulas: dict[str, int]) -> np.ndarray:
    rows = np.zeros((len(formulas), 118), np.uint16)
    for row, formula in zip(rows, formulas, strict=True):
        for symbol, number in formula.items():
            row[SYMBOLS.index(symbol)] = number
    return rows


def test_elements_with_the_same_environments_are_the_same_to_atom2vec() -> None:
    """Bi and Sb occur in (2)Se3 and (2)Te3; Se and Te in Bi2(3) and Sb2(3); Na in another environment."""
    compounds = compounds_of(
        {"Bi": 2, "Se": 3}, {"Sb": 2, "Se": 3}, {"Bi": 2, "Te": 3}, {"Sb": 2, "Te": 3}, {"Na": 1, "Cl": 1}
    )  # fmt: skip
    element, environment, number = environments(compounds)
    assert (len(element), number) == (10, 6)
    assert len(set(zip(element.tolist(), environment.tolist(), strict=True))) == 10
    numbers, vectors = decompose(compounds)
    row = {SYMBOLS[z - 1]: vectors[k] for k, z in enumerate(numbers)}
    assert np.allclose(row["Bi"], row["Sb"])
    assert np.allclose(row["Se"], row["Te"])
    inner = np.array([[row[a] @ row[b] for b in ("Bi", "Se", "Na", "Cl")] for a in ("Bi", "Se", "Na", "Cl")])
    assert np.allclose(inner, np.eye(4)), "of unit length, and at right angles where nothing is shared"
    lengths = np.linalg.norm(vectors, axis=0)
    assert (np.diff(lengths) < 1e-9).all(), "the largest component first"


def test_two_of_an_element_are_another_environment_than_three() -> None:
    element, _, number = environments(compounds_of({"Fe": 2, "O": 3}, {"Fe": 3, "O": 3}))
    assert (len(element), number) == (4, 4)


def test_a_factorization_learns_the_neighbors_of_each_element() -> None:
    generator = np.random.default_rng(0)
    pairs = generator.integers(1, 200, (6, 6))
    pairs += pairs.T
    given = pairs / pairs.sum(1, keepdims=True)
    entropy = -(pairs / pairs.sum() * np.log(given)).sum()
    found = factorize(pairs, 8, steps=2000, lr=0.01, seed=0)
    assert found.entropy == pytest.approx(entropy, rel=1e-12)
    assert entropy * (1 - 1e-12) < found.loss < entropy + 1e-6, "the least that is possible, up to rounding"
    assert factorize(pairs, 8, steps=30, lr=0.01, seed=0).loss > found.loss
    again, other = (factorize(pairs, 8, steps=30, lr=0.01, seed=seed) for seed in (0, 1))
    assert np.array_equal(again.vectors, factorize(pairs, 8, steps=30, lr=0.01, seed=0).vectors)
    assert not np.allclose(again.vectors, other.vectors)


def test_batches_drawn_from_the_counts_learn_the_same_neighbors_up_to_their_noise() -> None:
    generator = np.random.default_rng(0)
    pairs = generator.integers(1, 200, (6, 6)) * (1 - np.eye(6, dtype=int))  # no element is bonded to itself
    few, again, other = (factorize(pairs, 8, steps=50, lr=0.003, seed=seed, batch_size=1024) for seed in (0, 0, 1))
    assert np.array_equal(few.vectors, again.vectors)
    assert not np.allclose(few.vectors, other.vectors)
    drawn = factorize(pairs, 8, steps=2000, lr=0.003, seed=0, batch_size=1024)
    exact = factorize(pairs, 8, steps=2000, lr=0.003, seed=0)
    assert exact.loss < drawn.loss < exact.loss + 0.02
    assert drawn.entropy == exact.entropy


def test_the_loss_is_the_mean_over_pairs_of_the_published_network() -> None:
    generator = np.random.default_rng(1)
    pairs = generator.integers(0, 5, (4, 4))
    pairs += pairs.T
    vectors, weights, bias, shift = (torch.from_numpy(generator.normal(size=s)) for s in ((4, 3), (3, 4), 3, 4))
    places = np.repeat(np.argwhere(pairs >= 0), pairs.ravel(), axis=0)
    one_hot = torch.eye(4, dtype=torch.float64)[places[:, 0]]
    logits = (one_hot @ vectors + bias) @ weights + shift
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(places[:, 1]))
    share = torch.from_numpy(pairs / pairs.sum())
    torch.testing.assert_close(cross_entropy(share, vectors, weights, bias, shift), expected)


def test_rare_elements_lean_on_those_like_them() -> None:
    numbers = np.array([SYMBOLS.index(s) + 1 for s in ("Na", "Cl", "Ar", "K", "Br", "Rb")])
    vectors = np.eye(6)
    rare = np.array([False, False, True, False, False, True])  # argon has no electronegativity
    found = induced(vectors, numbers, rare, nearest=2)
    kept = [0, 1, 2, 3, 4]
    assert np.array_equal(found[kept], vectors[kept])
    expected = np.eye(6)[5] + (np.eye(6)[3] + np.exp(-1) * np.eye(6)[0]) / 2
    assert np.allclose(found[5], expected), "rubidium on potassium, then on sodium"


def test_what_cannot_be_learned_is_refused(counts: Counts) -> None:
    with pytest.raises(ValueError, match="aflow:prototypes holds no crystal with a graph"):
        learned(VectorsConfig.of(method="atom2vec"), Counts.total([]))
    iron = Counts(**{**vars(Counts.total([])), "crystals": 1, "compounds": compounds_of({"Fe": 1})})
    with pytest.raises(ValueError, match="holds 1 elements, which atom2vec gives at most as many dimensions"):
        learned(VectorsConfig.of(method="atom2vec", dim=2), iron)
    with pytest.raises(ValueError, match="no two atoms of aflow:prototypes are bonded within 8 angstrom"):
        learned(VectorsConfig.of(), Counts(**{**vars(counts), "pairs": np.zeros_like(counts.pairs)}))
    with pytest.raises(ValueError, match="onehot vectors have 118 dimensions"):
        VectorsConfig.of(method="onehot", dim=5)
    with pytest.raises(ValueError, match="bond_tolerance must lie between 0 and 1, got 15"):
        VectorsConfig.of(bond_tolerance=15)
