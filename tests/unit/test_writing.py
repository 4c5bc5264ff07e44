"""Atomic writes: a kill or an error leaves the old content, and nothing half-written under the final name.

The order of flushes and renames is tested. That flushed content survives a power cut is the disk's promise, and is not.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from crysatom.writing import replaced, replaced_folder, write_bytes, write_json, write_text
from tests.conftest import REPOSITORY

KILLED = """
import os, signal, sys
from pathlib import Path
from crysatom.writing import replaced, replaced_folder
with {block} as partial:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_within(block: str, write: str) -> None:
    code = KILLED.format(block=block, write=write)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "platform")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b", b"\r\n\x00")
    write_text(tmp_path / "t", "Å\r\n")
    write_json(tmp_path / "j", {"a": [1]})
    assert (tmp_path / "b").read_bytes() == b"\r\n\x00"
    assert (tmp_path / "t").read_bytes() == "Å\r\n".encode()
    assert json.loads((tmp_path / "j").read_text()) == {"a": [1]}
    write_text(tmp_path / "t", "again")
    assert (tmp_path / "t").read_text() == "again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "j", "t"]


def test_a_file_gets_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    write_text(tmp_path / "file", "")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "file").write_text("old")

    def fail() -> None:
        with replaced(tmp_path / "file") as partial:
            partial.write_text("ne")
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_file_that_cannot_be_replaced_leaves_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "folder", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    killed_within(f"replaced(Path({str(tmp_path / 'file')!r}))", "partial.write_text('ne')")
    assert (tmp_path / "file").read_text() == "old"
    left = [path.name for path in tmp_path.iterdir() if path.name != "file"]
    assert [(name[0], Path(name).suffix) for name in left] == [(".", ".partial")], "hidden, by a name nobody reads"
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_the_temporary_file_lies_in_the_scratch_folder(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with replaced(tmp_path / "file", scratch) as partial:
        assert partial.parent == scratch
        partial.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert not list(scratch.iterdir())


def test_two_writers_of_one_file_do_not_share_a_temporary_one(tmp_path: Path) -> None:
    with replaced(tmp_path / "file") as one, replaced(tmp_path / "file") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one", "who leaves last"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for names in (["a", "b"], ["c"]):
        with replaced_folder(tmp_path / "new" / "folder") as partial:
            for name in names:
                (partial / name).write_text(name)
        assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == names
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_folder_and_no_temporary_one(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("")

    def fail() -> None:
        with replaced_folder(tmp_path / "folder") as partial:
            (partial / "new").write_text("")
            raise error

    with pytest.raises(error):
        fail()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["folder", "folder/old"]


def test_a_kill_leaves_the_old_folder_and_the_next_writer_removes_what_is_half(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("")
    killed_within(f"replaced_folder(Path({str(tmp_path / 'folder')!r}))", "(partial / 'half').write_text('')")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["old"]
    assert (tmp_path / ".folder.partial" / "half").exists()
    with replaced_folder(tmp_path / "folder") as partial:
        assert not list(partial.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_content_is_flushed_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[str, bool]] = []
    flush = os.fsync

    def watched(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        flushed.append((kind, (tmp_path / "x").exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_text(tmp_path / "x", "")
    assert flushed == [("file", False), ("folder", True)]
    (tmp_path / "x").unlink()
    flushed.clear()
    with replaced_folder(tmp_path / "x") as partial:
        (partial / "file").write_text("")
    assert flushed == [("file", False), ("folder", False), ("folder", True)]


def test_nothing_else_writes_beside_its_target() -> None:
    root = REPOSITORY / "platform" / "crysatom"
    by_hand = re.compile(r"\.(partial|tmp)\b[^(]|mkstemp|NamedTemporaryFile")
    assert [p.name for p in root.rglob("*.py") if by_hand.search(p.read_text())] == ["writing.py"]
