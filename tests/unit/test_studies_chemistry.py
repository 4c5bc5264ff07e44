"""The study finds known chemistry in tables that have it, not in others, and held-out elements do not leak."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from crysatom.names import DISTANCES, SYMBOLS
from crysatom.studies.chemistry.leave_one_out import (
    METHODS,
    NEIGHBORS,
    PENALTIES,
    nearest_neighbors,
    predict_left_out,
    ridge,
)
from crysatom.studies.chemistry.probes import GROUP, probe, targets_of
from crysatom.studies.chemistry.silhouettes import silhouette
from crysatom.studies.chemistry.statements import (
    CONTRADICTED,
    NOT_TESTED,
    STATEMENTS,
    SUPPORTED,
    Statement,
    examine,
    verdicts,
)
from crysatom.studies.chemistry.study import on_common_elements, study
from crysatom.studies.significance import holm, p_above, relabelings
from crysatom.training.metrics import r2
from crysatom.vectors.controls import random_vectors
from crysatom.vectors.elements import element_table
from crysatom.vectors.geometry import distances
from crysatom.vectors.table import AtomVectors

NUMBERS = np.arange(1, 95)
Array = NDArray[np.float64]


def table(rows: Array, numbers: NDArray[np.int64] = NUMBERS) -> AtomVectors:
    return AtomVectors(atomic_numbers=numbers, vectors=rows.astype(np.float32))


def cloud(seed: int, dim: int = 8, count: int = 94) -> Array:
    return np.random.default_rng(seed).normal(size=(count, dim))


@pytest.mark.parametrize("method", METHODS)
def test_vectors_that_are_the_fact_predict_it_and_others_do_not(method: str) -> None:
    for target in targets_of(NUMBERS):
        known = np.zeros((94, target.values.shape[1]))
        known[target.rows] = target.values
        found = probe(known, target, method, draws=99, seed=0)
        assert found.score.estimate > 0.95
        assert found.score.low - 1e-6 <= found.score.estimate <= found.score.high + 1e-6
        assert found.p == 0.01, "none of 99 relabelings"
        blind = probe(cloud(1), target, method, draws=99, seed=0)
        assert blind.p > 0.05
        assert blind.score.estimate < 0.2


def test_a_column_that_only_the_element_left_out_uses_does_not_blow_up() -> None:
    rows, values = cloud(16, count=40), cloud(17, dim=1, count=40)[:, None, :]
    noise = 1e-5 * cloud(18, dim=1, count=40)
    noise[5] = 1.0
    predicted = predict_left_out(np.hstack([rows, noise]), values, ridge)
    assert np.abs(predicted).max() < 3 * np.abs(values).max()


@pytest.mark.parametrize("method", METHODS)
def test_values_of_the_element_left_out_change_nothing_in_its_prediction(method: str) -> None:
    rows, values = cloud(2, count=30), cloud(3, dim=2, count=30)[:, None, :]
    before = predict_left_out(rows, values, METHODS[method])
    told = values.copy()
    told[7] += 1e6
    after = predict_left_out(rows, told, METHODS[method])
    np.testing.assert_array_equal(after[7], before[7])
    assert np.abs(after - before).max(axis=(1, 2)).min() == 0
    assert np.count_nonzero(np.abs(after - before).max(axis=(1, 2)) > 1) > 1, "others do see it"


def test_the_vector_of_the_element_left_out_has_no_part_in_the_choice_of_the_setting() -> None:
    rows, values = cloud(4, count=30), cloud(5, dim=1, count=30)[:, None, :]
    seen = {}

    def recording(known: Array, left_out: Array) -> object:
        seen[len(seen)] = known
        return ridge(known, left_out)

    predict_left_out(rows, values, recording)
    rows[0] *= 1e3
    first = dict(seen)
    seen.clear()
    predict_left_out(rows, values, recording)
    np.testing.assert_array_equal(seen[0], first[0])
    assert not np.array_equal(seen[1], first[1])


def test_ridge_is_ridge() -> None:
    rows, y = cloud(6, dim=5, count=20), cloud(7, dim=1, count=20)[:, 0]
    known = (rows[:19] - rows[:19].mean(axis=0)) / rows[:19].std(axis=0)
    left_out = (rows[19] - rows[:19].mean(axis=0)) / rows[:19].std(axis=0)
    weights = ridge(known, left_out)
    unit = np.mean(np.linalg.svd(known, compute_uv=False) ** 2)
    for k, penalty in enumerate(PENALTIES):

        def solved(x: Array, t: Array, at: Array, penalty: float = penalty * unit) -> float:
            design = np.column_stack([np.ones(len(x)), x])
            damping = np.diag([0.0, *[penalty] * x.shape[1]])
            return float(np.array([1.0, *at]) @ np.linalg.solve(design.T @ design + damping, design.T @ t))

        np.testing.assert_allclose(weights.outer[k] @ y[:19], solved(known, y[:19], left_out), rtol=1e-8)
        others = np.arange(19) != 4
        np.testing.assert_allclose(
            weights.inner[k, 4] @ y[:19], solved(known[others], y[:19][others], known[4]), rtol=1e-8
        )


def test_neighbors_are_the_nearest_and_share_places_when_equally_far() -> None:
    line = np.arange(12.0)[:, None] ** 1.5
    weights = nearest_neighbors(line, line[0] - 1)
    for k, count in enumerate(NEIGHBORS):
        np.testing.assert_allclose(weights.outer[k], [1 / count] * count + [0.0] * (12 - count))
    assert np.einsum("kii->ki", weights.inner).max() == 0, "none is its own neighbor"
    alike = nearest_neighbors(np.eye(12), np.zeros(12))
    np.testing.assert_allclose(alike.outer, 1 / 12)
    np.testing.assert_allclose(alike.inner, np.tile((1 - np.eye(12)) / 11, (len(NEIGHBORS), 1, 1)))


def test_the_score_is_that_of_the_metrics() -> None:
    target = targets_of(NUMBERS)[0]
    found = probe(cloud(8), target, "ridge", draws=99, seed=0)
    assert found.score.estimate == pytest.approx(r2(target.values[:, 0], found.predictions))
    assert found.error.estimate == pytest.approx(np.abs(target.values[:, 0] - found.predictions).mean())


def test_silhouette_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels = np.random.default_rng(0).integers(6, size=(3, 40))
    labels[0, labels[0] == 5] = 0
    labels[0, 3] = 5  # the only member of its class
    distance = distances(cloud(9, count=40), "euclidean")
    expected = [metrics.silhouette_score(distance, row, metric="precomputed") for row in labels]
    np.testing.assert_allclose(silhouette(distance, labels), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="two classes"):
        silhouette(distance, np.zeros((1, 40), dtype=int))


def test_a_planted_cluster_is_found_and_its_opposite_contradicted() -> None:
    near, far = cloud(10, dim=20), cloud(10, dim=20)
    alkali = [SYMBOLS.index(symbol) for symbol in ("Li", "Na", "K", "Rb", "Cs")]
    near[alkali] = near[alkali[0]] + 0.1 * cloud(11, dim=20, count=5)
    far[alkali] = 20 * np.eye(20)[:5]
    for rows, verdict in ((near, SUPPORTED), (far, CONTRADICTED)):
        orders = relabelings(94, 999, seed=0)
        found = {
            kind: [examine(statement, SYMBOLS[:94], distances(rows, kind), orders) for statement in STATEMENTS]
            for kind in DISTANCES
        }
        said, adjusted = verdicts(found)
        if verdict == SUPPORTED:
            assert said[0] == SUPPORTED
            others = [v for s, v in zip(STATEMENTS, said, strict=True) if "Li" not in s.parts[-1]]
            assert set(others) == {"not supported"}
            assert adjusted["cosine"][0] >= found["cosine"][0].p > 0
        else:
            assert not found["euclidean"][0].for_it
            assert adjusted["euclidean"][0] <= 0.05


@pytest.mark.parametrize("statement", [STATEMENTS[0], STATEMENTS[2], STATEMENTS[-3], STATEMENTS[-2]])
def test_chances_are_uniform_without_chemistry(statement: Statement) -> None:
    orders = relabelings(94, 99, seed=0)
    chances = []
    for seed in range(100):
        rows = random_vectors(seed, 6)
        found = examine(statement, rows.symbols[:94], distances(rows.vectors[:94], "euclidean"), orders)
        assert found is not None
        chances.append(found.at_most)
    # Kolmogorov and Smirnov: 100 uniform numbers are farther from uniform once in 1000 times
    ordered = np.sort(chances)
    assert np.abs(ordered - (np.arange(100) + 0.5) / 100).max() < 1.95 / np.sqrt(100)


def test_exact_chance_of_a_pair_is_its_rank_among_all_pairs() -> None:
    rows = cloud(12, count=20)
    distance = distances(rows, "cosine")
    pair = Statement(text="", kind="together", parts=(("H", "Ne"),))
    found = examine(pair, SYMBOLS[:20], distance, relabelings(20, 99, seed=0))
    assert found is not None
    pairs = distance[np.triu_indices(20, k=1)]
    assert (found.exact, found.sets, found.at_most) == (True, 190, np.mean(pairs <= distance[0, 9]))
    assert found.at_least == np.mean(pairs >= distance[0, 9])


def test_contrasts_are_what_the_statements_say() -> None:
    place = {"H": 0.0, "He": 1.0, "Li": 3.0, "Be": 7.0, "B": 15.0}
    distance = np.abs(np.subtract.outer([*place.values()], [*place.values()]))
    orders = relabelings(5, 99, seed=0)
    claims = {
        ("together", (("H", "Li", "Be"),)): (3 + 7 + 4) / 3,
        ("outside", (("H",), ("Li", "Be", "B"))): (4 + 12 + 8) / 3 - (3 + 7 + 15) / 3,
        ("rather", (("He",), ("H", "Li"), ("Be", "B"))): (1 + 2) / 2 - (6 + 14) / 2,
    }
    for (kind, parts), contrast in claims.items():
        found = examine(Statement(text="", kind=kind, parts=parts), tuple(place), distance, orders)
        assert found is not None
        assert found.contrast == pytest.approx(contrast)
    assert examine(STATEMENTS[0], tuple(place), distance, orders) is None, "one alkali metal is no cluster"


def test_p_values_and_their_correction() -> None:
    assert p_above(2.0, np.array([1.0, 2.0, 3.0])) == 0.75
    # Holm's example of three at 0.01, 0.02, 0.04: times 3, 2, 1
    np.testing.assert_allclose(holm(np.array([0.02, 0.01, 0.04])), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])


def test_statements_name_elements_once() -> None:
    for statement in STATEMENTS:
        named = [symbol for part in statement.parts for symbol in part]
        assert len(set(named)) == len(named)
        assert set(named) <= set(SYMBOLS)
        assert statement.weights().sum() == pytest.approx(1 if statement.kind == "together" else 0, abs=1e-12)


def test_the_study_compares_on_common_elements_and_says_what_it_left_out() -> None:
    numbers = NUMBERS[:54]  # a subset, to be fast
    periods = np.array([[float(element_table()[int(z)]["period"]), float(z)] for z in numbers])
    noble = np.isin(numbers, [2, 10, 18])
    tables = {"all": table(periods, numbers), "no noble gases": table(cloud(13, count=54)[~noble], numbers[~noble])}
    found = study(tables, scale="rms", draws=99, probe_draws=99, seed=0)
    assert found.left_out == {"all": ("He", "Ne", "Ar"), "no noble gases": ()}
    assert "Ar" not in found.symbols
    assert len(found.symbols) == 51
    noble_rows = found.statements[found.statements["statement"] == "Noble gases but He are a cluster"]
    assert set(noble_rows["verdict"]) == {NOT_TESTED}
    assert len(found.probes) == 2 * 5 * 2
    assert (found.probes.loc[found.probes["table"] == "all", "error_difference"] == 0).all()
    spaces = found.silhouettes.groupby("table")["space"].nunique()
    assert spaces.to_dict() == {"all": 3, "no noble gases": 4}, "two dimensions have no components 3 and 4"
    groups = found.predictions[found.predictions["property"] == GROUP]
    facts = [element_table()[SYMBOLS.index(symbol) + 1][GROUP] for symbol in groups["element"]]
    assert [str(int(known)) for known in groups["known"]] == facts
    assert set(groups["predicted"]) <= set(groups["known"])
    with pytest.raises(ValueError, match="no element has a vector in all"):
        on_common_elements({"a": table(periods[:2], numbers[:2]), "b": table(periods[2:], numbers[2:])})
