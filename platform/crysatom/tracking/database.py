"""The file of a sqlite store: one process creates it and migrates it to this MLflow's schema, while others wait.

MLflow does both on first use, in every process. Two processes disturb each other, and one that is killed leaves half a
schema, which no later MLflow can use. Here the work is done in a copy, whose content replaces that of the file in one
transaction: a reader sees the old content or the new one, nothing in between.
"""

from __future__ import annotations

import functools
import logging
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from crysatom.tracking.homes import artifact_root, connect

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

SQLITE = "sqlite"
LOCK_SECONDS = 600.0
"""Seconds that another process may take to create or migrate a store."""

SETTLE_SECONDS = 1.0
"""Seconds without a change after which no program that ignores the lock is taken to be migrating the schema."""

_HALF = "_alembic_tmp_"
"""Prefix of temporary tables, which a migration renames at its end."""

logger = logging.getLogger(__name__)


class StoreError(ValueError):
    """A store that cannot be used as it is. The message says how to repair it."""


def file_of(uri: str) -> Path | None:
    """Return the file of an sqlite store, given its resolved URI; None for another database or a server."""
    if uri.partition(":")[0].partition("+")[0] != SQLITE:
        return None
    return Path(uri.partition(":///")[2].partition("?")[0])


def make_ready(file: Path) -> None:
    """Make a store usable: create it if it is missing, migrate it if MLflow is newer.

    If that was done before, this only reads one small table.

    Raises:
        StoreError: If the store is damaged, from a newer MLflow, not a store, not writable or not lockable.

    """
    found = _settled(file)
    if found.fault:
        raise StoreError(f"{file} {found.fault}")
    if found.ready:
        return
    with _locked(file):
        found = _look(file)  # another process may have done it by now
        if not found.ready:
            _bring_up(file, found)


@dataclass(frozen=True)
class _Found:
    """Content of the file.

    Attributes:
        path: The file.
        tables: Names of the tables.
        revisions: Versions of the schema; one in a healthy store.

    """

    path: Path
    tables: frozenset[str]
    revisions: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not self.tables

    @property
    def ready(self) -> bool:
        return not self.fault and self.revisions == (_head(),)

    @property
    def fault(self) -> str:
        """Why MLflow cannot use the store, and what to do; empty if it can, at most after a migration."""
        if self.empty:
            return ""
        if not self.tables & {"experiments", "alembic_version"}:
            return f"is not an MLflow store but a database of {', '.join(sorted(self.tables)[:5])}; name another store"
        if reason := self._half_migrated:
            return _half_migrated(self.path, reason)
        if self.revisions[0] not in _known():
            return (
                f"was made by a newer MLflow (its schema is {self.revisions[0]}, which this one does not know): "
                "pip install --upgrade mlflow, or name another store"
            )
        return ""

    @property
    def _half_migrated(self) -> str:
        if left := sorted(name for name in self.tables if name.startswith(_HALF)):
            return f"it holds {', '.join(left)}"
        if len(self.revisions) != 1:
            return f"it has {len(self.revisions) or 'no'} versions of its schema"
        missing = sorted(_all_tables() - self.tables) if self.revisions == (_head(),) else []
        return f"it lacks {', '.join(missing)}" if missing else ""


def _half_migrated(file: Path, reason: str) -> str:
    broken = file.with_name(f"{file.name}.broken")
    return (
        f"is a store that was left half-migrated ({reason}), by a program that was killed or by two at once. Put it "
        f"aside: mv {shlex.quote(str(file))} {shlex.quote(str(broken))} ; the next job makes a new one. Then send the "
        "records of each run, kept in the run's folder: python -m crysatom.tracking.flush FOLDER --new-run"
    )


