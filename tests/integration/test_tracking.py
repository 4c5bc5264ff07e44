"""Runs in MLflow: a real SQLite store, a real server, and runs while it is unavailable."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from filelock import FileLock
from mlflow.entities import Experiment, ViewType

from crysatom.tracking import runs, send
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.journal import Journal
from crysatom.tracking.models import fetch_model
from crysatom.tracking.runs import Tracker
from crysatom.tracking.store import client, resolve_uri
from crysatom.tracking.vectors import load_vectors
from crysatom.vectors.controls import permuted
from crysatom.vectors.files import write_vectors
from crysatom.vectors.given import given_vectors
from crysatom.vectors.table import AtomVectors
from tests.full_disk import files_no_larger_than
from tests.mlflow_server import LOST, LosesAnswers, closed_port, serve
from tests.saved_models import write_model

# MLflow uses a loader option that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

TABLE = AtomVectors(
    atomic_numbers=np.array([11, 17]),
    vectors=np.array([[0.1, 0.2, 0.3], [1 / 3, 2, -1]], np.float32),
    site_counts=np.array([4, 4]),
    provenance={"data": "aflow:prototypes"},
)


@pytest.fixture
def directory(tmp_path: Path, new_store: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with a store, as the user's current directory."""
    new_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def started(folder: Path, uri: str = "", *, resume: bool = False) -> Tracker:
    params = {"epochs": 2, "data": "aflow:prototypes"}
    tags = {"data": "data/prototypes/crystals.parquet", "data_digest": "abc"}
    tracker = Tracker.at(folder, uri)
    return tracker.start(experiment="tests", run_name="r", params=params, tags=tags, resume=resume)


