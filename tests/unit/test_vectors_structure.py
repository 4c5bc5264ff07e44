"""Structure vectors: counts by hand and against loops, invariances, exact sums, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from crysatom.config import FeaturizeConfig, GraphSpec, Limits, VectorsConfig
from crysatom.crystals.table import Crystal, to_table
from crysatom.graphs.cell_volumes import cell_volumes
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shard_task import make_graphs
from crysatom.graphs.shards import shard_files
from crysatom.names import SYMBOLS
from crysatom.pipelines.structure import learned_from_structures
from crysatom.vectors.structure.axes import principal_axes
from crysatom.vectors.structure.contexts import COLORS, KINDS, Classes, full_contexts, site_colors
from crysatom.vectors.structure.expanded import expansion
from crysatom.vectors.structure.geometry import bond_fit, coordination_histogram, volume_fit
from crysatom.vectors.structure.keyed import Keyed, fixed, hashed, real
from crysatom.vectors.structure.learn import elements_of, joined, learn, rotated_onto
from crysatom.vectors.structure.sites import sites
from crysatom.vectors.structure.substitution import positive_information, shared_contexts
from crysatom.vectors.structure.tally import ELEMENTS, GROUPS, Tally, tally, tally_file
from crysatom.vectors.table import centered_cosine
from tests.graph_crystals import (
    in_another_cell,
    prototypes,
    reordered,
    rotated,
    small,
    supercell,
    translated,
    unwrapped,
    with_lattice,
    write_table,
)

TOLERANCE = 0.15
BOTH = ("substitution", "geometry")


def number(symbol: str) -> int:
    return SYMBOLS.index(symbol) + 1


def rocksalt(cation: str, anion: str, length: float) -> Crystal:
    face = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Crystal(
        material_id=cation + anion,
        lattice=length * np.eye(3),
        frac_coords=np.concatenate([face, face + np.array([0.5, 0, 0])]),
        atomic_numbers=np.repeat([number(cation), number(anion)], 4),
    )


def counted(crystals: list[Crystal]) -> Tally:
    batch = to_table(crystals).combine_chunks().to_batches()[0]
    verdicts, graphs = make_graphs(batch, GraphSpec(), Limits())
    assert not verdicts.reasons
    return tally(graphs, np.array([abs(np.linalg.det(c.lattice)) for c in crystals]), TOLERANCE, GraphSpec.cutoff)


@pytest.fixture(scope="module", name="crystals")
def _crystals() -> list[Crystal]:
    return small(12, 80)


@pytest.fixture(scope="module", name="counts")
def _counts(crystals: list[Crystal]) -> Tally:
    return counted(crystals)


def same(one: Tally, other: Tally) -> bool:
    tables = all(
        np.array_equal(getattr(getattr(one, name), part), getattr(getattr(other, name), part))
        for name in ("contexts", "bonds", "coordination", "compounds")
        for part in ("hashes", "labels", "sums")
    )
    return tables and np.array_equal(one.sites, other.sites) and np.array_equal(one.crystals_of, other.crystals_of)


def test_contexts_of_two_salts_are_those_by_hand() -> None:
    na, cl, k = (number(symbol) for symbol in ("Na", "Cl", "K"))
    found = dict(
        zip((*KINDS, "formula"), shared_contexts(counted([rocksalt("Na", "Cl", 5.64), rocksalt("K", "Cl", 6.29)])),
            strict=True)
    )  # fmt: skip
    replacing = np.zeros((ELEMENTS, ELEMENTS))
    replacing[np.ix_([na, k], [na, k])] = 1 / 2  # Na and K replace each other in MCl; nothing replaces Cl
    for name in ("distance_full", "coordination_full", "formula"):
        np.testing.assert_allclose(found[name], replacing, atol=1e-15)
    weights = np.zeros(ELEMENTS)
    weights[[na, cl, k]] = np.log1p([1, 2, 1])  # each has half of the sites of rocksalt; Cl in two crystals
    for name in ("distance_prototype", "coordination_prototype"):
        np.testing.assert_allclose(found[name], np.outer(weights, weights) / weights.sum(), atol=1e-15)


def test_a_context_says_where_the_element_was() -> None:
    """Oxygen at color 1 beside another element at color 2, at color 3, and again at color 2."""
    classes = Classes(
        crystal=np.repeat([0, 1, 2], 2),
        color=np.array([1, 2, 1, 3, 1, 2], np.uint64),
        element=np.array([8, 11, 8, 19, 8, 37]),
        count=np.ones(6, np.int64),
    )
    sodium, potassium, rubidium = full_contexts(classes, np.arange(6), classes.crystal, 3)[1::2]
    assert sodium == rubidium != potassium


def test_a_color_holds_the_shells_of_the_neighbors() -> None:
    """Sodium in rocksalt and titanium in rutile have six bonds, to sites with six and with three."""
    u = 0.305
    rutile = Crystal(
        material_id="TiO2",
        lattice=np.diag([4.594, 4.594, 2.959]),
        frac_coords=np.array(
            [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [-u, -u, 0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
        ),
        atomic_numbers=np.array([22, 22, 8, 8, 8, 8]),
    )
    crystals = [rocksalt("Na", "Cl", 5.64), rutile]
    volumes = np.array([abs(np.linalg.det(c.lattice)) for c in crystals])
    graphs = make_graphs(to_table(crystals).combine_chunks().to_batches()[0], GraphSpec(), Limits())[1]
    found = sites(graphs, volumes, TOLERANCE, GraphSpec.cutoff)
    assert found.coordination.tolist() == [6] * 8 + [6, 6, 3, 3, 3, 3]
    for kind in COLORS:
        color = site_colors(found, kind)
        assert len(set(color[:8].tolist())) == 1
        assert color[8] == color[9] != color[0]


def test_elements_that_replace_each_other_are_alike() -> None:
    salts = {("Na", "Cl"): 5.64, ("K", "Cl"): 6.29, ("Na", "Br"): 5.97, ("K", "Br"): 6.6, ("Mg", "O"): 4.21}
    found = learn(counted([rocksalt(*ions, length) for ions, length in salts.items()]), ["substitution"])
    symbols = [SYMBOLS[z - 1] for z in found.atomic_numbers]
    cosine = centered_cosine(found.vectors) - 9 * np.eye(len(symbols))
    nearest = {symbol: symbols[row.argmax()] for symbol, row in zip(symbols, cosine, strict=True)}
    assert {symbol: nearest[symbol] for symbol in ("Na", "K", "Cl", "Br")} == {
        "Na": "K", "K": "Na", "Cl": "Br", "Br": "Cl"
    }  # fmt: skip


DESCRIPTIONS = {
    "supercell": lambda crystal, _: supercell(crystal, (2, 1, 1)),
    "rotated": rotated,
    "translated": translated,
    "unwrapped": unwrapped,
    "other cell": in_another_cell,
    "reordered": lambda crystal, rng: reordered(crystal, rng.permutation(len(crystal.atomic_numbers))),
}


@pytest.mark.parametrize("how", DESCRIPTIONS)
def test_vectors_do_not_depend_on_the_description_of_a_crystal(
    how: str, crystals: list[Crystal], counts: Tally
) -> None:
    rng = np.random.default_rng(0)
    other = counted([DESCRIPTIONS[how](crystal, rng) for crystal in crystals])
    for part in ("hashes", "labels", "sums"):
        assert np.array_equal(getattr(other.contexts, part), getattr(counts.contexts, part)), part
    assert np.array_equal(other.bonds.labels, counts.bonds.labels)
    assert np.abs(other.bonds.sums - counts.bonds.sums).max() < 2**32 * 1e-6
    first, second = (learn(each, BOTH) for each in (counts, other))
    np.testing.assert_allclose(second.vectors @ second.vectors.T, first.vectors @ first.vectors.T, atol=1e-6)
    np.testing.assert_allclose(centered_cosine(second.vectors), centered_cosine(first.vectors), atol=1e-6)


def test_the_order_of_crystals_and_parts_changes_no_bit(crystals: list[Crystal], counts: Tally) -> None:
    parts = [counted(crystals[k::3]) for k in range(3)]
    for order in itertools.permutations(parts):
        assert same(Tally.total(Tally.from_bytes(part.to_bytes()) for part in order), counts)
    assert same(counted(crystals[::-1]), counts)
    again = Tally.total([*parts, Tally.empty()])
    assert np.array_equal(learn(again, BOTH).vectors, learn(counts, BOTH).vectors)
    assert counts.crystals == len(crystals)
    assert counts.sites.sum() == sum(len(crystal.atomic_numbers) for crystal in crystals)


def test_a_crystal_counted_twice_weighs_twice_where_presence_does_not_decide(
    crystals: list[Crystal], counts: Tally
) -> None:
    twice = Tally.total([counts, counts])
    for before, after in zip(shared_contexts(counts), shared_contexts(twice), strict=True):
        assert ((before > 0) == (after > 0)).all()
    full, prototype = KINDS.index("distance_full"), KINDS.index("distance_prototype")
    assert np.array_equal(shared_contexts(twice)[full], shared_contexts(counts)[full])
    assert shared_contexts(twice)[prototype].sum() > shared_contexts(counts)[prototype].sum()
    assert np.array_equal(twice.bonds.sums, 2 * counts.bonds.sums)
    assert len(crystals) * 2 == twice.crystals


def test_bonds_are_fitted_as_by_a_loop(crystals: list[Crystal], counts: Tally) -> None:
    rows, target, weight = [], [], []
    for crystal in crystals:
        batch = to_table([crystal]).combine_chunks().to_batches()[0]
        graph = make_graphs(batch, GraphSpec(), Limits())[1]
        degree, neighbor = (np.array(graph[name][0].as_py()) for name in ("degree", "neighbor"))
        distance = np.array(graph["distance"][0].as_py())
        center = np.repeat(np.arange(len(degree)), degree)
        bonded = np.array(
            [d <= (1 + TOLERANCE) * distance[center == i].min() for i, d in zip(center, distance, strict=True)]
        )
        bonds = [min(int(bonded[center == i].sum()), 12) for i in range(len(degree))]
        for i, j, d in zip(center[bonded], neighbor[bonded], distance[bonded], strict=True):
            row = np.zeros(ELEMENTS + 13)
            for site in (i, j):
                row[crystal.atomic_numbers[site]] += 1
                row[ELEMENTS + bonds[site]] += 1
            rows.append(row)
            target.append(np.log(d))
            weight.append(1 / (bonded[center == i].sum() * len(degree)))
    X, y, w = np.array(rows), np.array(target), np.array(weight)
    y -= np.average(y, weights=w)
    effect = np.linalg.solve(X.T @ (w[:, None] * X) + np.eye(X.shape[1]), X.T @ (w * y))
    found = bond_fit(counts.bonds)
    np.testing.assert_allclose(found.coefficient, effect[:ELEMENTS], atol=1e-7)
    residual = y - X @ effect
    assert found.explained == pytest.approx(1 - (w * residual**2).sum() / (w * y**2).sum(), abs=1e-6)
    pair = np.argsort(-X[:, :ELEMENTS], axis=1, kind="stable")[:, :2]  # of a bond between equal elements, one is wrong
    i, j = number("Na"), number("Cl")
    chosen = (np.sort(pair, axis=1) == [i, j]).all(axis=1)
    shrunk = (w * residual)[chosen].sum() / (w[chosen].sum() + 5)
    assert chosen.any()
    assert found.pairs[i, j] == pytest.approx(shrunk, abs=1e-7)
    np.testing.assert_allclose(found.pairs, found.pairs.T)


def test_volumes_are_fitted_as_by_a_loop(crystals: list[Crystal], counts: Tally) -> None:
    fractions = np.array([np.bincount(c.atomic_numbers, minlength=ELEMENTS) / len(c.atomic_numbers) for c in crystals])
    y = np.log([abs(np.linalg.det(c.lattice)) / len(c.atomic_numbers) for c in crystals])
    y -= y.mean()
    effect = np.linalg.solve(fractions.T @ fractions + 0.3 * np.eye(ELEMENTS), fractions.T @ y)
    found = volume_fit(counts.compounds)
    np.testing.assert_allclose(found.coefficient, effect, atol=1e-8)
    pairs = list(itertools.combinations(range(ELEMENTS), 2))
    few = (fractions > 0).sum(axis=1) <= 6
    X = np.array([fractions[:, i] * fractions[:, j] * few for i, j in pairs]).T
    used = X.any(axis=0)
    residual = y - fractions @ effect
    further = np.linalg.solve(X[:, used].T @ X[:, used] + 0.5 * np.eye(used.sum()), X[:, used].T @ residual)
    expected = np.zeros((ELEMENTS, ELEMENTS))
    for (i, j), value in zip(itertools.compress(pairs, used), further, strict=True):
        expected[i, j] = expected[j, i] = value
    np.testing.assert_allclose(found.pairs, expected, atol=1e-8)


def test_coordination_numbers_of_rocksalt() -> None:
    histogram = coordination_histogram(counted([rocksalt("Na", "Cl", 5.64)]).coordination)
    assert histogram[number("Na")].argmax() == 6
    np.testing.assert_allclose(histogram.sum(axis=1), 1)


def test_information_is_the_formula() -> None:
    shared = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    s = shared.sum(axis=1)
    q = s**0.75 / (s**0.75).sum()
    value = [
        [np.log((shared[i, j] + 0.05 * s[i] * s[j] / s.sum()) / (s[i] * q[j])) for j in range(2)] for i in range(2)
    ]
    expected = np.zeros((3, 3))
    expected[:2, :2] = np.maximum(0, (np.array(value) + np.transpose(value)) / 2)
    np.testing.assert_allclose(positive_information(shared), expected)


def test_an_expanded_crystal_is_found() -> None:
    crystals = prototypes()
    wide = with_lattice(crystals[5], 2 * crystals[5].lattice, crystals[5].frac_coords)
    both = [*crystals, wide]
    sizes = [len(c.atomic_numbers) for c in both]
    volume = np.array([abs(np.linalg.det(c.lattice)) for c in both]) / sizes
    found = expansion(volume, np.concatenate([[0], np.cumsum(sizes)]), np.concatenate([c.atomic_numbers for c in both]))
    assert found[-1] > 2.5
    assert (found[:-1] > 2.5).sum() == 0
    assert np.median(found) == pytest.approx(1, abs=0.05)


def test_volumes_belong_to_the_rows_that_were_accepted(tmp_path: Path) -> None:
    crystals = small(10, 30)
    close = with_lattice(crystals[3], 0.05 * crystals[3].lattice, crystals[3].frac_coords)
    write_table(tmp_path / "crystals.parquet", [close, *crystals, crystals[7]])  # one too dense, one a second time
    config = FeaturizeConfig.of(data=str(tmp_path / "crystals.parquet"), out=str(tmp_path / "graphs"))
    featurize_plain(config.replace(crystals_per_shard=9))
    parts = cell_volumes(tmp_path / "graphs", tmp_path / "crystals.parquet")
    assert len(parts) == len(shard_files(tmp_path / "graphs")) == 4
    np.testing.assert_allclose(np.concatenate(parts), [abs(np.linalg.det(c.lattice)) for c in crystals])
    total = Tally.total(
        tally_file(file, part, TOLERANCE, GraphSpec.cutoff)
        for file, part in zip(shard_files(tmp_path / "graphs"), parts, strict=True)
    )
    assert same(total, counted(crystals))
    write_table(tmp_path / "other.parquet", crystals)
    with pytest.raises(ValueError, match=r"other\.parquet without those of quarantine"):
        cell_volumes(tmp_path / "graphs", tmp_path / "other.parquet")


def test_standard_errors_are_those_of_a_jackknife(counts: Tally) -> None:
    found = learn(counts, BOTH)
    assert found.standard_errors.shape == found.vectors.shape
    alone = np.isnan(found.standard_errors).all(axis=1)
    groups = counts.compounds.labels % GROUPS
    element = counts.compounds.labels // (GROUPS * 2**16)
    in_one = [len(set(groups[element == z])) == 1 for z in found.atomic_numbers]
    assert alone.tolist() == in_one
    assert np.isfinite(found.standard_errors[~alone]).all()
    assert 0 < np.median(found.standard_errors[~alone]) < np.abs(found.vectors).max()


def test_axes_are_rotated_onto_others() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 5))
    turned = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    np.testing.assert_allclose(rotated_onto(rows @ turned, rows), rows, atol=1e-12)
    axes = principal_axes(rows)
    np.testing.assert_allclose(axes @ axes.T, rows @ rows.T, atol=1e-12)
    assert (np.diff(np.linalg.norm(axes, axis=0)) < 0).all()
    assert (axes[np.abs(axes).argmax(axis=0), range(5)] > 0).all()


def test_blocks_weigh_the_same(counts: Tally) -> None:
    numbers = elements_of(counts)
    parts = [joined(counts, numbers, [block]) for block in BOTH]
    for part in parts:
        np.testing.assert_allclose(part.mean(axis=0), 0, atol=1e-12)
        assert np.square(part).sum(axis=1).mean() == pytest.approx(1)
    np.testing.assert_array_equal(joined(counts, numbers, BOTH), np.concatenate(parts, axis=1))


def test_real_sums_are_integers_and_hashes_depend_on_the_order_of_columns() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 1000)
    assert real(fixed(values)) == pytest.approx(values, abs=2e-10)
    table = Keyed.of(0, np.array([3, 1, 3]), np.array([[1], [2], [4]]))
    assert (table.labels.tolist(), table.sums.tolist()) == ([1, 3], [[2], [5]])
    assert hashed(1, np.array([2])) != hashed(2, np.array([1]))
    assert len(np.unique(hashed(np.arange(100)[:, None], np.arange(100)))) == 10_000


def test_atoms_out_of_reach_of_all_others_have_volumes() -> None:
    far = [
        Crystal(
            material_id="".join(pair),
            lattice=length * np.eye(3),
            frac_coords=np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
            atomic_numbers=np.array([number(symbol) for symbol in pair]),
        )
        for pair, length in ((("Ne", "Ar"), 30.0), (("Kr", "Xe"), 40.0))
    ]
    counts = counted(far)
    assert not len(counts.bonds.labels)
    found = learn(counts, BOTH)
    assert [SYMBOLS[z - 1] for z in found.atomic_numbers] == ["Ne", "Ar", "Kr", "Xe"]
    assert np.isfinite(found.vectors).all()


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="blocks must be one or both of substitution, geometry, got none"):
        VectorsConfig.of(method="structure", blocks=())
    with pytest.raises(ValueError, match=r"max_expansion must be 0 or larger than 1, got 0\.5"):
        VectorsConfig.of(method="structure", max_expansion=0.5)
    pure = next(c for c in prototypes() if len(set(c.atomic_numbers.tolist())) == 1)
    with pytest.raises(ValueError, match="nothing distinguishes the 0 elements"):
        learn(counted([pure]), ["substitution"])
    with pytest.raises(ValueError, match="nothing distinguishes the 1 elements"):
        learn(counted([pure]), BOTH)
    write_table(tmp_path / "crystals.parquet", small(10, 30))
    shards = tmp_path / "graphs"
    featurize_plain(FeaturizeConfig.of(data=str(tmp_path / "crystals.parquet"), out=str(shards)))
    config = VectorsConfig.of(method="structure", data=str(shards), dim=999, num_workers=0)
    with pytest.raises(ValueError, match=r"substitution and geometry give [0-9]+ dimensions; --dim 999 is more"):
        learned_from_structures(config, shards)
    counts, vectors, facts = learned_from_structures(config.replace(dim=7), shards)
    assert (vectors.dim, facts["left_out"], counts.crystals) == (7, 0, facts["crystals"])
    (tmp_path / "crystals.parquet").unlink()
    with pytest.raises(ValueError, match="name the table itself as --data"):
        learned_from_structures(config, shards)
