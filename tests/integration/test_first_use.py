"""What several processes begin at once on a fresh machine: one begins it, and nothing is destroyed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from pymatgen.core import Structure

from crysatom.config import FeaturizeConfig, PretrainConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.graphs.featurize import run
from crysatom.graphs.shard_task import ShardRecord, ShardTask, make_shard
from crysatom.graphs.shards import shard_files
from crysatom.pipelines.run_folder import RunFolder
from crysatom.tracking.runs import Tracker
from crysatom.tracking.store import client
from tests.at_once import at_once
from tests.conftest import PLATFORM

# MLflow uses a loader option that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

WON = "won"

FRESH_STORES = int(os.environ.get("CRYSATOM_FRESH_STORES", "2"))
"""How often eight trackers begin a store."""


def claim(number: int, folder: Path) -> str:
    """Claim a run with a configuration of one's own; it is held until the process ends."""
    try:
        RunFolder(folder / "run").claim(PretrainConfig(seed=number), "data")
    except ValueError as error:
        return str(error)
    return WON


def resume(number: int, folder: Path) -> str:
    """Resume a featurization; its shards take a while, so that both processes are at it."""

    def map_shards(tasks: list[ShardTask]) -> Iterator[ShardRecord]:
        (folder / f"maker-{number}").touch()
        time.sleep(0.5)
        yield from map(make_shard, tasks)

    config = FeaturizeConfig(data=str(folder / "cifs"), out=str(folder / "graphs"), resume=True)
    try:
        report = run(config, ingest_plain, map_shards)
    except ValueError as error:
        return str(error)
    assert report.accepted == 1
    return WON


def track(number: int, folder: Path) -> str:
    """Track a run in the store of the folder."""
    tracker = Tracker.at(folder / f"run{number}", f"sqlite:///{folder}/mlflow.db")
    tracker.start(experiment="first", run_name="same", params={"lr": 0.1}, tags={})
    tracker.log_metrics({"loss": 0.5}, 0)
    return tracker.run_id if tracker.finish() else "not told"


Answers = dict[Path, list[str]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What two processes said of each folder; the same two for all, since a process imports for seconds."""
    claimed = [tmp_path_factory.mktemp("claimed") for _ in range(60)]
    resumed = [tmp_path_factory.mktemp("resumed") for _ in range(5)]
    for folder in resumed:
        (folder / "cifs").mkdir()
        Structure([[4, 0, 0], [0, 4, 0], [0, 0, 4]], ["Po"], [[0, 0, 0]]).to(str(folder / "cifs" / "po.cif"))
    said = at_once(2, [*((claim, folder) for folder in claimed), *((resume, folder) for folder in resumed)])
    return dict(zip([*claimed, *resumed], said, strict=True))


def winners(answers: Answers, kind: str, refusal: str) -> Iterator[tuple[Path, int]]:
    """Yield each folder of a kind with who won; the other must have been refused."""
    for folder, said in answers.items():
        if folder.name.startswith(kind):
            assert said.count(WON) == 1, said
            winner = said.index(WON)
            assert said[1 - winner].startswith(refusal.format(folder))
            yield folder, winner


def test_of_two_claims_of_one_name_one_wins(answers: Answers) -> None:
    won = list(
        winners(answers, "claimed", "another process is at work in {}/run; wait for it, or give this run another")
    )
    assert len(won) == 60
    for folder, winner in won:
        note = json.loads((folder / "run" / "run.json").read_text())
        assert note["config"]["seed"] == winner, "the other has written nothing"


def test_of_two_that_resume_a_featurization_one_does_it(answers: Answers) -> None:
    won = list(winners(answers, "resumed", "another process is making graphs in {}/graphs; wait for it, or choose"))
    assert len(won) == 5
    for folder, winner in won:
        assert [path.name for path in folder.glob("maker-*")] == [f"maker-{winner}"]
        assert not (folder / "graphs" / ".progress").exists()
        assert len(shard_files(folder / "graphs", verify=True)) == 1


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


@pytest.mark.slow
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


@pytest.mark.slow
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
