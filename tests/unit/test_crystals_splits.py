"""Splits: disjoint, independent of order, equal to official ones, and free of twins on request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from crysatom.crystals import splits
from crysatom.crystals.splits import PARTS, Split
from crysatom.crystals.table import Crystal, read_table, to_table
from crysatom.crystals.targets import targets_for

IDS = np.array([f"m-{i}" for i in range(2000)], dtype=object)


def crystal(material_id: str, atoms: list[int], *, length: float = 4.0, **properties: object) -> Crystal:
    return Crystal(
        material_id=material_id,
        lattice=length * np.eye(3),
        frac_coords=np.arange(3 * len(atoms)).reshape(-1, 3) / (3 * len(atoms)),
        atomic_numbers=np.array(atoms, dtype=np.uint8),
        properties=properties,
    )


def made_table() -> pa.Table:
    """2,000 crystals of about 300 formulas; multiples of a formula occur."""
    generator = np.random.default_rng(0)
    return to_table(
        [
            crystal(name, generator.integers(3, 28, size=2).tolist() * int(generator.integers(1, 3)))
            for name in IDS.tolist()
        ]
    )


def random_split(ids: np.ndarray, seed: int) -> Split:
    return splits.random(ids, seed=seed)


def composition_split(ids: np.ndarray, seed: int) -> Split:
    return splits.grouped_by_composition(TABLE, ids, seed=seed)


def element_split(ids: np.ndarray, seed: int) -> Split:
    return splits.held_out_elements(TABLE, ids, ["Fe", "Na"], seed=seed)


TABLE = made_table()
MAKERS = [random_split, composition_split, element_split]


@pytest.mark.parametrize("make", MAKERS)
def test_every_crystal_is_in_one_part(make: Callable[[np.ndarray, int], Split]) -> None:
    split = make(IDS, 0)
    together = np.concatenate([split.train, split.val, split.test])
    assert sorted(together.tolist()) == list(range(len(IDS)))


@pytest.mark.parametrize("make", MAKERS)
def test_order_of_crystals_does_not_matter(make: Callable[[np.ndarray, int], Split]) -> None:
    shuffled = np.random.default_rng(1).permutation(IDS)
    split, other = make(IDS, 3), make(shuffled, 3)
    assert split.digest() == other.digest()
    for part in PARTS:
        assert set(split.ids(part)) == set(other.ids(part))


@pytest.mark.parametrize("make", MAKERS)
def test_other_crystals_do_not_matter(make: Callable[[np.ndarray, int], Split]) -> None:
    """A crystal stays in its part when the table grows."""
    split, grown = make(IDS[:700], 3), make(IDS, 3)
    for part in PARTS:
        assert set(split.ids(part)) <= set(grown.ids(part))


@pytest.mark.parametrize("make", MAKERS)
def test_seeds_differ(make: Callable[[np.ndarray, int], Split]) -> None:
    assert make(IDS, 0).digest() != make(IDS, 1).digest()


def test_random_meets_its_fractions() -> None:
    """Within four standard deviations of a binomial."""
    for fractions in ((0.8, 0.1, 0.1), (0.5, 0.0, 0.5), (1.0, 0.0, 0.0)):
        split = splits.random(IDS, fractions=fractions)
        for part, fraction in zip(PARTS, fractions, strict=True):
            expected, deviation = fraction * len(IDS), (fraction * (1 - fraction) * len(IDS)) ** 0.5
            assert abs(len(getattr(split, part)) - expected) <= 4 * deviation


def test_no_formula_is_in_two_parts() -> None:
    split = composition_split(IDS, 0)
    formulas = np.array(TABLE["formula"].to_pylist())
    parts = [set(formulas[getattr(split, part)]) for part in PARTS]
    assert min(map(len, parts)) > 10
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_formula_column_is_not_believed() -> None:
    """The atoms decide: Na Cl and Na2 Cl2 are the same composition, whatever the column says."""
    made = [crystal(f"c{i}", [11, 17] * (1 + i % 2)) for i in range(50)] + [
        crystal(f"k{i}", [19, i]) for i in range(20, 90)
    ]
    table = to_table(made)
    table = table.set_column(4, "formula", pa.array([f"name {i}" for i in range(len(made))]))
    split = splits.grouped_by_composition(table, [c.material_id for c in made])
    assert sum(any(i < 50 for i in getattr(split, part).tolist()) for part in PARTS) == 1


def test_held_out_elements_are_in_the_test_set_alone() -> None:
    split = element_split(IDS, 0)
    has = np.array([bool({26, 11} & set(z)) for z in TABLE["atomic_numbers"].to_pylist()])
    assert split.test.tolist() == np.flatnonzero(has).tolist()
    assert 0.05 < len(split.val) / (len(split.val) + len(split.train)) < 0.15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: splits.held_out_elements(TABLE, IDS, ["Fe", "Xx"]), "must be symbols such as Fe; Xx"),
        (lambda: splits.held_out_elements(TABLE, IDS, []), "none was given"),
        (lambda: splits.held_out_elements(TABLE, IDS, ["U"]), "leaves none for test"),
        (lambda: splits.held_out_elements(TABLE, IDS, ["Fe"], val_fraction=1), "val_fraction must lie"),
        (lambda: splits.random(IDS, fractions=(0.8, 0.1, 0.2)), "add up to 1"),
        (lambda: splits.random(IDS, fractions=(1.2, -0.1, -0.1)), "must not be negative"),
        (lambda: splits.random(IDS[:3]), "leaves none for"),
        (lambda: splits.grouped_by_composition(TABLE, ["m-1", "nobody"]), "no row for 1 of 2 crystals"),
        (lambda: splits.train_fraction(splits.random(IDS), 0), r"must lie in \(0, 1\]"),
    ],
)
def test_errors_say_what_is_wrong(make: Callable[[], Split], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_parts_must_be_disjoint() -> None:
    def split(test: list[int]) -> Split:
        train, val = np.array([0, 1]), np.array([2])
        return Split(name="s", material_ids=IDS[:4], train=train, val=val, test=np.array(test, dtype=np.int64))

    assert split([3]).ids("test").tolist() == ["m-3"]
    with pytest.raises(ValueError, match="split s: 1 crystals are in more than one part"):
        split([1, 3])
    with pytest.raises(ValueError, match="outside the 4 crystals"):
        split([4])


def test_digest_sees_the_parts_not_the_order() -> None:
    def split(ids: list[str], **parts: list[int]) -> Split:
        arrays = {name: np.array(which) for name, which in parts.items()}
        return Split(name="any", material_ids=np.array(ids, dtype=object), **arrays)

    digest = split(["a", "b", "c", "d"], train=[0, 1], val=[2], test=[3]).digest()
    assert len(digest) == 64
    assert split(["d", "c", "b", "a"], train=[2, 3], val=[1], test=[0]).digest() == digest
    assert split(["a", "b", "c", "d"], train=[0, 1], val=[3], test=[2]).digest() != digest
    assert split(["a", "b", "c", "d"], train=[0, 2], val=[1], test=[3]).digest() != digest


def test_where_keeps_the_labeled() -> None:
    split = splits.random(IDS)
    labeled = np.arange(len(IDS)) % 2 == 0
    kept = split.where(labeled)
    for part in PARTS:
        assert getattr(kept, part).tolist() == [i for i in getattr(split, part).tolist() if i % 2 == 0]
    labeled[split.val] = False
    with pytest.raises(ValueError, match=rf"none of the {len(split.val)} val crystals is left"):
        split.where(labeled)


def test_smaller_fractions_are_parts_of_larger_ones() -> None:
    split = splits.random(IDS)
    fractions = [1e-6, 0.01, 0.1, 0.3, 0.9, 1.0]
    subsets = [splits.train_fraction(split, fraction, seed=2) for fraction in fractions]
    sizes = [len(s.train) for s in subsets]
    assert sizes == [max(1, round(f * len(split.train))) for f in fractions]
    for smaller, larger in pairwise(subsets):
        assert set(smaller.train) < set(larger.train)
    for subset in subsets:
        assert subset.test.tolist() == split.test.tolist()
        assert subset.val.tolist() == split.val.tolist()
    assert set(splits.train_fraction(split, 0.1, seed=3).train) != set(subsets[2].train)
    shuffled = splits.train_fraction(splits.random(IDS[::-1]), 0.1, seed=2)
    assert set(shuffled.ids("train")) == set(subsets[2].ids("train"))


def test_a_subset_is_no_easier_part() -> None:
    """The choice among train crystals is independent of the hash that made the split."""
    ids = np.array([f"n-{i}" for i in range(20_000)], dtype=object)
    half = splits.train_fraction(splits.random(ids, fractions=(0.5, 0.25, 0.25)), 0.5)
    other = splits.random(ids, fractions=(0.25, 0.25, 0.5))
    overlap = len(set(half.ids("train")) & set(other.ids("train"))) / len(half.train)
    assert 0.47 < overlap < 0.53


def published() -> pa.Table:
    """Six ids in nine rows; 'a', 'b' and 'c' are in several parts, 'f' in none."""
    rows = [("a", "train"), ("b", "val"), ("a", "test"), ("c", "train"), ("d", "train")]
    rows += [("b", "train"), ("e", "val"), ("c", "train"), ("f", None)]
    return to_table([crystal(name, [11], gap=1.0, split_gap=part) for name, part in rows])


def test_official_split_of_ids_in_several_parts() -> None:
    split = splits.official(published(), "gap", ["f", "e", "d", "c", "b", "a"])
    assert {part: split.ids(part).tolist() for part in PARTS} == {"train": ["d", "c"], "val": ["e", "b"], "test": ["a"]}
    assert split.name == "official:gap"


def test_official_test_crystals_without_graph_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split = splits.official(published(), "gap", ["b", "d"])
    assert "1 test crystals of split_gap have no graph and are left out, the first of them a" in caplog.text
    assert (len(split.train), len(split.val), len(split.test)) == (1, 1, 0)


def test_official_split_must_be_there() -> None:
    with pytest.raises(ValueError, match=r"no column split_ehull.*it has split_gap"):
        splits.official(published(), "ehull", ["a"])
    table = to_table([crystal("a", [11], split_gap="validation")])
    with pytest.raises(ValueError, match="column split_gap holds 'validation'"):
        splits.official(table, "gap", ["a"])


def twins_table(*, with_spacegroup: bool) -> pa.Table:
    """Train: Na Cl, cell volume 64, space group 225. The test crystals are named by what differs."""
    volume = {"near": 64 * 1.029, "small": 64 / 1.029, "far": 64 * 1.031, "far below": 64 / 1.031}
    rows: list[tuple[str, list[int], float, int]] = [
        ("train", [11, 17], 64, 225),
        ("same", [17, 11], 64, 225),
        *((name, [11, 17], v, 225) for name, v in volume.items()),
        ("other group", [11, 17], 64, 221),
        ("double cell", [11, 17, 11, 17], 64, 225),
        ("other formula", [11, 9], 64, 225),
        ("val", [11, 9], 64, 225),
    ]
    return to_table(
        [
            crystal(name, atoms, length=v ** (1 / 3), **({"spacegroup_number": group} if with_spacegroup else {}))
            for name, atoms, v, group in rows
        ]
    )


@pytest.mark.parametrize("with_spacegroup", [True, False])
def test_twins(with_spacegroup: bool, caplog: pytest.LogCaptureFixture) -> None:
    table = twins_table(with_spacegroup=with_spacegroup)
    last = table.num_rows - 1
    ids = np.array(table["material_id"].to_pylist(), dtype=object)
    split = Split(name="s", material_ids=ids, train=np.array([0]), val=np.array([last]), test=np.arange(1, last))
    with caplog.at_level(logging.WARNING):
        result = splits.twin_free(table, split)
    twins = set(split.ids("test")[~result.mask])
    assert twins == {"same", "near", "small"} | (set() if with_spacegroup else {"other group"})
    assert ("space group" in result.criteria) is with_spacegroup
    assert ("spacegroup_number" in caplog.text) is not with_spacegroup


def test_twins_are_those_of_comparing_all_pairs() -> None:
    split = random_split(IDS, 0)
    generator = np.random.default_rng(5)
    cells = generator.uniform(3.9, 4.1, len(IDS))
    atoms = TABLE["atomic_numbers"].to_pylist()
    table = to_table([crystal(n, z, length=v) for n, z, v in zip(IDS.tolist(), atoms, cells, strict=True)])
    found = splits.twin_free(table, split).mask
    formulas, sizes = np.array(table["formula"].to_pylist()), np.array([len(z) for z in atoms])
    expected = []
    for i in split.test.tolist():
        ratio = np.maximum(cells[i] / cells[split.train], cells[split.train] / cells[i]) ** 3
        twins = (formulas[split.train] == formulas[i]) & (sizes[split.train] == sizes[i]) & (ratio <= 1.03)
        expected.append(not twins.any())
    assert found.tolist() == expected
    assert 0.1 < found.mean() < 0.9


OFFICIAL_COUNTS = {
    "formation_energy_peratom": (44569, 5572, 5572),
    "optb88vdw_bandgap": (44569, 5572, 5572),
    "optb88vdw_total_energy": (44569, 5572, 5572),
    "ehull": (44290, 5537, 5537),
    "mbj_bandgap": (14535, 1817, 1815),
    "bulk_modulus_kv": (15744, 1968, 1968),
    "shear_modulus_gv": (15744, 1968, 1968),
}
"""Distinct ids in each part of the JARVIS-Leaderboard's files dft_3d_<property>.json.zip."""

