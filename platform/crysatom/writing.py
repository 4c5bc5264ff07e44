"""Atomic writes of files and folders, safe against a kill or a power failure: either the new or the old content exists.

The content is written to a hidden ``.<name>...partial`` beside the target, flushed to disk (``fsync``), and renamed to
the target; the rename is flushed too. An error removes the partial content. A killed process leaves it under a name
that readers ignore.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def replaced(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces ``path`` when the block ends without an error.

    Args:
        path: File to create or replace; its folder must exist.
        scratch: Folder for the temporary file, on the file system of ``path``; None: the folder of ``path``.

    """
    # A random name: two processes may write the same file, and may have the same id in two containers.
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

    Its name is fixed, so that remains of a killed process are overwritten. One process writes at a time. An existing
    folder at ``path`` is removed before the rename: a kill in between leaves none.
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
    """Write or replace a UTF-8 file atomically; line endings are unchanged."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any, scratch: Path | None = None) -> None:
    """Write or replace a JSON file atomically; equal content gives equal bytes."""
    with replaced(path, scratch) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_figure(path: Path, figure: Figure, dpi: int = 200) -> None:
    """Write or replace a picture of a matplotlib figure atomically; the format is that of the suffix."""
    with replaced(path) as partial:
        figure.savefig(partial, dpi=dpi, format=path.suffix[1:])


def _flush(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to disk."""
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
        if error.errno not in {errno.EBADF, errno.EINVAL}:  # some network file systems; PostgreSQL ignores them too
            raise