def points(tracker: Tracker, name: str) -> list[tuple[int, float]]:
    found = client(tracker.uri).get_metric_history(tracker.run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


def test_a_run_from_start_to_finish(directory: Path) -> None:
    tracker = started(directory / "runs" / "a")
    for epoch in range(2):
        tracker.log_metrics({"train/loss": 2.0 - epoch, "held_out/loss": 3.0}, epoch)
    tracker.log_tags(environment_tags("8 x A100"))
    assert "hardware" not in environment_tags("")
    (directory / "card.md").write_text("card")
    tracker.log_artifact(directory / "card.md")
    picture = tracker.log_figure(matplotlib.figure.Figure(), "loss_curves")
    assert tracker.finish()

    mlflow = client(tracker.uri)
    run = mlflow.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "r"
    assert run.data.params == {"epochs": "2", "data": "aflow:prototypes"}
    assert run.data.tags["data_digest"] == "abc"
    [used] = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("prototypes", "abc")
    assert run.data.tags["version.torch"]
    assert run.data.tags["hardware"] == "8 x A100"
    assert points(tracker, "train/loss") == [(0, 2.0), (1, 1.0)]
    artifacts = [*mlflow.list_artifacts(tracker.run_id), *mlflow.list_artifacts(tracker.run_id, "figures")]
    assert {a.path for a in artifacts} >= {"card.md", "figures", "figures/loss_curves.png"}
    assert picture.is_file()
    # beside the store, for any current directory
    assert str(run.info.artifact_uri).startswith((directory / "mlartifacts").as_uri())
    assert not (directory / "mlruns").exists()


def test_registered_vectors_read_back_equal(directory: Path) -> None:
    tracker = started(directory / "runs" / "a")
    write_vectors(TABLE, directory / "vectors")
    tracker.register("crysatom-vectors", {"dimensions": "3"}, directory / "vectors", to="vectors")
    second = started(directory / "runs" / "b")
    second.register("crysatom-vectors", {"dimensions": "3"}, directory / "vectors", to="vectors")
    mlflow = client(tracker.uri)
    mlflow.set_registered_model_alias("crysatom-vectors", "best", "2")
    uris = ["models:/crysatom-vectors/1", "models:/crysatom-vectors@best", f"runs:/{tracker.run_id}"]
    for uri in [*uris, str(directory / "vectors")]:
        table = load_vectors(uri)
        np.testing.assert_array_equal(table.vectors, TABLE.vectors)
        np.testing.assert_array_equal(table.atomic_numbers, TABLE.atomic_numbers)
        assert table.provenance == TABLE.provenance
    named = given_vectors("permuted:models:/crysatom-vectors@best", load_vectors)
    np.testing.assert_array_equal(named.vectors, permuted(TABLE, 0).vectors)
    assert named.provenance["of"]["of"] == TABLE.provenance
    for uri in ("models:/crysatom-vectors/1", "models:/crysatom-vectors@best"):
        with pytest.raises(ValueError, match=f"^{uri} holds no predictor: .* is it a version of vectors"):
            fetch_model(uri)
    version = mlflow.get_model_version("crysatom-vectors", "1")
    assert version.run_id == tracker.run_id
    assert version.tags == {"dimensions": "3"}


def test_a_damaged_model_is_called_by_the_name_that_was_given(directory: Path) -> None:
    tracker = started(directory / "runs" / "a")
    folder = write_model(directory / "model")
    (folder / "model.safetensors").write_bytes(b"half")
    tracker.register("broken", {}, folder, to="model")
    with pytest.raises(ValueError, match=r"^models:/broken/1 holds a damaged model"):
        fetch_model("models:/broken/1")


def test_sending_the_registration_again_makes_no_second_version(directory: Path) -> None:
    tracker = started(directory / "runs" / "a")
    write_vectors(TABLE, directory / "vectors")
    tracker.register("crysatom-vectors", {}, directory / "vectors", to="vectors")
    journal = Journal(directory / "runs" / "a" / "tracking")
    for record, _ in list(journal.records()):
        send.send(tracker.uri, journal, record)
    assert len(client(tracker.uri).search_model_versions("name = 'crysatom-vectors'")) == 1


def test_runs_of_a_sweep_are_under_it_whenever_mlflow_hears_of_them(directory: Path) -> None:
    away = f"http://127.0.0.1:{closed_port()}"
    parent, child = Tracker.at(directory / "sweep", away), Tracker.at(directory / "sweep" / "trial", away)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        parent.start(experiment="tests", run_name="sweep", params={}, tags={})
        child.start(experiment="tests", run_name="trial", params={"lr": 0.1}, tags={}, parent=parent.folder)
    parent.uri = child.uri = Tracker.at(directory).uri
    assert not child.flush(), "MLflow has not been told of the sweep yet"
    assert child.run_id == ""
    assert parent.flush()
    assert child.flush()
    run = client(child.uri).get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id != ""
    assert run.data.params == {"lr": "0.1"}


@pytest.mark.parametrize("uri", ["models:/absent/1", "models:/absent@best", "runs:/0123456789abcdef"])
def test_vectors_that_are_not_there(directory: Path, uri: str) -> None:
    assert directory.is_dir()
    with pytest.raises(ValueError, match=f"{uri}: not found in sqlite"):
        load_vectors(uri)
    with pytest.raises(ValueError, match="give a version"):
        load_vectors("models:/crysatom-vectors")


def test_metrics_sent_twice_are_not_doubled(directory: Path) -> None:
    tracker = started(directory / "runs" / "a")
    tracker.log_metrics({"train/loss": 2.0, "train/ssl": float("nan")}, 0)
    journal = Journal(directory / "runs" / "a" / "tracking")
    journal.mark_sent(0)  # as if the process had died between sending and recording it
    assert tracker.flush()
    assert points(tracker, "train/loss") == [(0, 2.0)]
    assert len(client(tracker.uri).search_runs([client(tracker.uri).get_run(tracker.run_id).info.experiment_id])) == 1


def test_resumed_run_goes_on_and_repeated_epochs_are_not_doubled(directory: Path) -> None:
    folder = directory / "runs" / "a"
    first = started(folder)
    for epoch in range(3):
        first.log_metrics({"train/loss": 3.0 - epoch}, epoch)
    with (folder / "tracking" / "journal.jsonl").open("a") as file:
        file.write('{"op": "metrics", "val')  # killed while writing
    again = started(folder, resume=True)
    assert again.run_id == first.run_id
    for epoch in range(1, 4):
        again.log_metrics({"train/loss": 3.0 - epoch}, epoch)
    assert points(again, "train/loss") == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.0)]
    history = again.history()
    assert history["train/loss"].tolist() == [3.0, 2.0, 1.0, 0.0]
    assert history.index.tolist() == [0, 1, 2, 3]


