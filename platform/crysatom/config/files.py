"""Small text files that users name: regular files of plausible size."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 64_000_000
"""Largest size. Vectors, manifests, presets and lists have kilobytes to a few megabytes."""


def require_regular(path: Path, most: int = MOST_BYTES) -> None:
    """Check that a path is a regular file: reading a pipe may block, and a device may never end.

    Raises:
        OSError: If there is no file, as when opening it.
        ValueError: If it is not a regular file, or is larger than ``most`` bytes.

    """
    size = path.stat().st_size
    if path.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file but a device, a pipe or a socket; name a file")
    if size > most:
        raise ValueError(f"{path} has {size:,} bytes, more than {most:,}; is it another kind of file?")


def read_text(path: Path) -> str:
    """Return the text of a small UTF-8 file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not such a file; see :func:`require_regular`.

    """
    require_regular(path)
    return path.read_text(encoding="utf-8")
