"""Which runs of MLflow form a group, which may be compared, and which are ignored."""

from __future__ import annotations

import math

import pytest

from crysatom.report.overview import arranged, dataset
from tests.tracked_runs import tracked


def test_runs_that_differ_by_seed_and_place_are_one_group() -> None:
    [table] = arranged([tracked(2), tracked(0), tracked(4)]).tables
    [group] = table.groups
    assert group.seeds == ["0", "2", "4"]
    assert group.mae == (3.0, pytest.approx(2.0))  # of 1, 3, 5
    assert table.settings == ()
    assert math.isnan(arranged([tracked(0)]).tables[0].groups[0].mae[1])


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"lr": "0.1", "epochs": "2"}},
        {"tags": {"vectors_digest": "v2"}},
        {"tags": {"predictor": "crysxpp"}},
        {"tags": {"distill_digest": "e1"}},
        {"tags": {"init_model_digest": "m1"}},
    ],
)
def test_other_settings_are_another_group_of_the_same_table(change: dict[str, dict[str, str]]) -> None:
    [table] = arranged([tracked(0), tracked(1, **change)]).tables
    assert [group.seeds for group in table.groups] == [["0"], ["1"]]
    assert table.settings == (("lr",) if "params" in change else ())


def test_vectors_are_known_by_their_content() -> None:
    [table] = arranged([tracked(0), tracked(1, tags={"vectors": "models:/crysatom-vectors/1"})]).tables
    assert len(table.groups) == 1


def test_other_data_are_another_table() -> None:
    tables = arranged(
        [tracked(0), tracked(1, tags={"data_digest": "d2"}), tracked(2, tags={"property": "ehull"})]
    ).tables
    assert len(tables) == 3


def test_a_setting_that_only_some_runs_know_of_separates_but_is_shown_only_where_nothing_else_does() -> None:
    older, newer = tracked(0), tracked(1, params={"lr": "0.003", "epochs": "2", "patience": "0"})
    [table] = arranged([older, newer]).tables
    assert table.settings == ("patience",)
    assert len(table.groups) == 2
    [table] = arranged([older, tracked(1, params={"lr": "0.1", "epochs": "2", "patience": "0"})]).tables
    assert table.settings == ("lr",)


def test_a_seed_that_was_run_twice_counts_once() -> None:
    first, again = tracked(0), tracked(9, tags={"seed": "0"}, metrics={"test/mae": 7.0})
    [group] = arranged([again, first]).tables[0].groups
    assert group.runs == (again,)
    assert group.repeated == (first,)
    assert group.mae[0] == 7.0


def test_what_is_not_finished_or_not_judged_is_listed_and_counts_nowhere() -> None:
    states = [tracked(n, status=status) for n, status in enumerate(("RUNNING", "FAILED", "KILLED", "FINISHED"))]
    unjudged = tracked(5)
    del unjudged.metrics["test/mae"]  # type: ignore[attr-defined]
    found = arranged([*states, unjudged])
    assert [run.status for run in found.unfinished] == ["KILLED", "FAILED", "RUNNING"]
    assert found.without_error == (unjudged,)
    [group] = found.tables[0].groups
    assert group.seeds == ["3"]


def test_trials_are_under_their_sweep_and_ranked_only_if_they_came_to_their_end() -> None:
    sweep = tracked(0, tags={"search_objective": "pretrain"})
    probe = "probe/mae_over_mad"
    good, better, stopped, failed = (
        tracked(n, parent=sweep.run_id, params={"lr": str(n)}, **changes)
        for n, changes in enumerate(
            (
                {"metrics": {probe: 0.5}},
                {"metrics": {probe: 0.4}},
                {"metrics": {probe: 0.1}, "tags": {"ended": "stopped"}},
                {"status": "FAILED"},
            ),
            start=1,
        )
    )
    found = arranged([failed, stopped, good, better, sweep])
    [known] = found.sweeps
    assert known.trials == (better, good, stopped, failed)
    assert known.ranked == [better, good]
    assert known.searched == ["lr"]
    assert found.tables == ()
    assert found.unfinished == ()


def test_pretrainings_and_others_have_their_places() -> None:
    pretraining = tracked(0, tags={}, params={"embedding_dim": "64", "ssl_loss": "vicreg"})
    study = tracked(1)
    for run in (pretraining, study):
        del run.tags["predictor"]  # type: ignore[attr-defined]
    found = arranged([pretraining, study])
    assert found.pretrainings == (pretraining,)
    assert found.others == (study,)
    assert dataset(study) == "mine"
