"""How many trials a cluster has room for."""

from __future__ import annotations

from typing import Any

import pytest

from crysatom.cluster.tune import room_for
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
    config = TuneConfig(space="x", **workers)
    assert room_for(config, nodes) == room
    if config.num_workers:  # no trial waits for what others hold
        cpus = sum(node["CPU"] for node in nodes)
        assert room * (0.01 + config.num_workers * config.threads_per_worker) <= cpus
