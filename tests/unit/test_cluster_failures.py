"""Which failures of a worker are worth another attempt, and the line that a user reads about them."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError

from crysatom.cluster.failures import may_be_lost_worker, summary
from crysatom.training.loop import NonFiniteLossError

GLOO = RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234\nand more")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RayActorError(), True),
        (GLOO, True),
        (dist.DistBackendError("NCCL error"), True),
        (ConnectionResetError(), True),
        (NonFiniteLossError("the loss is nan"), False),
        (ValueError("bad shard"), False),
        (FileNotFoundError("shard"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (TypeError("a bug"), False),
    ],
)
def test_only_what_may_come_from_a_lost_worker_is_tried_again(error: Exception, lost: bool) -> None:
    assert may_be_lost_worker(error) is lost


def test_summary_is_one_line_on_the_cause() -> None:
    died = RayActorError()
    for failure in ({0: GLOO, 1: died}, WorkerGroupError("long text", {0: GLOO, 1: died})):
        assert summary(failure) == str(died).splitlines()[0].strip()
    assert summary({0: GLOO}).endswith("Connection closed by peer [127.0.0.1]:1234")
    assert summary(KeyError()) == "KeyError"
