"""Many single-process runs on a Ray cluster, as many at a time as it has CPUs for."""

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
    """Process each item in a task of one CPU, and one GPU if requested, in the order of the items.

    Ray repeats a task whose process is lost up to three times, so the work must be able to resume.

    Args:
        work: Function that a process of the cluster runs on each item.
        items: Items to send.
        at_most: Largest number of tasks at a time; fewer run if the cluster has fewer CPUs. It may grow or shrink.
        use_gpu: Whether each task reserves a GPU.
        may_start: Called before each task; once it returns False, no more tasks start.
        done: Called when a task ends, with its item, its result and its error, if any.

    Raises:
        ValueError: If Ray runs only on this machine, and it lacks what a task reserves.

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
