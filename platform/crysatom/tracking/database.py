"""The file of a sqlite store: made, and brought to the schema of this MLflow, by one process while others wait.

MLflow does both at first touch, in every process that touches. Two get into each other's way, one that is killed leaves
half a schema, and no later MLflow can use either. Here it is done in a copy aside, which becomes the content of the
file in one transaction: a reader finds the old content or the new one, never what is in between.
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
"""How long another process may take to make a store, or to migrate it."""

SETTLE_SECONDS = 1.0
"""A schema that does not change for so long is not being worked on by a program that knows of no lock."""

_HALF = "_alembic_tmp_"
"""Of tables that a migration renames at its end."""

logger = logging.getLogger(__name__)


class StoreError(ValueError):
    """A store that cannot be used as it is. Says how it is repaired."""


def file_of(uri: str) -> Path | None:
    """Return the file of an sqlite store, whose URI is resolved; None: it is another database, or a server."""
    if uri.partition(":")[0].partition("+")[0] != SQLITE:
        return None
    return Path(uri.partition(":///")[2].partition("?")[0])


def make_ready(file: Path) -> None:
    """See to it that MLflow can use a store as it is: make it if it is missing, migrate it if MLflow is newer.

    Costs the reading of one small table when that has been done before.

    Raises:
        StoreError: If the store is damaged, of a newer MLflow, no store at all, or cannot be written or locked.

    """
    found = _settled(file)
    if found.fault:
        raise StoreError(f"{file} {found.fault}")
    if found.ready:
        return
    with _locked(file):
        found = _look(file)  # another process may have done it meanwhile
        if not found.ready:
            _bring_up(file, found)


@dataclass(frozen=True)
class _Found:
    """What is in the file.

    Attributes:
        path: Of the file.
        tables: Names.
        revisions: Of the schema; one, if all is well.

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
        """Why MLflow cannot use it, and what to do; empty: it can, once it is migrated."""
        if self.empty:
            return ""
        if not self.tables & {"experiments", "alembic_version"}:
            return f"is no MLflow store but a database of {', '.join(sorted(self.tables)[:5])}; name another store"
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
        f"aside: mv {shlex.quote(str(file))} {shlex.quote(str(broken))} ; the next job makes a new one. Then tell that "
        "of each run, of which its folder has kept all: python -m crysatom.tracking.flush FOLDER --new-run"
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
    """Look, and look again as long as somebody else, like ``mlflow ui``, is at it."""
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
            f"{file} has been in the making by another process for {LOCK_SECONDS:.0f} s; end that, which holds "
            f"{lock.lock_file}"
        ) from error
    except (OSError, NotImplementedError) as error:  # the latter: of a file system without locks
        raise StoreError(
            f"{file} is missing or of an older MLflow; who mends that holds {lock.lock_file}, which cannot be locked "
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
        logger.info("waiting for another process, which makes %s ...", file)
        lock.acquire(timeout=LOCK_SECONDS)


def _bring_up(file: Path, found: _Found) -> None:
    """Make or migrate a store, of which the lock is held.

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
        raise StoreError(f"{file} cannot be made or brought to the schema of this MLflow ({error})") from error


@contextmanager
def _aside(file: Path) -> Iterator[Path]:
    folder = file.with_name(f".{file.name}.new")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
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
    """Migrate a store in a copy; what was in it before is kept in a file beside it.

    Raises:
        StoreError: If its content is not what its version says, or another program writes meanwhile.

    """
    from mlflow.db import commands  # of "mlflow db upgrade"

    logger.info("bringing %s from schema %s to %s ...", file, revision, _head())
    with closing(connect(file)) as old:
        written = old.execute("PRAGMA data_version").fetchall()
        _put(file, new)
        try:
            commands.main(["upgrade", f"{SQLITE}:///{new}"], prog_name="mlflow db", standalone_mode=False)
        except Exception as error:  # whatever a migration stumbles over
            first = str(error).partition("\n")[0]
            reason = f"what is in it is not of schema {revision}, as it says: {first}"
            raise StoreError(f"{file} {_half_migrated(file, reason)}") from error
        kept = file.with_name(f"{file.name}.before-{revision}")
        _put(file, kept)
        if old.execute("PRAGMA data_version").fetchall() != written:
            raise StoreError(f"{file} is being written by another program, of an older MLflow; end that first")
    _put(new, file)
    logger.info("the store as it was before: %s", kept)


def _put(content: Path, to: Path) -> None:
    """Give a database the content of another, in one transaction."""
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
