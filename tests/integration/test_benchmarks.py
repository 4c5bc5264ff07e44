"""The small form of every benchmark runs, its checks hold, and they find an epoch that does nothing."""

from __future__ import annotations

from typing import Any

import bench
import pytest
import series

from crysatom.names import LOSS, TRAIN
from crysatom.training import pretrain, regression
from crysatom.training.loop import Loop

ON_RAY = {"featurize_throughput", "ingest_throughput", "ray_overhead", "mixed_cluster"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # a benchmark is no test of other packages' warnings
]


def measured(name: str) -> bench.Result:
    benchmark = series.load(name)
    return bench.measured(benchmark, bench.arguments(benchmark, ["--small"]))


def check(result: bench.Result) -> None:
    assert result["small"]
    assert result["results"]["figures"]
    assert len(result["checks"]) >= 2
    assert result["code_digest"]


@pytest.mark.parametrize("name", [name for name in series.NAMES if name not in ON_RAY])
def test_the_small_form_runs(name: str) -> None:
    check(measured(name))


@pytest.mark.parametrize("name", [name for name in series.NAMES if name in ON_RAY])
@pytest.mark.usefixtures("ray_cluster")
def test_the_small_form_runs_on_ray(name: str) -> None:
    check(measured(name))


class Idle(Loop):
    """Epochs that do nothing and report falling losses."""

    def _train_epoch(self, wrapped: Any, epoch: int) -> dict[str, float]:  # noqa: ARG002
        losses = {f"{TRAIN}/{LOSS}": 1 / (epoch + 1), f"{TRAIN}/mae": 1.0, "lr": 1.0}
        return {**losses, "seconds": 1e-4, "crystals_per_second": 1e5, "data_wait_share": 0.0}


@pytest.mark.parametrize(
    ("name", "module"),
    [("pretrain_throughput", pretrain), ("cgcnn_throughput", regression)],
    ids=["pretraining", "prediction"],
)
def test_a_sabotaged_benchmark_tells(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Loop", Idle)
    with pytest.raises(bench.CheckError, match="3 epochs asked for, 3 reported, 0 seen"):
        measured(name)
