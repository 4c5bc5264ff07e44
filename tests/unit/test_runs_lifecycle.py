"""Lifecycle of a run: one way to open, finish, leave and fail, for every job. Read from its journal."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from crysatom.config import ChemistryConfig
from crysatom.runs.lifecycle import opened
from crysatom.runs.paths import Paths
from crysatom.tracking.journal import Journal
from crysatom.training.full_disk import FullDiskError

CONFIG = ChemistryConfig.of(vectors=("onehot",))


@pytest.fixture(name="paths")
def _paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Paths(tmp_path, "http://127.0.0.1:9")  # the discard port: nobody answers


def run_of(paths: Paths, **options: Any) -> Any:
    return opened(CONFIG, paths, "mine", "data", tags={"study": "x"}, experiment="e", **options)


def statuses(paths: Paths) -> list[str]:
    records = [record for record, _ in Journal(paths.out / "mine" / "tracking").records()]
    return [record["status"] for record in records if record["op"] == "finish"]


def tags(paths: Paths) -> dict[str, str]:
    found: dict[str, str] = {}
    for record, _ in Journal(paths.out / "mine" / "tracking").records():
        found |= record.get("tags", {})
    return found


def test_a_finished_run_is_not_done_again(paths: Paths) -> None:
    with run_of(paths) as run:
        assert not run.again
        run.finish(facts=3)
    with run_of(paths) as run:
        assert run.again
        assert run.folder.read()["facts"] == 3
    assert statuses(paths) == ["FINISHED"]
    assert (tags(paths)["study"], tags(paths)["data_digest"]) == ("x", "data")


def test_a_run_that_was_left_goes_on(paths: Paths) -> None:
    with run_of(paths) as run:
        run.leave("KILLED")
    with run_of(paths) as run:
        assert not run.again
        run.finish()
    assert statuses(paths) == ["KILLED", "FINISHED"]


def test_a_study_is_compared_again_though_it_is_finished(paths: Paths) -> None:
    for _ in range(2):
        with run_of(paths, repeat=True) as run:
            assert not run.again
            run.finish()
    assert statuses(paths) == ["FINISHED", "FINISHED"]


def test_a_failure_is_reported_with_its_reason(paths: Paths) -> None:
    with pytest.raises(ValueError, match="no such table"), run_of(paths):
        raise ValueError("no such table")
    assert statuses(paths) == ["FAILED"]
    assert tags(paths)["reason"] == "ValueError: no such table"
    with run_of(paths) as run:  # the lock is free, and the run open
        run.finish()


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_signal_is_no_failure(paths: Paths, signal: type[BaseException]) -> None:
    with pytest.raises(signal) as caught, run_of(paths):
        raise signal
    assert statuses(paths) == ["KILLED"]
    assert "reason" not in tags(paths)
    if signal is KeyboardInterrupt:
        assert caught.value.__notes__ == [f"the run is in {paths.out / 'mine'}"]


def test_every_run_explains_a_full_disk(paths: Paths) -> None:
    with pytest.raises(FullDiskError, match=r"Make room, then give the same command again$"), run_of(paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert statuses(paths) == ["FAILED"]


def test_an_error_after_the_end_leaves_the_run_finished(paths: Paths) -> None:
    with pytest.raises(ValueError, match="late"), run_of(paths) as run:  # noqa: PT012 - the order is the point
        run.finish()
        raise ValueError("late")
    assert statuses(paths) == ["FINISHED"]


def test_a_block_must_end_its_run(paths: Paths) -> None:
    with pytest.raises(AssertionError, match="neither finished nor left"), run_of(paths):
        pass


def test_a_folder_has_one_run_at_a_time(paths: Paths) -> None:
    with run_of(paths) as run:
        with pytest.raises(ValueError, match="another process is at work in"), run_of(paths):
            pass
        run.finish()
