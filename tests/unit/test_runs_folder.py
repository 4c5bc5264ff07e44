"""A run's folder belongs to one configuration and one data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from crysatom.config import PretrainConfig
from crysatom.runs.folder import CHECKPOINTS, RunFolder
from crysatom.training import checkpoints

CONFIG = PretrainConfig.of(lr=0.01)


def claim(folder: RunFolder, config: PretrainConfig, data_digest: str) -> bool:
    with folder.claimed(config, data_digest, resume=config.output.resume) as finished:
        return finished


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    assert not claim(folder, CONFIG, "data")
    return folder


def checkpoint(folder: RunFolder, name: str, **state: int) -> None:
    place = folder.path / CHECKPOINTS / name
    place.mkdir(parents=True)
    checkpoints.save(place, {}, state)


def test_a_run_that_finished_no_epoch_may_be_started_again(folder: RunFolder) -> None:
    assert not claim(folder, CONFIG, "data")


def test_an_unfinished_run_is_not_taken_over_silently(folder: RunFolder) -> None:
    checkpoint(folder, "epoch-000000", step=3, epoch=1)
    with pytest.raises(ValueError, match="unfinished run of this configuration; continue it with --resume"):
        claim(folder, CONFIG, "data")
    assert not claim(folder, CONFIG.replace(resume=True), "data")


def test_a_finished_run_is_finished_for_all_ways_to_run_it(folder: RunFolder) -> None:
    folder.finish(run_id="abc")
    assert claim(folder, CONFIG, "data")
    assert claim(folder, CONFIG.replace(resume=True, num_workers=8, use_gpu=True), "data")
    assert folder.read()["run_id"] == "abc"


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused_and_named(folder: RunFolder, resume: bool, finished: bool) -> None:
    if finished:
        folder.finish()
    other = CONFIG.replace(lr=0.02, ssl_loss="vicreg", resume=resume)
    with pytest.raises(ValueError, match=r"\(.*lr 0\.01 -> 0\.02, .*ssl_loss 'barlow_twins' -> 'vicreg'\); give"):
        claim(folder, other, "data")


def test_only_settings_that_matter_are_named(folder: RunFolder) -> None:
    other = CONFIG.replace(lr=0.02, data="/elsewhere/graphs", num_workers=3)
    with pytest.raises(ValueError, match=r"another configuration \(lr 0\.01 -> 0\.02\); give"):
        claim(folder, other, "data")


def test_the_same_data_may_lie_elsewhere(folder: RunFolder) -> None:
    folder.finish()
    assert claim(folder, CONFIG.replace(data="/elsewhere/graphs"), "data")


def test_other_data_are_refused(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="holds a run on other data; give this one another --name"):
        claim(folder, CONFIG.replace(resume=True), "other")


def test_how_far_it_got(folder: RunFolder) -> None:
    assert folder.epochs_done() == 0
    assert not folder.has_checkpoint()
    checkpoint(folder, "step-0000000002", step=2, epoch=0)
    assert folder.has_checkpoint()
    assert folder.epochs_done() == 0
    for epoch in (8, 9, 10):
        checkpoint(folder, f"epoch-{epoch:06d}", step=3 * (epoch + 1), epoch=epoch + 1)
    (folder.path / CHECKPOINTS / ".epoch-000011.partial").mkdir()
    assert folder.epochs_done() == 11
    checkpoint(folder, "step-0000000034", step=34, epoch=11)
    assert folder.epochs_done() == 11


def test_a_run_stopped_within_its_first_epoch_is_not_taken_over_silently(folder: RunFolder) -> None:
    checkpoint(folder, "step-0000000002", step=2, epoch=0)
    with pytest.raises(ValueError, match="unfinished run of this configuration; continue it with --resume"):
        claim(folder, CONFIG, "data")


def test_a_damaged_checkpoint_is_no_progress(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(folder, "epoch-000003", step=40, epoch=4)
    checkpoint(folder, "step-0000000042", step=42, epoch=4)
    damaged = folder.path / CHECKPOINTS / "step-0000000042"
    (damaged / checkpoints.STATE).write_text("{")
    assert folder.epochs_done() == 4
    [said] = caplog.messages
    assert said.startswith(f"checkpoint {damaged} is damaged: state.json is broken")
    assert said.endswith("; epoch-000003 is used")
    folder.epochs_done()
    assert len(caplog.messages) == 1, "once is enough"


def test_one_process_at_a_time(folder: RunFolder) -> None:
    with (
        folder.claimed(CONFIG, "data"),
        pytest.raises(ValueError, match="another process is at work in"),
        folder.claimed(CONFIG, "data"),
    ):
        pass
    assert not claim(folder, CONFIG, "data")
