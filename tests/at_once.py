"""Several processes that do the same thing at the same time, again and again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

WAIT_SECONDS = 300.0
"""After which a process no longer waits for the others: one of them has died."""

Work = Callable[[int, Path], str]


def at_once(num_processes: int, tasks: list[tuple[Work, Path]]) -> list[list[str]]:
    """Return what each process said of each task: ``result[task][process]``.

    Args:
        num_processes: That start with a task together.
        tasks: One after the other: what is done, given the number of its process, and where. What a process holds
            then, it may hold until all have answered: it goes on to the next task only then.

    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_processes)
    answers = context.SimpleQueue()
    processes = [
        context.Process(target=_worker, args=(barrier, tasks, number, answers), daemon=True)
        for number in range(num_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * num_processes
    said = dict(answers.get() for _ in processes)
    return [[said[number][k] for number in range(num_processes)] for k in range(len(tasks))]


def _worker(barrier: Barrier, tasks: list[tuple[Work, Path]], number: int, answers: Any) -> None:
    said = []
    for work, place in tasks:
        barrier.wait(WAIT_SECONDS)
        try:
            said.append(work(number, place))
        except Exception as error:  # noqa: BLE001 - it is the answer; the others must not wait for one that died
            said.append(f"{type(error).__name__}: {error}")
        barrier.wait(WAIT_SECONDS)
    answers.put((number, said))
