"""The contract of every kind of source: no record is lost or repeated, and errors name the file.

The tests iterate over the registry; a new kind needs only an example.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import IngestReport, ingest_plain
from crysatom.crystals.record import Record
from crysatom.crystals.sources import ase_files, open_source, require_source
from crysatom.crystals.sources.registry import KINDS, kind_of, known_sources
from crysatom.crystals.table import read_table
from tests.contract.source_examples import EXAMPLES, ONLINE

ROOT = Path(__file__).resolve().parents[2]
LOCAL = [kind.name for kind in KINDS if kind.name not in ONLINE]
FILES = [kind.name for kind in KINDS if kind.accepts is not None and kind.name != "folder"]
DAMAGES = 12
"""Truncations, and changed bytes, per example."""

every_kind = pytest.mark.parametrize("name", LOCAL)
every_file = pytest.mark.parametrize("name", FILES)


@pytest.fixture
def ase_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read ASE's formats without a process per file, which takes seconds to start."""
    monkeypatch.setattr(ase_files, "confined", lambda _, path, *arguments: ase_files.read(path, *arguments))


def ingest(source: str, out: Path) -> IngestReport:
    return ingest_plain(IngestConfig(source=source, out=str(out), overwrite=True))


def test_every_kind_has_an_example() -> None:
    missing = {kind.name for kind in KINDS} - EXAMPLES.keys() - ONLINE
    assert not missing, f"add an example to tests/contract/source_examples.py: {missing}"


def test_every_kind_has_a_row_in_the_documentation() -> None:
    section = (ROOT / "docs" / "ingest.md").read_text().split("## Sources")[1].split("\n## ")[0]
    cells = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    for kind in KINDS:
        prefix, colon, _ = kind.name.partition(":")
        assert prefix + colon in cells, f"docs/ingest.md, section Sources, needs a row for {kind.name}"


def test_names_are_distinct_and_prefixes_are_found() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for name in ONLINE:
        assert kind_of(name)[0].name == name


def test_messages_name_every_kind() -> None:
    with pytest.raises(ValueError, match="source 'nothing' does not exist; known are aflow:prototypes, ") as caught:
        require_source("nothing")
    assert str(caught.value).endswith(f"known are {known_sources()}")
    assert all(kind.known in known_sources() for kind in KINDS)


@every_kind
def test_all_crystals_of_an_example_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    source = EXAMPLES[name](tmp_path / "data")
    assert kind_of(source)[0].name == name
    report = ingest(source, tmp_path / "out")
    ids = read_table(report.table)["material_id"].to_pylist()
    assert report.read == report.accepted == len(set(ids)) > 0
    assert report.rejected == 0


@pytest.mark.usefixtures("ase_in_this_process")
@every_kind
def test_a_source_can_be_read_again(name: str, tmp_path: Path) -> None:
    source = open_source(EXAMPLES[name](tmp_path))
    records = list(source.records())
    assert records == list(source.records())
    assert all(isinstance(record, Record) for record in records)
    assert all(source.name in record.source for record in records if name != "folder")
    assert source.total in {None, len(records)}


@every_file
def test_a_vanished_file_is_reported(name: str, tmp_path: Path) -> None:
    """The file is deleted between opening and reading: either all crystals are in memory, or the rest is rejected."""
    path = EXAMPLES[name](tmp_path)
    source = open_source(path)
    there = list(source.records())
    Path(path).unlink()
    left = list(source.records())
    if left != there:
        assert left
        assert not isinstance(left[-1], Record)
    with pytest.raises(ValueError, match="does not exist; known are"):
        open_source(path)


@every_file
def test_an_empty_file_has_no_crystals(name: str, tmp_path: Path) -> None:
    path = EXAMPLES[name](tmp_path)
    Path(path).write_bytes(b"")
    assert accepted_of(path, tmp_path / "out") == 0


@pytest.mark.usefixtures("ase_in_this_process")
@every_file
def test_a_damaged_file_is_read_or_reported(name: str, tmp_path: Path) -> None:
    path = EXAMPLES[name](tmp_path)
    for content in damaged(Path(path).read_bytes()):
        Path(path).write_bytes(content)
        accepted_of(path, tmp_path / "out")


def accepted_of(path: str, out: Path) -> int:
    """Ingest a file and return the number of accepted crystals. Each error must be one line that names the file."""
    try:
        report = ingest(path, out)
    except ValueError as error:
        accepted, messages = 0, [str(error)]
    else:
        accepted, messages = report.accepted, pq.read_table(report.quarantine)["detail"].to_pylist()
        assert report.read == report.accepted + report.rejected
        assert len(messages) == report.rejected
    for message in messages:
        assert path in message
        assert "\n" not in message
    return accepted


def damaged(content: bytes) -> Iterator[bytes]:
    """Yield truncated content, and content with one changed byte, at positions over its whole length."""
    rng = np.random.default_rng(0)
    for place in np.linspace(1, len(content) - 1, DAMAGES).astype(int).tolist():
        yield content[:place]
        yield content[:place] + bytes([rng.integers(256)]) + content[place + 1 :]
