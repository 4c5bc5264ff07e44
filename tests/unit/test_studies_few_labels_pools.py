"""Pools by a hash of ids, and disjoint draws from them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from crysatom.crystals.splits import Split
from crysatom.names import MAX_ATOMIC_NUMBER, SYMBOLS
from crysatom.studies.few_labels.pools import (
    SCREEN_SHARE,
    SELECT_SHARE,
    TEST_SHARE,
    Draw,
    Pools,
    Wanted,
    by_hash,
    draws_of,
    elements_held_out,
    of_official,
)

COUNT = 4000
IDS = np.array([f"crystal-{i}" for i in range(COUNT)], dtype=object)
LABELED = np.ones(COUNT, dtype=bool)


def pools(*, test: bool = True, salt: str = "a") -> Pools:
    return by_hash(IDS, LABELED, salt, test=test)


def parts(draw: Draw) -> list[set[int]]:
    return [set(part.tolist()) for part in (draw.train, draw.val, draw.evaluated)]


def test_pools_are_disjoint_and_have_their_shares() -> None:
    tested, screened = pools(), pools(test=False)
    four = [tested.evaluated, screened.evaluated, tested.select, tested.train]
    assert sorted(np.concatenate(four).tolist()) == list(range(COUNT))
    train_share = 1 - TEST_SHARE - SCREEN_SHARE - SELECT_SHARE
    for pool, share in zip(four, (TEST_SHARE, SCREEN_SHARE, SELECT_SHARE, train_share), strict=True):
        assert len(pool) / COUNT == pytest.approx(share, abs=4 * (share * (1 - share) / COUNT) ** 0.5)
    assert set(pools(salt="b").evaluated) != set(tested.evaluated)


def test_the_pool_of_a_crystal_depends_on_nothing_else() -> None:
    generator = np.random.default_rng(0)
    chosen = generator.permutation(COUNT)[: COUNT // 2]
    fewer = by_hash(IDS[chosen], np.ones(len(chosen), dtype=bool), "a", test=True)
    known = by_hash(IDS, np.isin(np.arange(COUNT), chosen), "a", test=True)
    for name in ("train", "select", "evaluated"):
        mine = IDS[getattr(pools(), name)]
        of_fewer = IDS[chosen][getattr(fewer, name)]
        assert of_fewer.tolist() == mine[np.isin(mine, IDS[chosen])].tolist()
        assert IDS[getattr(known, name)].tolist() == of_fewer.tolist()


def test_groups_stay_together_in_their_pools() -> None:
    groups = [f"formula {i // 3}" for i in range(COUNT)]
    found = by_hash(IDS, LABELED, "a", test=True, groups=groups)
    screened = by_hash(IDS, LABELED, "a", test=False, groups=groups).evaluated
    four = [found.evaluated, screened, found.select, found.train]
    assert sorted(np.concatenate(four).tolist()) == list(range(COUNT))
    for one, other in combinations(four, 2):
        assert not set(one // 3) & set(other // 3)
    assert len(found.evaluated) / COUNT == pytest.approx(TEST_SHARE, abs=0.04)
    [draw] = draws_of(found, Wanted(300), [0])
    assert len(set(draw.train // 3)) > 250  # crystals of a formula are not drawn together


def test_draws_are_disjoint_and_keep_their_crystals_when_more_are_made() -> None:
    draws = draws_of(pools(), Wanted(100), range(5))
    for one, other in combinations(draws, 2):
        assert not set(one.train) & set(other.train)
        assert not set(one.val) & set(other.val)
        np.testing.assert_array_equal(one.evaluated, other.evaluated)
    for draw in draws:
        assert [len(part) for part in (draw.train, draw.val)] == [100, 50]
        assert all(not a & b for a, b in combinations(parts(draw), 2))
        assert (np.diff(draw.train) > 0).all()
    later = draws_of(pools(), Wanted(100), range(3, 5))
    assert [draw.number for draw in later] == [3, 4]
    np.testing.assert_array_equal(later[0].train, draws[3].train)
    np.testing.assert_array_equal(later[0].val, draws[3].val)


@pytest.mark.parametrize(("labels", "validation"), [(10, 50), (100, 50), (500, 100), (2000, 250)])
def test_validation_crystals_are_a_fifth_within_bounds(labels: int, validation: int) -> None:
    assert Wanted(labels).of(pools())["validation"] == validation
    assert Wanted(labels, validation=7).of(pools())["validation"] == 7


def test_all_labels_are_one_draw_of_the_whole_pools() -> None:
    [draw] = draws_of(pools(), Wanted(0), range(6))
    assert set(draw.train) == set(pools().train)
    assert set(draw.val) == set(pools().select)


def test_the_crystals_to_evaluate_are_the_first_by_hash() -> None:
    [some] = draws_of(pools(), Wanted(100, max_test=30), [0])
    assert some.evaluated.tolist() == sorted(pools().evaluated[:30])
    [more] = draws_of(pools(), Wanted(50, max_test=60), [0])
    assert set(some.evaluated) < set(more.evaluated)


def test_too_small_pools_say_how_many_draws_are_possible() -> None:
    most = len(pools().select) // 50
    with pytest.raises(ValueError, match=f"{most + 1} draws of 100 .* are needed, {most} are possible"):
        draws_of(pools(), Wanted(100), range(most + 1))
    with pytest.raises(ValueError, match=r"1 draws of 3000 training .* 0 are possible.*left for training"):
        draws_of(pools(), Wanted(3000), [0])


def holds() -> np.ndarray:
    """Return elements of each crystal: oxides and chlorides in turn, and one of 20 metals."""
    held = np.zeros((COUNT, MAX_ATOMIC_NUMBER), dtype=bool)
    held[::2, SYMBOLS.index("O")] = held[1::2, SYMBOLS.index("Cl")] = True
    held[np.arange(COUNT), 20 + np.random.default_rng(1).integers(20, size=COUNT)] = True
    return held


@pytest.mark.parametrize("text", ["Fe,O", "group:17", "random:4"])
def test_elements_are_held_out_of_training_and_in_every_test_crystal(text: str) -> None:
    held = holds()
    elements = elements_held_out(text, 3, salt="a", pools=pools(), holds=held)
    draws = draws_of(pools(), Wanted(100), range(3), elements, held)
    for draw, symbols in zip(draws, elements, strict=True):
        columns = [SYMBOLS.index(symbol) for symbol in symbols]
        assert draw.held_out == symbols
        assert not held[draw.train][:, columns].any()
        assert not held[draw.val][:, columns].any()
        assert held[draw.evaluated][:, columns].any(axis=1).all()
        assert set(draw.evaluated) <= set(pools().evaluated)
    for one, other in combinations(draws, 2):
        assert not set(one.train) & set(other.train)
    assert (len(set(elements)) == 1) == (text != "random:4")
    if text == "group:17":
        assert elements[0] == ("F", "Cl", "Br", "I", "At", "Ts")


def test_held_out_elements_must_occur() -> None:
    assert elements_held_out("none", 3, salt="a", pools=pools(), holds=holds()) == []
    with pytest.raises(ValueError, match="only 22 elements occur in 20 crystals to evaluate"):
        elements_held_out("random:12", 3, salt="a", pools=pools(), holds=holds())
    with pytest.raises(ValueError, match="no crystal to evaluate holds one of Pu"):
        draws_of(pools(), Wanted(100), [0], [("Pu",)], holds())


def test_official_parts_are_kept_and_half_of_validation_is_for_choices() -> None:
    split = Split(
        name="s",
        material_ids=IDS,
        train=np.arange(3000),
        val=np.arange(3000, 3500),
        test=np.arange(3500, COUNT),
    )
    labeled = np.arange(COUNT) % 10 > 0
    tested = of_official(split, labeled, "a", test=True)
    screened = of_official(split, labeled, "a", test=False)
    assert sorted(tested.train) == [i for i in range(3000) if i % 10]
    assert sorted(tested.evaluated) == [i for i in range(3500, COUNT) if i % 10]
    assert sorted([*tested.select, *screened.evaluated]) == [i for i in range(3000, 3500) if i % 10]
    assert 180 < len(tested.select) < 270
