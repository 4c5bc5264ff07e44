"""Every thread that trains flushes denormal numbers, and only while it does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from crysatom.config import TrainingWorkers
from crysatom.runs.lifecycle import launch
from crysatom.training.context import Context
from crysatom.training.machine import flushes_denormals
from tests.run_script import run_script

LARGE = 2**20
"""Values of an operation that torch splits between its threads."""


def threads_that_flush(context: Context) -> dict[str, bool]:  # noqa: ARG001 - the signature of a training
    """Return which kinds of threads of a worker flush."""
    seen = [flushes_denormals()]

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
            seen.append(flushes_denormals())
            return grads[0]

    Backward.apply(torch.ones((), requires_grad=True)).backward()  # type: ignore[no-untyped-call]
    halves = torch.full((LARGE,), torch.finfo(torch.float32).tiny) / 2
    with ThreadPoolExecutor() as pool:
        new = pool.submit(flushes_denormals).result()
    return {"own": seen[0], "backward": seen[1], "new": new, "of torch": not halves.view(torch.int32).any()}


ALL = {"own": True, "backward": True, "new": True, "of torch": True}


def train(folder: Path, **workers: Any) -> dict[str, bool]:
    return launch(threads_that_flush, TrainingWorkers(**workers), folder, record=lambda *_: None, show=lambda _: None)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
def test_workers_of_ray_train(tmp_path: Path) -> None:
    assert train(tmp_path, num_workers=1, threads_per_worker=2) == ALL


def in_a_process(folder: str) -> None:
    """Train in this process; torch's threads do not exist yet."""
    assert train(Path(folder), num_workers=0, threads_per_worker=2) == ALL
    assert not flushes_denormals(), "the caller's arithmetic is changed"


def test_training_in_a_process(tmp_path: Path) -> None:
    done = run_script(f"from {__name__} import in_a_process; in_a_process({str(tmp_path)!r})")
    assert done.returncode == 0, done.stderr
