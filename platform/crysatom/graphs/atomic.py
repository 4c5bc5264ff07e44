"""Files that appear whole or not at all, and outlast a power cut."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, scratch: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on leaving without an error it takes the place of ``path``.

    Args:
        path: File to create or replace.
        scratch: Folder on the same file system for the temporary file; a killed process leaves it there.

    """
    temporary = scratch / f"{path.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any, scratch: Path) -> None:
    """Write JSON atomically; equal content makes equal bytes."""
    with replacing(path, scratch) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