IN_SEVERAL_PARTS = {
    "formation_energy_peratom": {"JVASP-113961": "test train", "JVASP-116461": "test train"},
    "optb88vdw_bandgap": {"JVASP-113961": "test train", "JVASP-116461": "test train"},
    "optb88vdw_total_energy": {"JVASP-113961": "test train", "JVASP-116461": "test train"},
    "ehull": {
        "JVASP-100669": "test train",
        "JVASP-116461": "test train",
        "JVASP-96735": "test train val",
        "JVASP-97311": "train val",
    },
    "mbj_bandgap": {"JVASP-96735": "test train"},
    "bulk_modulus_kv": {},
    "shear_modulus_gv": {},
}
"""The only differences between the parts here and those of the files."""


@pytest.fixture(scope="module")
def jarvis(test_data: Path) -> pa.Table:
    return read_table(test_data / "jarvis_dft_3d.parquet")


@pytest.mark.parametrize("name", OFFICIAL_COUNTS)
def test_official_splits_of_jarvis(name: str, jarvis: pa.Table) -> None:
    ids = list(dict.fromkeys(jarvis["material_id"].to_pylist()))
    members: dict[str, set[str]] = {part: set() for part in PARTS}
    for material_id, part in zip(jarvis["material_id"].to_pylist(), jarvis[f"split_{name}"].to_pylist(), strict=True):
        if part is not None:
            members[part].add(material_id)
    assert tuple(len(members[part]) for part in PARTS) == OFFICIAL_COUNTS[name]
    where = {i: " ".join(sorted(p for p in PARTS if i in members[p])) for i in set().union(*members.values())}
    assert {i: parts for i, parts in where.items() if " " in parts} == IN_SEVERAL_PARTS[name]

    split = splits.official(jarvis, name, ids)
    assert set(split.ids("test")) == members["test"]
    assert set(split.ids("val")) == members["val"] - members["test"]
    assert set(split.ids("train")) == members["train"] - members["test"] - members["val"]
    assert sum(len(getattr(split, part)) for part in PARTS) == len(where)
    labeled = split.where(targets_for(jarvis, name, ids).labeled)
    assert labeled.digest() == split.digest(), "every crystal of the split has a label"


@pytest.mark.parametrize("name", OFFICIAL_COUNTS)
def test_official_targets_are_those_of_the_test_rows(name: str, jarvis: pa.Table) -> None:
    """The graph of a repeated id is that of its first row, which may be a train row: its value is the same."""
    rows = zip(*(jarvis[c].to_pylist() for c in ("material_id", f"split_{name}", name)), strict=True)
    by_test_row = {material_id: value for material_id, part, value in rows if part == "test"}
    assert targets_for(jarvis, name, list(by_test_row)).labels.tolist() == list(by_test_row.values())


def test_share_of_twins_in_jarvis(jarvis: pa.Table) -> None:
    """13.2 % of the formation-energy test crystals, counted by hand: 738 of 5,572 rows.

    Two of them were their own twins, with ids in train and in test; here they are in test alone.
    """
    ids = list(dict.fromkeys(jarvis["material_id"].to_pylist()))
    split = splits.official(jarvis, "formation_energy_peratom", ids)
    result = splits.twin_free(jarvis, split)
    assert (len(result.mask), int((~result.mask).sum())) == (5572, 736)
    assert "space group" in result.criteria
