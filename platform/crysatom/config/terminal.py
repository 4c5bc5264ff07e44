"""Make text safe for terminals and logs: content of users' files must not move the cursor or change the title."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TextIO

_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")


def one_line(text: object) -> str:
    r"""Return a text with everything but plain characters escaped: ``\x1b`` for an escape character, also ``\n``.

    These are the characters that ``repr`` escapes, including those that change the writing direction, and bytes of file
    names that are not UTF-8, which could not be written at all.
    """
    said = str(text)
    if said.isprintable():
        return said
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)


def printable(text: object) -> str:
    """Escape a text as :func:`one_line` does, but keep its line breaks and tabs."""
    lines = (map(one_line, line.split("\t")) for line in str(text).split("\n"))
    return "\n".join(map("\t".join, lines))


def colored(text: str) -> str:
    """Escape a text as :func:`printable` does, but also keep changes of color."""
    return "".join(part if _COLOR.fullmatch(part) else printable(part) for part in _COLOR.split(text))


class Terminal:
    """A text stream of the process whose reader may disappear, as with ``head``.

    Attributes:
        plain: Whether colors are escaped too. Off for a job's help, which has colors.

    Args:
        stream: Stream to write to.
        on_closed_pipe: Called when the other end of a pipe is closed; later output is dropped.

    """

    def __init__(self, stream: TextIO, on_closed_pipe: Callable[[], None]) -> None:
        self._stream = stream
        self._on_closed_pipe = on_closed_pipe
        self.plain = False

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        self._try(lambda: self._stream.write(printable(text) if self.plain else colored(text)))
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # otherwise Python complains at exit that it cannot flush
            os.close(nowhere)
            self._on_closed_pipe()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
