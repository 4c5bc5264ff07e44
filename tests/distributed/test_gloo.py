"""The pool of gloo workers that the distributed tests use."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.gloo import WorkerError, run_workers


def _sum_of_ranks(offset: torch.Tensor) -> dict[str, object]:
    total = offset + dist.get_rank()
    dist.all_reduce(total)
    return {"total": total, "rank": dist.get_rank(), "world_size": dist.get_world_size(), "pid": os.getpid()}


def _raise_on_last() -> None:
    if dist.get_rank() == dist.get_world_size() - 1:
        message = "no such crystal"
        raise ValueError(message)
    dist.barrier()


def _die_on_first() -> None:
    if dist.get_rank() == 0:
        os._exit(9)
    dist.barrier()


def _sleep() -> None:
    time.sleep(30)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_rank_takes_part_and_tensors_come_back_as_arrays(world_size: int) -> None:
    results = run_workers(_sum_of_ranks, world_size, torch.tensor([10.0, 20.0], dtype=torch.float64))
    expected = world_size * np.array([10.0, 20.0]) + sum(range(world_size))
    for rank, result in enumerate(results):
        assert result["rank"] == rank
        assert result["world_size"] == world_size
        np.testing.assert_array_equal(result["total"], expected)
    assert len({result["pid"] for result in results} | {os.getpid()}) == world_size + 1


def test_workers_are_used_again() -> None:
    first = run_workers(_sum_of_ranks, 2, torch.zeros(1))
    second = run_workers(_sum_of_ranks, 2, torch.zeros(1))
    assert [result["pid"] for result in first] == [result["pid"] for result in second]


def test_traceback_of_the_worker_that_raised_is_shown_and_the_next_call_works() -> None:
    with pytest.raises(WorkerError, match=r"(?s)rank 1.*_raise_on_last.*ValueError: no such crystal"):
        run_workers(_raise_on_last, 2)
    assert len(run_workers(_sum_of_ranks, 2, torch.zeros(1))) == 2


def test_a_worker_that_dies_is_named() -> None:
    with pytest.raises(WorkerError, match=r"rank 0\nits process died"):
        run_workers(_die_on_first, 2)


def test_silence_is_an_error() -> None:
    with pytest.raises(WorkerError, match=r"no answer from rank\(s\) \[0, 1\] within 0.5 s"):
        run_workers(_sleep, 2, timeout=0.5)
