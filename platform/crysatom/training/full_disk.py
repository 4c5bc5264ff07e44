"""A full disk: how to recognize it, and what to tell the user."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space left, a user's quota used up, a file larger than it may be."""


class FullDiskError(RuntimeError):
    """The disk has no room for results."""


def is_full(error: BaseException) -> bool:
    """Return whether an error says that the disk is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def room(folder: Path) -> str:
    """Return one phrase on the free space of the disk that holds, or will hold, a folder."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(there)
    return f"{usage.free:,} bytes free of {usage.total:,} on the disk of {folder}"


@contextmanager
def explain_disk_full(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do.

    Raises:
        FullDiskError: If the block finds the disk of the run's folder full.

    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise FullDiskError(
            f"{error.strerror}: the results of {folder} could not be written ({room(folder)}). Make room, then give "
            "the same command with --resume, which goes on from the last whole checkpoint"
        ) from error
