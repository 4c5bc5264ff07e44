"""Run the same tasks in several processes at the same time, repeatedly."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from tests.processes import fresh_processes

WAIT_SECONDS = 300.0
"""Timeout of a process that waits for the others: one of them has died."""

Work = Callable[[int, Path], str]


def at_once(num_processes: int, tasks: list[tuple[Work, Path]]) -> list[list[str]]:
    """Return the answer of each process to each task: ``result[task][process]``.

    Args:
        num_processes: Number of processes that start each task together.
        tasks: Consecutive tasks: a function of the process number, and a folder. A process keeps what the task
            acquired until all have answered; only then it starts the next task.

    """
    context = fresh_processes()
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
    given = dict(answers.get() for _ in processes)
    return [[given[number][k] for number in range(num_processes)] for k in range(len(tasks))]


def _worker(barrier: Barrier, tasks: list[tuple[Work, Path]], number: int, answers: Any) -> None:
    given: list[str] = []
    for work, place in tasks:
        barrier.wait(WAIT_SECONDS)
        try:
            given.append(work(number, place))
        except Exception as error:  # noqa: BLE001 - the error is the answer; the others must not wait
            given.append(f"{type(error).__name__}: {error}")
        barrier.wait(WAIT_SECONDS)
    answers.put((number, given))
