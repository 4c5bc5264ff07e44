"""Paths of a job: where inputs are found and where results go, however the job was started."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from crysatom.config.groups import Output, Store
from crysatom.config.home import base_folder, default_tracking_uri

_PERMUTED = re.compile(r"^permuted:(?:[0-9]+:)?")


@dataclass(frozen=True)
class Paths:
    """Where a job leaves its results; resolved once, when it starts.

    Attributes:
        out: Folder of the runs' folders, absolute.
        tracking_uri: MLflow store.

    """

    out: Path
    tracking_uri: str

    @classmethod
    def of(cls, output: Output, tracking: Store) -> Paths:
        """Return the paths of a job with these settings."""
        return cls(resolve(output.out), default_tracking_uri(tracking.tracking_uri))


def find(path: str) -> Path:
    """Return where an input is: relative to the working directory or, if it is not there, to the base folder.

    The copied working directory of a submitted job lacks what git ignores, data first of all.
    """
    given = Path(path).expanduser()
    return given if given.exists() or not resolve(path).exists() else resolve(path)


def find_vectors(vectors: str) -> str:
    """Return the name of vectors with its path, if it has one, as :func:`find` finds it; other names as they are."""
    path = _PERMUTED.sub("", vectors, count=1)
    control = vectors.removesuffix(path)
    return f"{control}{find(path)}" if "/" in path and find(path).exists() else vectors


def resolve(path: str) -> Path:
    """Return an output path as an absolute path."""
    return base_folder() / Path(path).expanduser()


def require_folder(out: Path, names: Sequence[str] = ()) -> None:
    """Check that a folder of results can be created and written, by trying: permissions alone are not enough.

    Args:
        out: Absolute path of the folder.
        names: Names of the folders in it that the job will use.

    Raises:
        ValueError: If it cannot be written, or a file is in the way.

    """
    for folder in (out, *(out / name for name in names)):
        if os.path.lexists(folder) and not folder.is_dir():
            raise ValueError(
                f"{folder} is a file; " + ("--out must" if folder == out else "--name has to") + " name a folder"
            )
    _try_to_write(out, out)


def require_file(out: Path) -> None:
    """Check that a file of results can be created; see :func:`require_folder`.

    Args:
        out: Absolute path of the file.

    Raises:
        ValueError: If it cannot be written, or is a folder.

    """
    if out.is_dir():
        raise ValueError(f"{out} is a folder; --out must name a file")
    _try_to_write(out.parent, out)


def _try_to_write(folder: Path, out: Path) -> None:
    """Write an unnamed file to a folder, or to its first existing parent, so that a refused job leaves nothing."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        with tempfile.TemporaryFile(dir=there):
            pass
        for part in folder.relative_to(there).parts:  # a part may be too long for a name
            with suppress(FileNotFoundError):
                os.lstat(there / part)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written ({there}: {error.strerror}); name another place") from error
