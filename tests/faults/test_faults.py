"""Faults in real jobs: a few here, many on a cluster by ``python -m tests.faults.harness``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crysatom.config import PretrainConfig
from crysatom.pipelines.pretraining import FinishedRun, run
from crysatom.runs.folder import CHECKPOINTS
from crysatom.training.full_disk import FullDiskError
from tests.conftest import PLATFORM
from tests.faults.harness import PLAN, Outcome
from tests.faults.harness import run as inject
from tests.faults.injections import INJECTIONS, MESSAGES
from tests.faults.kinds import different_metrics, kinds, newest_folder
from tests.faults.report import MARKER, write
from tests.faults.world import World, wait_for
from tests.full_disk import can_mount, files_no_larger_than, small_disk
from tests.small_runs import one_thread, prepared  # noqa: F401

pytestmark = [
    pytest.mark.timeout(900),
    # Ray and MLflow use options deprecated by themselves or by SQLAlchemy
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

EPOCHS = 8
SMALL: dict[str, Any] = {"embedding_dim": 16, "projection_dim": 16, "batch_size": 16, "epochs": EPOCHS, "register": ""}


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], Path]) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    prepared(PretrainConfig.of(num_workers=0, max_atoms=8), folder).rename(folder / "graphs")
    new_store(folder)
    return folder


def config(place: Path, name: str, **changes: Any) -> PretrainConfig:
    where = {"data": str(place / "graphs"), "out": str(place), "tracking_uri": f"sqlite:///{place}/mlflow.db"}
    return PretrainConfig.of(**{**SMALL, **where, "name": name, "num_workers": 0, **changes})


@pytest.fixture(scope="module", name="undisturbed")
def _undisturbed(place: Path) -> FinishedRun:
    return run(config(place, "undisturbed"))


def stopped(wanted: PretrainConfig, after: str) -> Path:
    """Run until a checkpoint exists, then stop by SIGTERM; return the run's folder."""
    folder = Path(wanted.output.out) / wanted.output.name

    def stop() -> None:
        wait_for((folder / CHECKPOINTS / after).exists, after)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(SystemExit):
        run(wanted)
    stopper.join()
    return folder


def assert_same(one: FinishedRun, other: FinishedRun) -> None:
    assert one.vectors.symbols == other.vectors.symbols
    np.testing.assert_array_equal(one.vectors.vectors, other.vectors.vectors)
    np.testing.assert_array_equal(one.history["train/loss"], other.history["train/loss"])
    assert different_metrics(one.folder, one.tracking_uri, EPOCHS) == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_checkpoint_and_a_full_disk_change_nothing_but_what_is_said(
    place: Path,
    undisturbed: FinishedRun,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Test the job's process and a Ray worker, whose warnings reach the user."""
    folder = stopped(config(place, "disturbed"), after="epoch-000001")
    newest = newest_folder(folder)
    assert newest is not None
    os.truncate(newest / "optimizer.safetensors", 1000)
    if not can_mount(tmp_path / "disk"):
        pytest.skip("may not mount a file system")
    with small_disk(tmp_path / "disk", 450_000) as disk:
        shutil.copytree(folder / CHECKPOINTS, disk, dirs_exist_ok=True)
        shutil.rmtree(folder / CHECKPOINTS)
        (folder / CHECKPOINTS).symlink_to(disk)
        (disk / ".else").write_bytes(bytes(100_000))  # room for one checkpoint
        finished = run(config(place, "disturbed", resume=True, num_workers=1))
    [damaged] = [said for said in caplog.messages if "is damaged" in said]
    assert "optimizer.safetensors has 1,000 bytes of " in damaged
    shown = capsys.readouterr().out
    assert "warning: No space left on device: checkpoint" in shown
    assert_same(finished, undisturbed)


@pytest.mark.slow
def test_results_that_do_not_fit_are_said_and_written_later(place: Path, undisturbed: FinishedRun) -> None:
    with (
        files_no_larger_than(60_000),  # checkpoints and encoder are larger
        pytest.raises(
            FullDiskError, match=r"^File too large: the results of .*/full could not be written \(.* --resume"
        ),
    ):
        run(config(place, "full"))
    assert not json.loads((place / "full" / "run.json").read_text())["finished"]
    assert_same(run(config(place, "full", resume=True)), undisturbed)


def test_the_plan_names_what_there_is(tmp_path: Path) -> None:
    known = kinds(tmp_path)
    assert {fault for fault, _ in PLAN} == set(INJECTIONS)
    assert {kind for _, kind in PLAN} == set(known)
    assert len(PLAN) >= 30


def test_injections_wait_for_messages_that_the_code_has() -> None:
    """The test of the injections themselves is slow: a reworded message would make them all count as lost."""
    code = "\n".join(path.read_text() for path in sorted((PLATFORM / "crysatom").rglob("*.py")))
    assert [message for message in MESSAGES if message not in code] == []


def test_the_report_counts_what_was_lost(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "faults.md").write_text(f"# Faults\n\n{MARKER}\nold\n")
    common: dict[str, Any] = {
        "fault": "f",
        "kind": "k",
        "how": "went on",
        "seconds": 2.0,
        "at": "",
        "commit": "abcdef01",
    }
    good = Outcome(number=0, survived=True, difference=2e-7, lost=[], notes=["a | b"], **common)
    bad = Outcome(number=1, survived=False, difference=float("nan"), lost=["no result"], notes=[], **common)
    write([bad, good], {"hardware": "h"}, tmp_path)
    text = (tmp_path / "faults.md").read_text()
    assert "| f | k | 2 | 1 | 1 | 2e-07 | 2 2 |" in text
    assert "| 1 | f | k | lost: no result |" in text
    assert "old" not in text
    assert [o["difference"] for o in json.loads((tmp_path / "results" / "faults.json").read_text())["outcomes"]] == [
        2e-7,
        None,
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_faults_on_a_cluster_of_several_nodes(tmp_path: Path) -> None:
    world = World(tmp_path)
    begin = time.monotonic()
    world.start()
    try:
        outcomes = inject(world, 3, seed=1)
    finally:
        world.close()
    assert [outcome.lost for outcome in outcomes] == [[], [], []], f"after {time.monotonic() - begin:.0f} s"
