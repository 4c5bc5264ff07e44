"""Writes of files and folders that survive a kill and a power cut: the new content appears whole, or the old one stays.

The content goes to a hidden ``.<name>...partial`` beside the target, is flushed to the disk (``fsync``), and takes the
target's place by one rename, which is flushed as well. An error removes the partial content; a killed process leaves
it, under a name that no reader looks at.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces ``path`` when the block ends without an error.

    Args:
        path: File to create or replace; its folder must exist.
        scratch: Folder for the temporary file, on the file system of ``path``; None: the folder of ``path``.

    """
    # A random name: two processes may write the same file, and have the same id in two containers.
    partial = (scratch or path.parent) / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _flush_folder(path.parent)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; it replaces ``path`` when the block ends without an error.

    Its name is always the same, so that what a killed process left is overwritten. One process writes at a time. A
    folder that is at ``path`` is removed before the rename: a kill in between leaves none.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for folder, _, files in os.walk(partial):
            for name in files:
                _flush(Path(folder, name))
            _flush_folder(Path(folder))
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file atomically."""
    with replaced(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write or replace a UTF-8 file atomically; line ends stay as they are."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any, scratch: Path | None = None) -> None:
    """Write or replace a JSON file atomically; equal content makes equal bytes."""
    with replaced(path, scratch) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    """Flush a folder if its file system can."""
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in {errno.EBADF, errno.EINVAL}:  # network file systems refuse; PostgreSQL ignores the same
            raise
