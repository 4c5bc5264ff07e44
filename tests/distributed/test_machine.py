"""Reported hardware and its utilization are those of the workers, not of the process that starts them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from crysatom import distributed
from crysatom.training.context import PlainContext
from crysatom.training.machine import combined, hardware, joined
from tests.gloo import run_workers

MEMORY = "system/process_memory_megabytes"
CPU = "system/cpu_utilization_percentage"
BALLAST_MB = 400


def report_with_ballast(folder: str) -> tuple[list[dict[str, float]], str]:
    """Report an epoch from workers, the last with much memory; return the metrics published here and the hardware."""
    published: list[dict[str, float]] = []
    context = PlainContext(Path(folder), published.append)
    large = distributed.rank() == distributed.world_size() - 1
    ballast = np.ones(BALLAST_MB * 125_000 if large else 1)  # written to, so that it is resident
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    context.report({"epoch": 0.0, "loss": 1.5}, lambda _: None)
    assert ballast.sum() > 0
    return published, context.hardware()


def test_an_epoch_is_published_with_the_usage_of_all_workers(tmp_path: Path) -> None:
    (alone, _), *_ = run_workers(report_with_ballast, 1, str(tmp_path / "alone"))
    (first, kinds), (second, same), (third, _) = run_workers(report_with_ballast, 3, str(tmp_path / "three"))
    assert second == third == [], "rank 0 publishes"
    [metrics] = first
    assert metrics["loss"] == 1.5
    assert metrics.keys() == alone[0].keys(), "the names do not depend on the number of workers"
    assert metrics[MEMORY] > BALLAST_MB, "that of the largest worker, not of rank 0"
    assert 0 < metrics[CPU] <= 100, "since the start of the epoch; the first reading of a process is 0"
    assert kinds == same == hardware(), "one machine is named once"


def test_workers_are_combined_by_what_matters() -> None:
    usages = [{CPU: 90.0, MEMORY: 500.0, "system/gpu_utilization_percentage": 40.0}, {CPU: 10.0, MEMORY: 900.0}]
    assert combined(usages) == {CPU: 50.0, MEMORY: 900.0, "system/gpu_utilization_percentage": 40.0}


def test_every_kind_of_machine_is_named_once() -> None:
    assert joined(["8 x A6000", "8 x A100", "8 x A6000"]) == "8 x A100; 8 x A6000"
