"""Number of concurrent trials on a cluster, and which trials are stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from crysatom.cluster.tune import EPOCH, Halving, room_for, scheduler
from crysatom.config import TuneConfig


@pytest.mark.parametrize(
    ("nodes", "workers", "room"),
    [
        ([{"CPU": 2}], {}, 2),
        ([{"CPU": 2}], {"threads_per_worker": 3}, 0),
        ([{"CPU": 3}, {"CPU": 3}], {"threads_per_worker": 2}, 2),
        # a trial's own hundredth of a CPU and its workers
        ([{"CPU": 2}], {"num_workers": 2}, 0),
        ([{"CPU": 2}], {"num_workers": 1}, 1),
        ([{"CPU": 3}], {"num_workers": 1}, 2),
        ([{"CPU": 3}, {"CPU": 3}], {"num_workers": 2}, 2),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8}], {"use_gpu": True}, 2),
        ([{"CPU": 8}], {"use_gpu": True}, 0),
        ([{"CPU": 8, "GPU": 4}], {"use_gpu": True, "num_workers": 2}, 2),
    ],
)
def test_room_for_trials(nodes: list[dict[str, float]], workers: dict[str, Any], room: int) -> None:
    config = TuneConfig.of(space="x", **workers)
    assert room_for(config.workers, nodes) == room
    if config.workers.num_workers:  # no trial waits for resources of others
        cpus = sum(node["CPU"] for node in nodes)
        assert room * (0.01 + config.workers.num_workers * config.workers.threads_per_worker) <= cpus


class Told:
    """Records which trials were stopped."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stop(self, name: str) -> None:
        self.names.append(name)


@pytest.mark.parametrize(
    ("known", "stopped"),
    [
        ([], ["worst"]),
        # results before the sweep was resumed: the first two are now the worse half
        ([("a", 2, 0.1), ("b", 2, 0.2), ("b", 4, 0.1)], ["good", "worst"]),
        ([("a", 2, 2.0), ("b", 2, 3.0), ("b", 4, 3.0)], []),
    ],
)
def test_the_worse_half_is_told_to_stop_and_none_is_killed(
    known: list[tuple[str, int, float]], stopped: list[str]
) -> None:
    told: Any = Told()
    halving = scheduler(Halving(metric="probe", first=2, factor=2, epochs=8, known=known), told)
    controller: Any = None
    for name, value in (("good", 0.5), ("worst", 0.9), ("best", 0.05)):
        trial: Any = SimpleNamespace(trial_id=name, config={"trial": name})
        halving.on_trial_add(controller, trial)
        for epochs in (1, 2):
            report = {EPOCH: epochs} | ({"probe": value} if epochs == 2 else {})
            assert halving.on_trial_result(controller, trial, report) == "CONTINUE"
    assert told.names == stopped
