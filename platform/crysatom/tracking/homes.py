"""A home is the folder of an sqlite store and its artifacts, whose locations MLflow records as absolute paths.

MLflow has no other way: a relative location becomes absolute when an experiment is created, and is resolved against the
working directory when it is read. A home that was moved or copied is therefore detected, and its records are corrected
when the user says so: two machines may see one home under two paths, and only the user knows which one is right.
"""

from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"
"""Folder of artifacts, beside the database."""

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns in which MLflow records locations of artifacts."""

_BUSY_SECONDS = 20.0


class MovedHomeError(ValueError):
    """The store records artifacts outside its home. The message says how to repair it."""


def connect(file: Path) -> sqlite3.Connection:
    """Open an existing database."""
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS)


def artifact_root(file: Path) -> str:
    """Return the location of a store's artifacts, as MLflow expects it."""
    uri = (file.absolute().parent / ARTIFACTS).as_uri()
    return uri.replace("'", "%27")  # MLflow quotes it with apostrophes in SQL


def require_at_home(file: Path) -> None:
    """Check that a store records its artifacts in the folder beside it.

    Raises:
        MovedHomeError: If the home was moved or copied.

    """
    with closing(connect(file)) as db:
        moved = _moved_roots(db, file)
    if moved:
        raise MovedHomeError(
            f"{file} lies in another folder than its records of artifacts say ({', '.join(moved)}): it was moved or "
            "copied. Correct them by: "
            f"python -m crysatom.tracking.relocate --tracking-uri {shlex.quote(f'sqlite:///{file}')}"
        )


def relocate(file: Path) -> list[str]:
    """Correct the records of a moved or copied store to name the artifacts beside it; return their old locations.

    Raises:
        ValueError: If artifacts of runs exist only in the old location.

    """
    new = artifact_root(file)
    with closing(connect(file)) as db, db:
        db.execute("BEGIN IMMEDIATE")
        moved = _moved_roots(db, file)
        for old in moved:
            _require_copied(db, old, file)
            for table, column in _COLUMNS:
                _replace_prefix(db, table, column, old, new)
    return moved


def _moved_roots(db: sqlite3.Connection, file: Path) -> list[str]:
    """Return the recorded locations of artifacts that should be the one beside the store."""
    with_runs = "EXISTS (SELECT 1 FROM runs WHERE runs.experiment_id = experiments.experiment_id)"
    found = db.execute(f"SELECT DISTINCT artifact_location FROM experiments WHERE {with_runs}")  # noqa: S608 - constant
    roots = {root for (location,) in found if _is_root(root := str(location))} - {artifact_root(file)}
    return sorted(root for root in roots if _is_moved(db, root, file))


def _is_root(location: str) -> bool:
    return urlparse(location).scheme in {"", "file"} and _path(location).name == ARTIFACTS


def _is_moved(db: sqlite3.Connection, root: str, file: Path) -> bool:
    """Return whether artifacts are missing where they are recorded, or are also beside the store, after a copy."""
    there, here = _path(root), file.parent / ARTIFACTS
    if not _is_folder(there):
        return True
    return _is_folder(here) and not there.samefile(here) and bool(_folders(here) & _recorded(db, root))


def _require_copied(db: sqlite3.Connection, root: str, file: Path) -> None:
    there, here = _path(root), file.parent / ARTIFACTS
    if _is_folder(there) and (missing := (_folders(there) - _folders(here)) & _recorded(db, root)):
        raise ValueError(
            f"the artifacts of {len(missing)} runs are in {there} only; copy them first: "
            f"cp -rn {shlex.quote(f'{there}/.')} {shlex.quote(str(here))}"
        )


def _recorded(db: sqlite3.Connection, root: str) -> set[str]:
    """Return the ids of the runs whose artifacts are recorded below a location."""
    below = f"{root.rstrip('/')}/"
    found = db.execute("SELECT run_uuid FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(below), below))
    return {str(run) for (run,) in found}


def _replace_prefix(db: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    below = f"{old.rstrip('/')}/"
    db.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - MLflow's names, all from this file
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (new, len(below), old, len(below), below),
    )


def _path(location: str) -> Path:
    parsed = urlparse(location)
    return Path(url2pathname(parsed.path) if parsed.scheme else location)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # another user's folder
        return False


def _folders(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} if _is_folder(path) else set()
