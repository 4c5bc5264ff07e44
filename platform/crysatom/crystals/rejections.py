"""Count rejected inputs and stream them to a file, up to a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from crysatom.crystals.quarantine import Rejected, quarantine_table

MOST_REJECTED = 1_000_000
"""Largest surplus of rejected over accepted inputs; beyond it, the source is not one of crystals."""

ROWS_AT_A_TIME = 4096
"""Rows held in memory: some megabytes."""

NAMED = 5
"""Number of first rows that are kept for display."""

Write = Callable[[list[Rejected]], object]


class Rejections:
    """Writes rejected inputs to a file in chunks and counts them; memory does not depend on their number.

    Args:
        write: Appends rows to the file.

    Attributes:
        accepted: Number of accepted inputs; set by the caller.
        count: Number of rejected inputs.
        first: The first :data:`NAMED` of them.

    """

    def __init__(self, write: Write) -> None:
        self.accepted = self.count = 0
        self.first: list[Rejected] = []
        self._reasons: Counter[str] = Counter()
        self._write = write
        self._waiting: list[Rejected] = []

    def add(self, rejected: Rejected) -> None:
        """Add a rejected input.

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
        """Write the rows that are still in memory."""
        self._write(self._waiting)
        self._waiting = []

    @property
    def reasons(self) -> dict[str, int]:
        """Number of rejected inputs of each reason, most frequent first."""
        return dict(self._reasons.most_common())


@contextmanager
def streamed(write: Write) -> Iterator[Rejections]:
    """Yield a collector of rejected inputs; all are written at exit unless an error is raised."""
    rejections = Rejections(write)
    yield rejections
    rejections.flush()


def to_parquet(writer: pq.ParquetWriter) -> Write:
    """Return a function that appends rows to a Parquet file with the quarantine's schema."""
    return lambda rows: writer.write_table(quarantine_table(rows)) if rows else None


def require_few(rejected: int, accepted: int, last: str) -> None:
    """Raise if almost all inputs of a source are rejected.

    Args:
        rejected: Number of rejected inputs so far.
        accepted: Number of accepted inputs so far.
        last: Message of the last rejection.

    Raises:
        ValueError: If :data:`MOST_REJECTED` more inputs were rejected than accepted.

    """
    if rejected > accepted + MOST_REJECTED:
        raise ValueError(
            f"{rejected:,} inputs were rejected and {accepted:,} accepted; this is given up, since a quarantine holds "
            f"at most {MOST_REJECTED:,} more than were accepted; is it a source of crystals? The last: {last}"
        )
