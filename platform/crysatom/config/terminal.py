"""What reaches a terminal or a log is text: what a stranger's file holds cannot move its cursor or change its title."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TextIO


def one_line(text: object) -> str:
    r"""Return a text with all that is no plain character shown instead of sent: ``\x1b`` for an escape, ``\n`` too.

    That is what Python's ``repr`` would escape, the characters that turn the direction of writing included, and bytes
    of a file's name that are no UTF-8, which could not be written at all.
    """
    said = str(text)
    if said.isprintable():
        return said
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)


def printable(text: object) -> str:
    """Return a text as :func:`one_line` does, but for its line breaks and tabs, which stay."""
    lines = (map(one_line, line.split("\t")) for line in str(text).split("\n"))
    return "\n".join(map("\t".join, lines))


class Terminal:
    """A stream of the process, of text alone once it is :attr:`plain`, whose reader may go away, as ``head`` does.

    Attributes:
        plain: Whether control characters are shown instead of sent. Off for the help of a job, which has colors.

    Args:
        stream: What is written to.
        nobody_reads: Called when the other end of a pipe was closed; what is written from then on is dropped.

    """

    def __init__(self, stream: TextIO, nobody_reads: Callable[[], None]) -> None:
        self._stream = stream
        self._nobody_reads = nobody_reads
        self.plain = False

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        self._try(lambda: self._stream.write(printable(text) if self.plain else text))
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # else Python would say at its end that it could not flush
            os.close(nowhere)
            self._nobody_reads()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
