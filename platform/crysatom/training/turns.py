"""Functions that run in turn and exchange values: threads, of which exactly one runs at any time.

All functions call :meth:`Turn.meet` equally often. The first runs until it calls it, then the second, and so on; then
the first continues. Results thus do not depend on the scheduling of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class _AbandonedError(BaseException):
    """Ends a function that waits, because another one failed. No function catches it by ``except Exception``."""


@dataclass
class _Table:
    """What the functions share.

    Attributes:
        turns: A semaphore for each function, released when it is its turn.
        items: Items of the functions that have reached the present meeting.
        meetings: Number of meetings held.
        combined: Combined items of the last meeting.
        results: Results of the functions.
        error: First error of a function; ends all.

    """

    turns: list[threading.Semaphore]
    items: list[Any] = field(default_factory=list)
    meetings: int = 0
    combined: Any = None
    results: dict[int, Any] = field(default_factory=dict)
    error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Record an error and wake everyone."""
        self.error = self.error or error
        for turn in self.turns:
            turn.release()


class Turn:
    """A function's place among those that run in turn.

    Args:
        index: Its place.
        table: What it shares with the others.

    """

    def __init__(self, index: int, table: _Table) -> None:
        self.index, self._table = index, table

    def wait(self) -> None:
        """Wait for this function's turn."""
        self._table.turns[self.index].acquire()
        if self._table.error is not None:
            raise _AbandonedError

    def pass_on(self) -> None:
        """Let the next function run, after the last the first."""
        self._table.turns[(self.index + 1) % len(self._table.turns)].release()

    def meet(self, item: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Give an item, let all others give theirs, and return ``combine`` of the items in order.

        The last function calls ``combine``, once for all.
        """
        table, meeting = self._table, self._table.meetings
        table.items.append(item)
        if self.index == len(table.turns) - 1:
            assert len(table.items) == len(table.turns), "a function has ended before a meeting of the others"
            table.combined = combine(table.items)
            table.items, table.meetings = [], meeting + 1
        self.pass_on()
        self.wait()
        assert table.meetings == meeting + 1, "a function has ended before a meeting of the others"
        return table.combined


def run_in_turn(work: Callable[[Turn], Any], count: int) -> list[Any]:
    """Call ``work`` ``count`` times, each in its own thread, in turn; return the results in order.

    Raises:
        BaseException: The first error of a call, which ends the others.

    """
    table = _Table([threading.Semaphore(0) for _ in range(count)])

    def play(turn: Turn) -> None:
        try:
            turn.wait()
            table.results[turn.index] = work(turn)
            turn.pass_on()
        except _AbandonedError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again below
            table.fail(error)

    threads = [threading.Thread(target=play, args=(Turn(k, table),), name=f"turn {k}") for k in range(count)]
    for thread in threads:
        thread.start()
    try:
        table.turns[0].release()
        _join(threads)
    except BaseException as error:  # noqa: BLE001 - raised again below; a signal's handler may raise here
        table.fail(error)
        _join(threads)
    if table.error is not None:
        raise table.error
    return [table.results[k] for k in range(count)]


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