def test_while_the_disk_is_full_records_wait_in_memory(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = started(directory / "runs" / "a")
    journal = directory / "runs" / "a" / "tracking" / "journal.jsonl"
    with files_no_larger_than(journal.stat().st_size + 40):
        for epoch in range(2):
            tracker.log_metrics({"train/loss": 1.0 / (epoch + 1)}, epoch)
    assert [said.partition(":")[0] for said in caplog.messages] == ["File too large"] * 2
    assert "2 records for MLflow wait in memory until there is room" in caplog.messages[-1]
    assert tracker.history().empty
    tracker.log_metrics({"train/loss": 0.25}, 2)
    assert tracker.finish()
    assert points(tracker, "train/loss") == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert tracker.history()["train/loss"].tolist() == [1.0, 0.5, 0.25]


def test_the_reason_of_a_failure_stays_until_the_run_is_resumed(directory: Path) -> None:
    tracker = started(directory / "runs" / "a")
    tracker.log_tags({"reason": "ValueError: no"})
    tracker.finish("FAILED")
    mlflow = client(tracker.uri)
    assert mlflow.get_run(tracker.run_id).data.tags["reason"] == "ValueError: no"
    started(directory / "runs" / "a", resume=True)
    assert mlflow.get_run(tracker.run_id).data.tags["reason"] == ""
    [given] = mlflow.get_run(tracker.run_id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("prototypes", "abc"), "named once, though told twice"


def test_a_folder_with_a_run_is_not_taken_over_silently(directory: Path) -> None:
    run_id = started(directory / "runs" / "a").run_id
    with pytest.raises(ValueError, match=f"already holds run {run_id}; resume it"):
        started(directory / "runs" / "a")


def test_tracker_works_in_another_process(directory: Path) -> None:
    tracker = started(directory / "runs" / "a")
    tracker.log_metrics({"train/loss": 1.0}, 0)
    elsewhere = directory / "scratch"
    elsewhere.mkdir()
    script = "import pickle, sys; t = pickle.loads(bytes.fromhex(sys.argv[1])); t.log_metrics({'train/loss': 0.5}, 1)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, pickle.dumps(tracker).hex()]
    subprocess.run(command, check=True, timeout=120, cwd=elsewhere, env=environment)
    assert points(tracker, "train/loss") == [(0, 1.0), (1, 0.5)]
    assert list(elsewhere.iterdir()) == []


def test_what_mlflow_refuses_does_not_stop_the_rest(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = started(directory / "runs" / "a")
    tracker.log_metrics({"not*allowed": 1.0}, 0)
    tracker.log_artifact(directory / "absent.png")
    tracker.log_metrics({"train/loss": 1.0}, 0)
    assert points(tracker, "train/loss") == [(0, 1.0)]
    assert "refused" in caplog.text
    assert "absent.png" in caplog.text


def test_absent_server_costs_little_and_loses_nothing(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = directory / "runs" / "a"
    begin = time.monotonic()
    tracker = started(folder, f"http://127.0.0.1:{closed_port()}")
    for epoch in range(50):
        tracker.log_metrics({"train/loss": float(epoch)}, epoch)
    assert time.monotonic() - begin < 30, "training must not wait for a server that is not there"
    assert [record.levelname for record in caplog.records if "does not answer" in record.message] == ["WARNING"]
    assert "python -m crysatom.tracking.flush" in caplog.text
    assert not tracker.finish()
    assert tracker.run_id == ""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "crysatom.tracking.flush", str(folder)]
    subprocess.run(command, check=True, timeout=120, cwd=directory, env=environment)
    caught_up = Tracker.at(folder)
    assert points(caught_up, "train/loss") == [(epoch, float(epoch)) for epoch in range(50)]
    assert client(caught_up.uri).get_run(caught_up.run_id).info.status == "FINISHED"


def test_a_run_whose_making_was_not_answered_is_found_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = client(resolve_uri("", directory))
    create_run = mlflow.create_run

    def unanswered(*args: Any, **kwargs: Any) -> None:
        create_run(*args, **kwargs)
        raise ConnectionResetError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "create_run", unanswered)
        tracker = started(directory / "runs" / "a")
        assert tracker.run_id == ""
    tracker.log_metrics({"train/loss": 1.0}, 0)
    assert tracker.finish()
    other = started(directory / "runs" / "b")  # with the same name and settings
    assert sorted(all_runs(tracker)) == sorted([tracker.run_id, other.run_id])
    assert points(tracker, "train/loss") == [(0, 1.0)]
    assert mlflow.get_run(tracker.run_id).data.params == {"epochs": "2", "data": "aflow:prototypes"}


def test_one_at_a_time_tells_mlflow(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runs, "LOCK_SECONDS", 0.1)
    tracker = started(directory / "runs" / "a", f"http://127.0.0.1:{closed_port()}")
    caplog.clear()
    here = Tracker.at(tracker.folder)
    with FileLock(tracker.folder / "tracking" / ".lock"):  # as another process that flushes
        assert not here.flush()
    [said] = caplog.messages
    assert "cannot be updated (another process is sending this journal)" in said
    assert here.flush()
    assert all_runs(here) == [here.run_id]


@pytest.fixture
def server_port(directory: Path) -> Iterator[tuple[int, list[subprocess.Popen[bytes]]]]:
    processes: list[subprocess.Popen[bytes]] = []
    assert directory.is_dir()
    yield closed_port(), processes
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers, and without its ten seconds of grace
        process.wait(timeout=30)


def test_server_that_comes_late_gets_everything(
    directory: Path, server_port: tuple[int, list[subprocess.Popen[bytes]]]
) -> None:
    port, processes = server_port
    uri = f"http://127.0.0.1:{port}"
    tracker = started(directory / "runs" / "a", uri)
    tracker.log_metrics({"train/loss": 2.0}, 0)
    write_vectors(TABLE, directory / "vectors")
    assert tracker.run_id == ""
    processes.append(serve(directory, port))
    tracker.log_metrics({"train/loss": 1.0}, 1)  # within the pause: kept
    tracker.register("crysatom-vectors", {"dimensions": "3"}, directory / "vectors", to="vectors")
    assert tracker.finish()
    assert points(tracker, "train/loss") == [(0, 2.0), (1, 1.0)]
    for name in ("models:/crysatom-vectors/1", f"runs:/{tracker.run_id}"):
        np.testing.assert_array_equal(load_vectors(name, uri).vectors, TABLE.vectors)


def all_runs(tracker: Tracker, view: int = ViewType.ACTIVE_ONLY) -> list[str]:
    found = client(tracker.uri).search_runs([known.experiment_id for known in experiments(tracker)], run_view_type=view)
    return [run.info.run_id for run in found]


def experiments(tracker: Tracker) -> list[Experiment]:
    return list(client(tracker.uri).search_experiments(view_type=ViewType.ALL))


def delete_for_good(tracker: Tracker) -> None:
    """Delete a run as ``mlflow gc`` does, whose start takes half a minute."""
    client(tracker.uri)._tracking_client.store._hard_delete_run(tracker.run_id)


@pytest.mark.slow
def test_answers_that_are_lost_make_no_second_run_and_no_second_version(
    directory: Path, server_port: tuple[int, list[subprocess.Popen[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, processes = server_port
    processes.append(serve(directory, port))
    monkeypatch.setattr(runs, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default is 7
    with LosesAnswers(port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        tracker = started(directory / "runs" / "a", f"http://127.0.0.1:{proxy.server_port}")
        assert tracker.run_id == ""
        write_vectors(TABLE, directory / "vectors")
        tracker.register("crysatom-vectors", {}, directory / "vectors", to="vectors")
        assert tracker.finish()
        assert proxy.lost == dict.fromkeys(LOST, 0)
        proxy.shutdown()
    direct = Tracker.at(tracker.folder, f"http://127.0.0.1:{port}")
    assert all_runs(direct, ViewType.ALL) == [direct.run_id]
    assert len(client(direct.uri).search_model_versions("name = 'crysatom-vectors'")) == 1
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"


@pytest.mark.parametrize("next_record", ["metrics", "artifact", "vectors", "resume"])
def test_a_deleted_run_is_replaced_by_one_with_everything(
    directory: Path, next_record: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = directory / "runs" / "a"
    tracker = started(folder)
    write_vectors(TABLE, directory / "vectors")
    (directory / "card.md").write_text("card")
    tracker.log_artifact(directory / "card.md")
    for epoch in range(2):
        tracker.log_metrics({"train/loss": 2.0 - epoch}, epoch)
    deleted = tracker.run_id
    client(tracker.uri).delete_run(deleted)
    if next_record == "resume":
        tracker = started(folder, resume=True)
    elif next_record == "artifact":
        tracker.log_artifact(directory / "vectors", to="again")
    elif next_record == "vectors":
        tracker.register("crysatom-vectors", {}, directory / "vectors", to="vectors")
    tracker.log_metrics({"train/loss": 0.0}, 2)
    assert tracker.finish()
    assert f"run {deleted} was deleted. A new run is created with all records" in caplog.text
    assert "refused" not in caplog.text
    assert all_runs(tracker) == [tracker.run_id]
    assert tracker.run_id != deleted
    assert points(tracker, "train/loss") == [(0, 2.0), (1, 1.0), (2, 0.0)]
    run = client(tracker.uri).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "2", "data": "aflow:prototypes"}
    assert "card.md" in {found.path for found in client(tracker.uri).list_artifacts(tracker.run_id)}
    versions = client(tracker.uri).search_model_versions("name = 'crysatom-vectors'")
    assert [version.run_id for version in versions] == [tracker.run_id] * (next_record == "vectors")


def test_a_run_that_the_store_does_not_have_is_not_made_anew_unasked(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = directory / "runs" / "a"
    tracker = started(folder)
    tracker.log_metrics({"train/loss": 1.0}, 0)
    shutil.move(directory / "mlflow.db", directory / "right.db")
    shutil.copy(directory / "right.db", directory / "other.db")
    other = Tracker.at(folder, "sqlite:///other.db")
    delete_for_good(other)
    other.log_metrics({"train/loss": 0.5}, 1)
    assert not other.finish()
    assert all_runs(other, ViewType.ALL) == []
    assert (
        f"cannot be updated (it has no run {tracker.run_id}, under which this run was started: name the store"
        in caplog.text
    )
    assert "add --new-run" in caplog.text

    right = Tracker.at(folder, "sqlite:///right.db")  # the mistake lost or duplicated nothing
    assert right.flush()
    assert points(right, "train/loss") == [(0, 1.0), (1, 0.5)]
    assert all_runs(right) == [tracker.run_id]


def test_a_run_deleted_for_good_is_made_anew_when_asked(directory: Path) -> None:
    folder = directory / "runs" / "a"
    tracker = started(folder)
    tracker.log_metrics({"train/loss": 1.0}, 0)
    gone = tracker.run_id
    delete_for_good(tracker)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    tracker.log_metrics({"train/loss": 0.5}, 1)
    assert not tracker.finish()
    assert tracker.run_id == gone
    flush = [sys.executable, "-m", "crysatom.tracking.flush", str(folder), "--new-run"]
    subprocess.run(flush, check=True, timeout=120, env=environment)
    assert tracker.run_id != gone
    tracker.log_metrics({"train/loss": 0.25}, 2)
    assert tracker.flush(new_run=True)
    assert all_runs(tracker) == [tracker.run_id], "asking again makes no other"
    assert points(tracker, "train/loss") == [(0, 1.0), (1, 0.5), (2, 0.25)]


def test_a_deleted_experiment_is_named_and_its_run_goes_on_when_it_is_back(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = started(directory / "runs" / "a")
    [experiment] = [found for found in experiments(tracker) if found.name == "tests"]
    client(tracker.uri).delete_experiment(experiment.experiment_id)
    tracker.log_metrics({"train/loss": 1.0}, 0)
    begun_later = started(directory / "runs" / "b")
    assert not tracker.finish()
    assert not begun_later.finish()
    restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
    assert "cannot be updated (experiment 'tests' was deleted; restore it by: MLFLOW_TRACKING_URI=" in caplog.text
    assert restore in caplog.text
    client(tracker.uri).restore_experiment(experiment.experiment_id)
    assert tracker.flush()
    assert begun_later.flush()
    assert sorted(all_runs(tracker)) == sorted([tracker.run_id, begun_later.run_id])
    assert points(tracker, "train/loss") == [(0, 1.0)]


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///tmp/mlruns", "/data/mlruns"])
def test_the_file_store_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ValueError, match="file store is no longer maintained"):
        resolve_uri(uri, tmp_path)


def test_which_store_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("CRYSATOM_HOME", str(tmp_path))
    assert resolve_uri("", tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri("sqlite:///other.db", tmp_path) == f"sqlite:///{tmp_path}/other.db"
    assert resolve_uri("sqlite:////data/other.db", tmp_path) == "sqlite:////data/other.db"
    assert resolve_uri("postgresql+psycopg2://host/db", tmp_path) == "postgresql+psycopg2://host/db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert resolve_uri("", tmp_path) == "http://host:5000"
    assert resolve_uri("sqlite:///mine.db", tmp_path) == f"sqlite:///{tmp_path}/mine.db"
