"""Small text files that users name: regular ones, of a size that they can have."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 64_000_000
"""Vectors, manifests, presets and lists have kilobytes to some megabytes."""


def require_regular(path: Path, most: int = MOST_BYTES) -> None:
    """Return if the path is that of a file with an end: no pipe, which waits, and no device, which never ends.

    Raises:
        OSError: If there is none, as opening it does.
        ValueError: If it is something else, or larger than ``most`` bytes.

    """
    size = path.stat().st_size
    if path.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not path.is_file():
        raise ValueError(f"{path} is no regular file, but a device, a pipe or a socket; name a file")
    if size > most:
        raise ValueError(f"{path} has {size:,} bytes, more than {most:,}; is it another kind of file?")


def read_text(path: Path) -> str:
    """Return the text of a small file in UTF-8.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no such file; see :func:`require_regular`.

    """
    require_regular(path)
    return path.read_text(encoding="utf-8")
