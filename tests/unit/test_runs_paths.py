"""Paths of results and data, in a plain job and in one submitted by ``ray job submit``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crysatom.config.home import base_folder, default_tracking_uri
from crysatom.runs.paths import find, require_file, require_folder, resolve
from tests.full_disk import can_mount, small_disk


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("CRYSATOM_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def copy(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory of a submitted job, with Ray's name."""
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


def test_a_place_that_can_be_written_is_tried_and_nothing_is_left_there(tmp_path: Path) -> None:
    require_folder(tmp_path, ["c"])
    require_folder(tmp_path / "a" / "b", ["c"])
    require_file(tmp_path / "d" / "x.csv")
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_of_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent" / "folder" / "of" / "somebody")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for way in ("file", "loop"):
        with pytest.raises(ValueError, match=f"{way} is a file; --out must name a folder"):
            require_folder(tmp_path / way)
        with pytest.raises(ValueError, match=f"^--out .*/x.csv cannot be written .*{way}: it is a file.; name another"):
            require_file(tmp_path / way / "x.csv")
    with pytest.raises(ValueError, match="file is a file; --name has to name a folder"):
        require_folder(tmp_path, ["file"])
    with pytest.raises(ValueError, match=r"^--out .*/file/a/b cannot be written \(.*/file: it is a file\)"):
        require_folder(tmp_path / "file" / "a" / "b")
    with pytest.raises(ValueError, match="is a folder; --out must name a file"):
        require_file(tmp_path)
    with pytest.raises(ValueError, match="File name too long"):
        require_folder(tmp_path / "a" / ("x" * 300))
    with pytest.raises(ValueError, match="/proc: No such file or directory"):
        require_folder(Path("/proc/x"))


def test_a_folder_that_may_only_be_read_is_refused_though_we_are_root(tmp_path: Path) -> None:
    if not can_mount(tmp_path / "disk"):
        pytest.skip("may not mount a file system here")
    with small_disk(tmp_path / "disk", 100_000) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for refuse in (require_folder, require_file):
            with pytest.raises(ValueError, match="disk: Read-only file system"):
                refuse(disk / "results")
