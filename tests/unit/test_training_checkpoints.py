"""Damaged checkpoints: each is detected, reported and skipped."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crysatom.training import checkpoints
from crysatom.training.checkpoints import STATE, keep, load, newest, problem, progress, save
from tests.full_disk import can_mount, files_no_larger_than, small_disk

FILES = ("optimizer.safetensors", "state.json", "state.safetensors")


def write(folder: Path, epochs: int, step: int = 0) -> Path:
    """Write a small checkpoint with all kinds of state."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(epochs)
    groups = {
        "state": {"model/a": torch.randn(5, 3, generator=generator), "model/n": torch.tensor(epochs)},
        "optimizer": {"a/exp_avg": torch.randn(5, 3, generator=generator)},
    }
    history = [{"epoch": float(k), "lr": 0.1 / 3, "val/mae": float("nan")} for k in range(epochs)]
    save(folder, groups, {"epoch": epochs, "step": step or 7 * epochs, "best": float("inf"), "history": history})
    return folder


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Path:
    """Checkpoints of a run at epochs 1, 2 and 3."""
    for epoch in (1, 2, 3):
        write(tmp_path / "run" / f"epoch-{epoch - 1:06d}", epoch)
    return tmp_path / "run"


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    groups, state = load(write(tmp_path / "epoch-000002", 3))
    assert {name: set(tensors) for name, tensors in groups.items()} == {
        "state": {"model/a", "model/n"},
        "optimizer": {"a/exp_avg"},
    }
    assert torch.equal(groups["state"]["model/n"], torch.tensor(3))
    assert set(state) == {"epoch", "step", "best", "history"}, "what belongs to the format stays inside"
    assert state["best"] == float("inf")
    assert state["history"][2]["lr"] == 0.1 / 3


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_anywhere_is_noticed(file: str, run: Path) -> None:
    whole = (run / "epoch-000002" / file).read_bytes()
    for length in range(len(whole)):
        (run / "epoch-000002" / file).write_bytes(whole[:length])
        assert file in problem(run / "epoch-000002"), f"cut to {length} bytes"
    (run / "epoch-000002" / file).write_bytes(whole + b"\0")
    assert file in problem(run / "epoch-000002"), "one byte more"
    (run / "epoch-000002" / file).write_bytes(whole)
    assert not problem(run / "epoch-000002")


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_noticed_or_changes_nothing(file: str, run: Path) -> None:
    folder = run / "epoch-000002"
    whole = (folder / file).read_bytes()
    before = load(folder)[1]
    rng = np.random.default_rng(0)
    noticed = 0
    for byte in range(len(whole)):
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << int(rng.integers(8))
        (folder / file).write_bytes(flipped)
        if problem(folder):
            assert file in problem(folder)
            noticed += 1
        else:  # e.g. white space of JSON
            assert file == STATE
            assert repr(load(folder)[1]) == repr(before)
    assert noticed > 0.7 * len(whole)
    assert file == STATE or noticed == len(whole)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_noticed(file: str, run: Path) -> None:
    (run / "epoch-000002" / file).unlink()
    assert problem(run / "epoch-000002") == f"{file} cannot be read: No such file or directory"
    (run / "epoch-000002" / file).mkdir()
    assert file in problem(run / "epoch-000002")


def cut(folder: Path) -> None:
    file = folder / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip(folder: Path) -> None:
    file = folder / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 16
    file.write_bytes(content)


def zero(folder: Path) -> None:
    """Zero the content but keep the length, as after a power failure."""
    file = folder / "state.json"
    file.write_bytes(bytes(file.stat().st_size))


def mix(folder: Path) -> None:
    """Replace a file by that of another, intact checkpoint."""
    shutil.copy(folder.parent / "epoch-000000" / "state.safetensors", folder / "state.safetensors")


