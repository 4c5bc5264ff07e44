"""Where results go and data are found, in a plain job and in one sent by ``ray job submit``."""

from __future__ import annotations

from pathlib import Path

import pytest

from crysatom.pipelines.places import base_folder, default_tracking_uri, find, resolve


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("CRYSATOM_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def copy(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a submitted job, as Ray names it."""
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert not home.exists()
    return folder


def test_results_of_a_plain_job_start_from_the_working_directory(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert home.parent == tmp_path
    assert resolve("runs") == tmp_path / "runs"
    assert resolve("/data/runs") == Path("/data/runs")
    assert default_tracking_uri("") == f"sqlite:///{tmp_path}/mlflow.db"


def test_results_of_a_submitted_job_outlive_its_copy_of_the_folder(copy: Path, home: Path) -> None:
    assert base_folder() == home / "crysatom"
    assert resolve("runs") == home / "crysatom" / "runs"
    assert default_tracking_uri("") == f"sqlite:///{home}/crysatom/mlflow.db"
    assert not resolve("runs").is_relative_to(copy)


@pytest.mark.usefixtures("copy")
def test_a_variable_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSATOM_HOME", str(tmp_path / "shared"))
    assert resolve("runs") == tmp_path / "shared" / "runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert default_tracking_uri("") == "http://host:5000"
    assert default_tracking_uri("sqlite:///mine.db") == "sqlite:///mine.db"


def test_data_that_git_ignores_are_found_beside_the_results(copy: Path, home: Path) -> None:
    (home / "crysatom" / "data").mkdir(parents=True)
    assert find("data") == home / "crysatom" / "data"
    (copy / "data").mkdir()
    assert find("data") == Path("data"), "what came with the job goes first"
    assert find("aflow:prototypes") == Path("aflow:prototypes")
