"""File of an SQLite store: created atomically, problems reported, and found again after a move."""

from __future__ import annotations

import errno
import fcntl
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from crysatom.tracking import relocate
from crysatom.tracking.database import StoreError, make_ready
from crysatom.tracking.homes import MovedHomeError
from crysatom.tracking.reading import Store
from crysatom.tracking.runs import Tracker
from crysatom.tracking.store import client, resolve_uri
from crysatom.tracking.vectors import load_vectors
from crysatom.vectors.files import write_vectors
from crysatom.vectors.table import AtomVectors

# MLflow uses a loader option that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

TABLE = AtomVectors(
    atomic_numbers=np.array([11, 17]),
    vectors=np.array([[0.1, 0.2], [1 / 3, 2]], np.float32),
    site_counts=np.array([4, 4]),
    provenance={"data": "aflow:prototypes"},
)


def database(place: Path) -> Path:
    return place / "mlflow.db"


def uri(place: Path) -> str:
    return f"sqlite:///{database(place)}"


def tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def change(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as db, db:
        for statement in statements:
            db.execute(statement)


def track(place: Path, name: str) -> str:
    """Make a finished run with a metric, an artifact and a registered model; return its id."""
    tracker = Tracker.at(place / "runs" / name, uri(place))
    tracker.start(experiment="homes", run_name=name, params={}, tags={})
    tracker.log_metrics({"loss": 0.5}, 0)
    write_vectors(TABLE, tracker.folder / "vectors")
    tracker.register("vectors", {}, tracker.folder / "vectors", to="vectors")
    assert tracker.finish()
    return tracker.run_id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New empty store: making one takes seconds, copying it does not."""
    place = tmp_path_factory.mktemp("made")
    (place / ".mlflow.db.new").mkdir()
    (place / ".mlflow.db.new" / "mlflow.db").write_text("of a process that was killed")
    client(uri(place))
    return database(place)


@pytest.fixture
def home(tmp_path: Path, made: Path) -> Path:
    place = tmp_path / "my home"
    place.mkdir()
    shutil.copy(made, place)
    return place


def test_a_store_appears_whole(made: Path) -> None:
    assert {path.name for path in made.parent.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}
    assert not {name for name in tables(made) if name.startswith("_alembic_tmp_")}


def test_a_store_that_is_there_needs_no_lock(home: Path) -> None:
    with FileLock(home / ".mlflow.db.lock"):
        make_ready(database(home))


def test_an_empty_file_becomes_a_store(tmp_path: Path, made: Path) -> None:
    database(tmp_path).touch()
    make_ready(database(tmp_path))
    assert tables(database(tmp_path)) == tables(made)


HALF_MIGRATED = {
    "a table that was to be renamed": ["CREATE TABLE _alembic_tmp_metrics (key TEXT)"],
    "no version": ["DELETE FROM alembic_version"],
    "no table of versions": ["DROP TABLE alembic_version"],
    "two versions": ["INSERT INTO alembic_version VALUES ('a8c4a736bde6')"],
    "a table too few": ["DROP TABLE model_versions"],
    "an earlier version than its tables": ["UPDATE alembic_version SET version_num = '451aebb31d03'"],
}


@pytest.mark.parametrize("statements", HALF_MIGRATED.values(), ids=HALF_MIGRATED)
def test_a_half_migrated_store_is_told_and_kept(home: Path, statements: list[str]) -> None:
    change(database(home), *statements)
    before = database(home).read_bytes()
    with pytest.raises(StoreError, match=r"is a store that was left half-migrated \(.*\), by .* Put it aside: mv "):
        client(uri(home))
    assert database(home).read_bytes() == before
    assert not list(home.glob(".mlflow.db.new")) + list(home.glob("mlflow.db.before-*"))


def test_the_repair_of_a_half_migrated_store(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = track(home, "a")
    (tmp_path / "later").mkdir()
    shutil.copy(database(home), tmp_path / "later")
    change(database(tmp_path / "later"), "CREATE TABLE _alembic_tmp_metrics (key TEXT)")

    again = Tracker.at(home / "runs" / "a", uri(tmp_path / "later"))
    again.log_metrics({"loss": 0.25}, 1)
    [said] = caplog.messages
    assert said.startswith(
        f"MLflow at {again.uri} cannot be updated ({database(tmp_path / 'later')} is a store that was"
    )
    repair = said.partition("Put it aside: ")[2].partition(" ;")[0]
    subprocess.run(shlex.split(repair), check=True)
    assert again.flush(new_run=True)
    assert again.run_id != first
    history = client(again.uri).get_metric_history(again.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.25)]
    assert client(again.uri).get_run(again.run_id).info.status == "FINISHED"
    np.testing.assert_array_equal(load_vectors("models:/vectors/1", again.uri).vectors, TABLE.vectors)


def test_a_run_that_was_told_is_told_anew_to_a_new_store(home: Path, tmp_path: Path, made: Path) -> None:
    track(home, "a")
    (tmp_path / "new").mkdir()
    shutil.copy(made, tmp_path / "new")
    again = Tracker.at(home / "runs" / "a", uri(tmp_path / "new"))
    assert again.flush(new_run=True)
    assert client(again.uri).get_run(again.run_id).data.metrics == {"loss": 0.5}
    assert again.flush(new_run=True)
    assert len(client(again.uri).search_runs(["1"])) == 1, "asking again makes no other"


NO_STORE: dict[str, tuple[Callable[[Path], object], str]] = {
    "of a newer MLflow": (
        lambda file: change(file, "UPDATE alembic_version SET version_num = 'fffffffffff0'"),
        r"made by a newer MLflow \(its schema is fffffffffff0, .* pip install --upgrade mlflow",
    ),
    "another program's": (
        lambda file: (file.unlink(), change(file, "CREATE TABLE systems (id INTEGER)")),
        "is not an MLflow store but a database of systems; name another store",
    ),
    "no database": (
        lambda file: file.write_text("x" * 1000),
        r"cannot be read as an sqlite database \(file is not a database\); name another store",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), NO_STORE.values(), ids=NO_STORE)
def test_what_is_no_store_is_told_and_kept(home: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(database(home))
    before = database(home).read_bytes()
    with pytest.raises(ValueError, match=message):
        Store.at(uri(home)).runs(["homes"])
    assert database(home).read_bytes() == before


def test_a_place_where_nothing_can_be_made_is_told() -> None:
    with pytest.raises(StoreError, match=r"/proc/none/mlflow.db is missing .* cannot be locked .* can be written"):
        client("sqlite:////proc/none/mlflow.db")


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match=r"No locks available\). Use a folder .* on a file system that has locks"):
        client(uri(tmp_path))


def test_options_of_the_uri_are_not_part_of_the_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    tracker = Tracker.at(home / "run", "sqlite:///mlflow.db?timeout=5")
    assert tracker.uri == f"{uri(home)}?timeout=5"
    tracker.start(experiment="options", run_name="a", params={}, tags={})
    assert client(tracker.uri).get_run(tracker.run_id).info.artifact_uri.startswith((home / "mlartifacts").as_uri())
    assert {path.name for path in home.glob("mlflow*")} == {"mlflow.db"}


@pytest.mark.parametrize("given", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:a.db?uri=true"])
def test_a_store_that_would_not_last_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"names no file on disk; write sqlite:///PATH"):
        resolve_uri(given, Path.cwd())


def repaired(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow the advice of the message."""
    _, _, command = str(error).partition("Correct them by: python -m ")
    module, *arguments = shlex.split(command)
    assert module == relocate.__name__
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    relocate.main()


def readable(place: Path, *run_ids: str) -> bool:
    for run_id in run_ids:
        np.testing.assert_array_equal(load_vectors(f"runs:/{run_id}", uri(place)).vectors, TABLE.vectors)
    np.testing.assert_array_equal(load_vectors("models:/vectors/1", uri(place)).vectors, TABLE.vectors)
    return True


def test_a_home_that_was_moved_keeps_working(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = track(home, "a")
    moved = tmp_path / "another place" / "that's mine"
    moved.parent.mkdir()
    shutil.move(home, moved)
    with pytest.raises(MovedHomeError, match=r"was moved or copied. Correct them by: python -m") as caught:
        load_vectors("models:/vectors/1", uri(moved))
    repaired(caught.value, monkeypatch)
    assert readable(moved, first)
    second = track(moved, "b")
    assert readable(moved, first, second)
    assert not home.exists(), "nothing is written where it was"
    third = tmp_path / "third"
    shutil.move(moved, third)
    with pytest.raises(MovedHomeError) as again:
        Store.at(uri(third)).runs(["homes"])
    repaired(again.value, monkeypatch)
    assert readable(third, first, second)


def test_a_home_with_an_apostrophe_is_made(tmp_path: Path) -> None:
    """MLflow puts the path of its first experiment into an SQL statement without escaping."""
    home = tmp_path / "it's"
    home.mkdir()
    first = track(home, "a")
    assert readable(home, first)


def test_a_home_that_was_copied_has_artifacts_of_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = track(home, "a")
    copied = tmp_path / "copied"
    shutil.copytree(home, copied)
    with pytest.raises(MovedHomeError, match=f"^{database(copied)} lies in another folder than") as caught:
        client(uri(copied))
    repaired(caught.value, monkeypatch)
    second = track(copied, "b")
    assert (copied / "mlartifacts" / second).is_dir()
    assert not (home / "mlartifacts" / second).exists()
    shutil.rmtree(home)
    assert readable(copied, first, second)


def test_artifacts_that_were_not_copied_are_not_left_behind(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = track(home, "a"), track(home, "b")
    copied = tmp_path / "copied"
    shutil.copytree(home, copied)
    shutil.rmtree(copied / "mlartifacts" / second)
    with pytest.raises(MovedHomeError) as caught:
        client(uri(copied))
    with pytest.raises(
        SystemExit, match=r"^error: the artifacts of 1 runs are in .* only; copy them first: cp "
    ) as said:
        repaired(caught.value, monkeypatch)
    subprocess.run(shlex.split(str(said.value).partition("copy them first: ")[2]), check=True)
    repaired(caught.value, monkeypatch)
    shutil.rmtree(home)
    assert readable(copied, first, second)


def test_a_store_copied_without_artifacts_uses_those_where_they_are(home: Path, tmp_path: Path) -> None:
    first = track(home, "a")
    (tmp_path / "other").mkdir()
    shutil.copy(database(home), tmp_path / "other")
    assert readable(tmp_path / "other", first)


def test_a_home_under_another_name_is_not_moved(home: Path, tmp_path: Path) -> None:
    first = track(home, "a")
    (tmp_path / "link").symlink_to(home)
    assert readable(tmp_path / "link", first)


def test_nothing_to_relocate(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    track(home, "a")
    monkeypatch.setattr(sys, "argv", ["relocate", "--tracking-uri", uri(home)])
    relocate.main()
    assert "nothing to do" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["relocate", "--tracking-uri", "http://127.0.0.1:5000"])
    with pytest.raises(SystemExit, match="is not an existing sqlite file"):
        relocate.main()


def test_what_mlflow_was_not_told_moves_with_the_home(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = Tracker.at(home / "runs" / "sweep", "http://127.0.0.1:9")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        away.start(experiment="homes", run_name="sweep", params={}, tags={})
        child = Tracker.at(away.folder / "trials" / "0", away.uri)
        child.start(experiment="homes", run_name="0", params={}, tags={}, parent=away.folder)
        write_vectors(TABLE, child.folder / "vectors")
        child.register("vectors", {}, child.folder / "vectors", to="vectors")
        (child.folder / "card.md").write_text("card")
        child.log_artifact(child.folder / "card.md")
        child.finish()
    moved = tmp_path / "moved"
    shutil.move(home, moved)
    caplog.clear()
    parent, child = (Tracker.at(moved / "runs" / name, uri(moved)) for name in ("sweep", "sweep/trials/0"))
    assert parent.flush()
    assert child.flush()
    assert caplog.messages == []
    assert readable(moved, child.run_id)
    run = client(uri(moved)).get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert "card.md" in {found.path for found in client(uri(moved)).list_artifacts(child.run_id)}