@pytest.mark.parametrize("damage", [cut, flip, zero, mix, shutil.rmtree])
def test_the_one_before_is_used_and_said(
    damage: Callable[[Path], None], run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(run / "epoch-000002")
    found = newest(run)
    assert found == run / "epoch-000001"
    assert progress(found) == (14, 2)
    if damage is not shutil.rmtree:
        [said] = caplog.messages
        assert said.startswith(f"checkpoint {run / 'epoch-000002'} is damaged: ")
        assert said.endswith("; epoch-000001 is used")


def test_two_damaged_ones_in_a_row(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut(run / "epoch-000002")
    zero(run / "epoch-000001")
    assert newest(run) == run / "epoch-000000"
    assert [message.rpartition("; ")[2] for message in caplog.messages] == ["epoch-000000 is used"] * 2


def test_when_none_is_left_that_is_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in run.iterdir():
        flip(folder)
    assert newest(run) is None
    assert [message.rpartition("; ")[2] for message in caplog.messages] == ["training starts with the first epoch"] * 3
    assert newest(run / "no such folder") is None


def test_the_one_that_got_furthest_is_the_newest_whatever_it_is_called(tmp_path: Path) -> None:
    write(tmp_path / "epoch-000002", 3, step=30)
    within = write(tmp_path / "step-0000000034", 3, step=34)
    assert newest(tmp_path) == within
    after = write(tmp_path / "epoch-000003", 4, step=40)
    assert newest(tmp_path) == after


def without_checksums(folder: Path) -> Path:
    """Rewrite a state in the format of older versions."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    del state["sha256"]
    state["files"] = {name: entry["size"] for name, entry in state["files"].items()}
    (folder / STATE).write_text(json.dumps(state, indent=1))
    return folder


def test_checkpoints_of_older_versions_are_read_and_what_they_lack_is_said(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load(run / "epoch-000002")
    old = without_checksums(run / "epoch-000002")
    with caplog.at_level(logging.INFO, checkpoints.logger.name):
        assert newest(run) == old
    assert caplog.messages == [
        f"checkpoint {old} has no checksums, because an older version wrote it: only sizes are checked"
    ]
    assert torch.equal(load(old)[0]["state"]["model/a"], expected[0]["state"]["model/a"])
    cut(old)
    assert newest(run) == run / "epoch-000001"


def test_a_checksum_cannot_be_left_out(run: Path) -> None:
    state = json.loads((run / "epoch-000002" / STATE).read_text())
    del state["sha256"]
    (run / "epoch-000002" / STATE).write_text(json.dumps(state))
    assert "state.json has changed" in problem(run / "epoch-000002")


def test_a_damaged_checkpoint_is_refused_with_the_reason(run: Path) -> None:
    cut(run / "epoch-000002")
    with pytest.raises(
        ValueError, match=r"epoch-000002 is not a complete checkpoint: state.safetensors has \d+ bytes of"
    ):
        load(run / "epoch-000002")


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for epoch in range(12):
        assert keep(
            tmp_path, f"epoch-{epoch}", lambda folder, done=epoch + 1: save(folder, {}, {"epoch": done, "step": done})
        )
    assert kept(tmp_path) == ["epoch-10", "epoch-11"], "by what they hold, not by their names"
    (tmp_path / "epoch-11" / STATE).write_text("")
    keep(tmp_path, "epoch-12", lambda folder: save(folder, {}, {"epoch": 13, "step": 13}))
    assert kept(tmp_path) == ["epoch-10", "epoch-12"], "the damaged one went first"


def test_a_new_checkpoint_stays_though_damaged_ones_got_further(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise a training that restarted because all checkpoints were damaged would delete each new one at once."""
    for old in run.iterdir():
        cut(old)
    assert newest(run) is None
    assert keep(run, "step-0000000001", lambda folder: save(folder, {}, {"step": 1, "epoch": 0}))
    assert newest(run) == run / "step-0000000001"
    assert [path.name for path in run.iterdir()] == ["step-0000000001"], "nothing goes on from the others"
    assert len({said for said in caplog.messages if "is damaged" in said}) == 3, "and all were told of"


def test_a_writer_that_fails_leaves_what_was_there(run: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "state.safetensors").write_bytes(b"half")
        raise PermissionError(13, "no")

    before = kept(run)
    with pytest.raises(PermissionError):
        keep(run, "epoch-000002", fail)
    assert kept(run) == before
    assert newest(run) == run / "epoch-000002"


def megabyte(folder: Path, epochs: int) -> None:
    save(folder, {"state": {"a": torch.zeros(250_000)}}, {"epoch": epochs, "step": 7 * epochs})


def test_a_checkpoint_that_does_not_fit_is_said_and_the_one_before_stays(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with files_no_larger_than(100_000):
        assert not keep(run, "epoch-000003", lambda folder: megabyte(folder, 4))
    assert kept(run) == ["epoch-000002"], "older ones were removed to make room"
    assert newest(run) == run / "epoch-000002"
    [said] = caplog.messages
    assert said.startswith(f"File too large: checkpoint {run / 'epoch-000003'} could not be written (")
    assert "bytes free of" in said
    assert "Training continues" in said
    assert keep(run, "epoch-000004", lambda folder: megabyte(folder, 5))
    assert newest(run) == run / "epoch-000004"


def test_on_a_full_disk_the_newest_checkpoint_stays_and_older_ones_make_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if not can_mount(tmp_path / "disk"):
        pytest.skip("may not mount a file system")
    with small_disk(tmp_path / "disk", 2_300_000) as disk:
        for epoch in range(3):  # three do not fit: the oldest is deleted before the third is written
            assert keep(disk, f"epoch-{epoch}", lambda folder, done=epoch + 1: megabyte(folder, done))
        assert kept(disk) == ["epoch-1", "epoch-2"]
        assert not caplog.messages
        shutil.rmtree(disk / "epoch-1")
        (disk / "else").write_bytes(bytes(1_200_000))
        for epoch in (3, 4):
            assert not keep(disk, f"epoch-{epoch}", lambda folder, done=epoch + 1: megabyte(folder, done))
            assert kept(disk) == ["else", "epoch-2"], "nothing half is left"
        assert [m.startswith("No space left on device") for m in caplog.messages] == [True, True], "each time"
        assert not problem(disk / "epoch-2")
        (disk / "else").unlink()
        assert keep(disk, "epoch-5", lambda folder: megabyte(folder, 6))
        assert newest(disk) == disk / "epoch-5"
