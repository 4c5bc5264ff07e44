"""Several processes create or migrate a store at once: no store is destroyed, and no run is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from crysatom.tracking.runs import Tracker
from crysatom.tracking.store import client
from tests.at_once import at_once
from tests.conftest import PLATFORM

# MLflow uses a loader option that SQLAlchemy 2.1 deprecates
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")]

FRESH_STORES = int(os.environ.get("CRYSATOM_FRESH_STORES", "2"))
"""Number of stores that eight trackers create at once."""


def track(number: int, folder: Path) -> str:
    """Track a run in the store of the folder."""
    tracker = Tracker.at(folder / f"run{number}", f"sqlite:///{folder}/mlflow.db")
    tracker.start(experiment="first", run_name="same", params={"lr": 0.1}, tags={})
    tracker.log_metrics({"loss": 0.5}, 0)
    return tracker.run_id if tracker.finish() else "not told"


def make_older(file: Path) -> str:
    """Make a store as an earlier MLflow did, with an experiment in it; return the version of its schema."""
    scripts = ScriptDirectory.from_config(utils._get_alembic_config(f"sqlite:///{file}"))
    [head] = scripts.get_heads()
    earlier = str(scripts.get_revision(head).down_revision)
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
    InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(f"sqlite:///{file}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, earlier)
    engine.dispose()
    with closing(sqlite3.connect(file)) as db, db:
        db.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "VALUES (7, 'earlier', '/nowhere', 'active', 'default')"
        )
    return earlier


def versions(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as db:
        return [version for (version,) in db.execute("SELECT version_num FROM alembic_version")]


@pytest.mark.timeout(1800)
def test_eight_trackers_begin_a_store_together(tmp_path: Path) -> None:
    folders = [tmp_path / f"fresh{k}" for k in range(FRESH_STORES)] + [tmp_path / "older"]
    for folder in folders:
        folder.mkdir()
    earlier = make_older(folders[-1] / "mlflow.db")
    for folder, run_ids in zip(folders, at_once(8, [(track, folder) for folder in folders]), strict=True):
        file = folder / "mlflow.db"
        with closing(sqlite3.connect(file)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert not {name for name in tables if name.startswith("_alembic_tmp_")}
        store = client(f"sqlite:///{file}")
        [experiment] = store.search_experiments(filter_string="name = 'first'")
        told = store.search_runs([experiment.experiment_id], "metrics.loss = 0.5 and status = 'FINISHED'")
        assert sorted(run.info.run_id for run in told) == sorted(set(run_ids))
        assert len(told) == 8
        assert not (folder / ".mlflow.db.new").exists()
    assert store.get_experiment_by_name("earlier").experiment_id == "7", "what was in an older store is kept"
    assert versions(file) != [earlier] == versions(folder / f"mlflow.db.before-{earlier}")


def test_a_process_killed_while_it_makes_a_store_leaves_nothing_half(tmp_path: Path) -> None:
    file, new = tmp_path / "mlflow.db", tmp_path / ".mlflow.db.new" / "mlflow.db"
    script = f"from crysatom.tracking.store import client; client('sqlite:///{file}')"
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(PLATFORM)})
    waited_until = time.monotonic() + 120
    while not (new.exists() and new.stat().st_size) and time.monotonic() < waited_until:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert new.exists()
    assert not file.exists()
    assert client(f"sqlite:///{file}").search_experiments()
    assert not new.parent.exists()
