"""Where results go: a folder that outlives the job, whichever way the job was started."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

HOME_VARIABLE = "CRYSATOM_HOME"
RAY_COPIES = "working_dir_files"
"""Folder of Ray's session that holds the working directories of submitted jobs."""


def base_folder() -> Path:
    """Return the folder that relative output paths start from.

    That is ``CRYSATOM_HOME`` if set, else the working directory; except for a job sent by ``ray job submit``,
    whose working directory is a copy that Ray deletes: there it is ``~/crysatom`` of the machine the job runs on.
    """
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser().resolve()
    return Path.home() / "crysatom" if in_copy() else Path.cwd().resolve()


def in_copy() -> bool:
    """Tell whether the working directory is the copy that ``ray job submit --working-dir`` made."""
    return RAY_COPIES in Path.cwd().resolve().parts


def find(path: str) -> Path:
    """Return where an input path is found: from the working directory or, failing that, the base folder.

    The copy of a working folder that a submitted job runs in lacks what git ignores, data first of all.
    """
    given = Path(path).expanduser()
    return given if given.exists() or not resolve(path).exists() else resolve(path)


def resolve(path: str) -> Path:
    """Return an output path as an absolute one."""
    return base_folder() / Path(path).expanduser()


def default_tracking_uri(given: str) -> str:
    """Return where runs are tracked: as given, by ``MLFLOW_TRACKING_URI``, or sqlite in the base folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{base_folder() / 'mlflow.db'}"


def require_folder(out: Path, names: Sequence[str] = ()) -> None:
    """Make the folder of results, and return if files can be made in it: permissions alone do not tell.

    Args:
        out: Absolute.
        names: Of the folders in it that will be used.

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
    """Make the folder of a file of results, and return if files can be made in it.

    Args:
        out: Absolute.

    Raises:
        ValueError: If not, or the file is a folder.

    """
    if out.is_dir():
        raise ValueError(f"{out} is a folder; --out must name a file")
    _try_to_write(out.parent, out)


def _try_to_write(folder: Path, out: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        why = f"{error.strerror}: {there}" if there.is_dir() else f"{there} is a file"
        raise ValueError(f"--out {out} cannot be written ({why}); name another place") from error