def _look(file: Path) -> _Found:
    if not file.exists():
        return _Found(file, frozenset(), ())
    try:
        with closing(connect(file)) as db:
            names = [str(name) for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = db.execute("SELECT version_num FROM alembic_version") if "alembic_version" in names else ()
            revisions = tuple(str(revision) for (revision,) in found)
    except sqlite3.Error as error:
        raise StoreError(f"{file} cannot be read as an sqlite database ({error}); name another store") from error
    return _Found(file, frozenset(name for name in names if not name.startswith("sqlite_")), revisions)


def _settled(file: Path) -> _Found:
    """Look, and look again while another program, like ``mlflow ui``, changes the schema."""
    found = _look(file)
    while found.fault:
        time.sleep(SETTLE_SECONDS)
        before, found = found, _look(file)
        if found == before:
            break
    return found


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, file)
    except Timeout as error:
        raise StoreError(
            f"{file} has been locked by another process for {LOCK_SECONDS:.0f} s; end the process that holds "
            f"{lock.lock_file}"
        ) from error
    except (OSError, NotImplementedError) as error:  # the latter on a file system without locks
        raise StoreError(
            f"{file} is missing or of an older MLflow; to fix that, {lock.lock_file} is needed, which cannot be locked "
            f"({error}). Use a folder that can be written, on a file system that has locks, or a server: docs/mlflow.md"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, file: Path) -> None:
    try:
        lock.acquire(timeout=1)
    except Timeout:
        logger.info("waiting for another process, which creates %s ...", file)
        lock.acquire(timeout=LOCK_SECONDS)


def _bring_up(file: Path, found: _Found) -> None:
    """Create or migrate a store whose lock is held.

    Raises:
        StoreError: If it is damaged, or cannot be written.

    """
    try:
        with _aside(file) as new:
            if found.empty:
                _make(new, file)
            else:
                _migrate(new, file, found.revisions[0])
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{file} cannot be created or migrated to the schema of this MLflow ({error})") from error


@contextmanager
def _aside(file: Path) -> Iterator[Path]:
    folder = file.with_name(f".{file.name}.new")
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir()
    try:
        yield folder / file.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(new: Path, file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    made = SqlAlchemyStore(f"{SQLITE}:///{new}", artifact_root(file))  # type: ignore[no-untyped-call]
    made.engine.dispose()
    _put(new, file)


def _migrate(new: Path, file: Path, revision: str) -> None:
    """Migrate a store in a copy; keep the old content in a file beside it.

    Raises:
        StoreError: If its content does not match its version, or another program writes meanwhile.

    """
    from mlflow.db import commands  # as "mlflow db upgrade" does

    logger.info("migrating %s from schema %s to %s ...", file, revision, _head())
    with closing(connect(file)) as old:
        written = old.execute("PRAGMA data_version").fetchall()
        _put(file, new)
        try:
            commands.main(["upgrade", f"{SQLITE}:///{new}"], prog_name="mlflow db", standalone_mode=False)
        except Exception as error:  # a migration can raise anything
            first = str(error).partition("\n")[0]
            reason = f"its content does not match its schema {revision}: {first}"
            raise StoreError(f"{file} {_half_migrated(file, reason)}") from error
        kept = file.with_name(f"{file.name}.before-{revision}")
        _put(file, kept)
        if old.execute("PRAGMA data_version").fetchall() != written:
            raise StoreError(f"{file} is being written by a program with an older MLflow; end that first")
    _put(new, file)
    logger.info("the store before the migration: %s", kept)


def _put(content: Path, to: Path) -> None:
    """Replace the content of a database by that of another, in one transaction."""
    with closing(connect(content)) as given, closing(sqlite3.connect(to)) as taken:
        given.backup(taken)


@functools.cache
def _known() -> frozenset[str]:
    return frozenset(script.revision for script in _scripts().walk_revisions())


@functools.cache
def _head() -> str:
    head = _scripts().get_current_head()
    assert head is not None
    return head


@functools.cache
def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(files("mlflow") / "store" / "db_migrations"))


@functools.cache
def _all_tables() -> frozenset[str]:
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401 - which names all tables to Base

    return frozenset(Base.metadata.tables)
