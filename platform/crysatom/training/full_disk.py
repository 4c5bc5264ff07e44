"""Recognize a full disk and explain it to the user."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space left, quota exceeded, file too large."""


class FullDiskError(RuntimeError):
    """The disk is full, so results cannot be written."""


def is_full(error: BaseException) -> bool:
    """Return whether an error means that the disk is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def room(folder: Path) -> str:
    """Return a phrase on the free space of the disk of a folder, which need not exist yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(there)
    return f"{usage.free:,} bytes free of {usage.total:,} on the disk of {folder}"


@contextmanager
def explain_disk_full(folder: Path, *, resumes: bool) -> Iterator[None]:
    """Turn a full-disk error into one that says what to do.

    Args:
        folder: Folder of the run.
        resumes: Whether the job has a flag ``--resume``.

    Raises:
        FullDiskError: If the block raises because the disk is full.

    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise FullDiskError(
            f"{error.strerror}: the results of {folder} could not be written ({room(folder)}). Make room, then give "
            "the same command"
            + (" with --resume, which continues from the last complete checkpoint" if resumes else " again")
        ) from error
