"""Many runs of one process each on a Ray cluster, as many at a time as it has processors for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from crysatom.cluster.resources import require
from crysatom.cluster.session import cluster_total

ItemT = TypeVar("ItemT")


def run_tasks(
    work: Callable[[ItemT], str],
    items: Sequence[ItemT],
    *,
    at_most: int,
    use_gpu: bool,
    may_start: Callable[[], bool],
    done: Callable[[ItemT, str, Exception | None], None],
) -> None:
    """Do the work of each item in a task of one CPU, and one GPU if asked for, in the order of the items.

    A task whose process is lost is repeated by Ray up to three times: the work must be able to go on where it was.

    Args:
        work: Done in a process of the cluster.
        items: Sent there.
        at_most: How many at a time, if the cluster has the processors; it may grow or shrink meanwhile.
        use_gpu: Whether each task reserves a GPU.
        may_start: Asked before each task; once it says no, no further one is started.
        done: Told of each task that ended: its item, its result, and what went wrong if something did.

    Raises:
        ValueError: If Ray runs on this machine alone, which lacks what a task reserves.

    """
    require("GPU" if use_gpu else "CPU", 1, 1)
    remote = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0)(work)
    waiting = list(items)
    running: dict[Any, ItemT] = {}
    while waiting or running:
        room = max(1, min(at_most, int(cluster_total("GPU" if use_gpu else "CPU"))))
        while waiting and len(running) < room and may_start():
            item = waiting.pop(0)
            running[remote.remote(item)] = item
        if not running:
            return
        [ended], _ = ray.wait(list(running))
        item = running.pop(ended)
        try:
            done(item, ray.get(ended), None)
        except ray.exceptions.RayError as error:
            done(item, "", getattr(error, "cause", None) or error)
