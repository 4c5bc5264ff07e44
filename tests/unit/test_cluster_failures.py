"""Which failures of a worker are retried, and their one-line message for the user."""

from __future__ import annotations

import pytest
import ray
import ray.data
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError

from crysatom.cluster.failures import cause, may_be_lost_worker, summary
from crysatom.runs.ending import report_error
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data sets deprecated options itself
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_task_raised_is_found_in_what_ray_makes_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(_: object) -> object:
        raise ValueError("row 3 of x.parquet is damaged")

    with pytest.raises(ValueError, match="damaged") as in_task:
        ray.get(ray.remote(spoil).remote(1))
    assert "Traceback" in str(in_task.value) or "ray::" in str(in_task.value), "or Ray tells it plainly by now"
    with pytest.raises(Exception, match="damaged") as in_data:
        ray.data.range(2).map(spoil).take_all()
    with pytest.raises(Exception, match="KeyError") as bug_in_data:
        ray.data.range(2).map(lambda row: row["x"]).take_all()
    assert type(cause(bug_in_data.value)) is KeyError
    of_training = WorkerGroupError("long text", {0: in_task.value})
    for error in (in_task.value, in_data.value, of_training, ControllerError(of_training)):
        assert type(cause(error)) is ValueError
        assert report_error(error) == 1
        assert capsys.readouterr().err == "error: row 3 of x.parquet is damaged\n"
    died = RayActorError()
    assert cause(died) is died
    assert report_error(died) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert report_error(cause(WorkerGroupError("long text", {0: KeyError("x")}))) == 70
