"""A full disk: how it is told from other errors, and what is said of it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space left, a user's quota used up, a file larger than it may be."""


class FullDiskError(RuntimeError):
    """What has to be written does not fit."""


def is_full(error: BaseException) -> bool:
    """Tell whether an error says that there is no room."""
    return isinstance(error, OSError) and error.errno in _FULL


def room(folder: Path) -> str:
    """Return one phrase on how much room is left where a folder is, or is to be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(there)
    return f"{usage.free:,} bytes free of {usage.total:,} on the disk of {folder}"


@contextmanager
def said_if_full(folder: Path) -> Iterator[None]:
    """Say what to do, should what is done meanwhile find the disk of a run's folder full.

    Raises:
        FullDiskError: If so.

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
