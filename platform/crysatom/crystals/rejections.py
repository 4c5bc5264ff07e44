"""Rejected inputs on their way to a file: counted, streamed and bounded, however many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from crysatom.crystals.quarantine import Rejected, quarantine_table

MOST_REJECTED = 1_000_000
"""More rejected than accepted inputs than this are no list that anybody reads: the source is something else."""

ROWS_AT_A_TIME = 4096
"""Rows in memory, some megabytes."""

NAMED = 5
"""First rows, kept to be shown."""

Write = Callable[[list[Rejected]], object]


class Rejections:
    """Passes rejected inputs on to a file, some at a time, and counts them: memory does not depend on their number.

    Args:
        write: Appends rows to the file.

    Attributes:
        accepted: Inputs that were accepted meanwhile; whoever counts them says so here.
        count: Inputs that were rejected.
        first: The first :data:`NAMED` of them.

    """

    def __init__(self, write: Write) -> None:
        self.accepted = self.count = 0
        self.first: list[Rejected] = []
        self._reasons: Counter[str] = Counter()
        self._write = write
        self._waiting: list[Rejected] = []

    def add(self, rejected: Rejected) -> None:
        """Take one more.

        Raises:
            ValueError: If there are too many.

        """
        self.count += 1
        self._reasons[rejected.reason] += 1
        require_few(self.count, self.accepted, rejected.detail)
        if len(self.first) < NAMED:
            self.first.append(rejected)
        self._waiting.append(rejected)
        if len(self._waiting) >= ROWS_AT_A_TIME:
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory."""
        self._write(self._waiting)
        self._waiting = []

    @property
    def reasons(self) -> dict[str, int]:
        """How many inputs each reason rejected, most frequent first."""
        return dict(self._reasons.most_common())


@contextmanager
def streamed(write: Write) -> Iterator[Rejections]:
    """Yield where to put rejected inputs; all are written in the end, if it ends without an error."""
    rejections = Rejections(write)
    yield rejections
    rejections.flush()


def to_parquet(writer: pq.ParquetWriter) -> Write:
    """Return what appends rows to a Parquet file of the quarantine's schema."""
    return lambda rows: writer.write_table(quarantine_table(rows)) if rows else None


def require_few(rejected: int, accepted: int, last: str) -> None:
    """Give up a source that holds hardly anything but what is rejected.

    Args:
        rejected: Inputs so far.
        accepted: Inputs so far.
        last: What is wrong with the last one.

    Raises:
        ValueError: If :data:`MOST_REJECTED` more inputs were rejected than accepted.

    """
    if rejected > accepted + MOST_REJECTED:
        raise ValueError(
            f"{rejected:,} inputs were rejected and {accepted:,} accepted; this is given up, since a quarantine holds "
            f"at most {MOST_REJECTED:,} more than were accepted; is it a source of crystals? The last: {last}"
        )
