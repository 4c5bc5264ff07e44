"""CIFs as users have them: packed, several crystals in one, and the notes of an ingest."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import IngestReport, ingest_plain
from tests.unit.cif_cases import SI, cif, named, units


def ingested(folder: Path) -> IngestReport:
    return ingest_plain(IngestConfig.of(source=str(folder / "cifs"), out=str(folder / "out"), overwrite=True))


def test_what_was_decided_is_said_crystal_by_crystal(tmp_path: Path) -> None:
    (tmp_path / "cifs").mkdir()
    name = named("F d -3 m", units("Si", 8))
    (tmp_path / "cifs" / "si.cif").write_text(cif("Si1 Si 0.125 0.125 0.125", name, cell=SI))
    (tmp_path / "cifs" / "nacl.cif").write_text(cif(extra=named("F m -3 m")))
    report = ingested(tmp_path)
    assert report.notes == {"Z and formula decided the setting of the space group": 1}
    assert report.notes_file is not None
    [row] = pq.read_table(report.notes_file).to_pylist()
    assert row["material_id"] == "si"
    assert row["note"] == "Z and formula decided the setting of the space group: F d -3 m:2"
    (tmp_path / "cifs" / "si.cif").unlink()
    assert ingested(tmp_path).notes_file is None
    assert not (tmp_path / "out" / "notes.parquet").exists()


@pytest.mark.parametrize(
    ("ending", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
@pytest.mark.parametrize("kind", [".cif", ".mcif", ".CIF"])
def test_one_reader_for_a_cif_however_it_is_packed(
    kind: str, ending: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / f"si{kind}{ending}").write_bytes(compress(cif(extra=named("F m -3 m")).encode()))
    (tmp_path / "cifs" / f"no{kind}{ending}").write_bytes(compress(cif(extra=named("F m 5 m")).encode()))
    report = ingested(tmp_path)
    assert (report.accepted, report.reasons) == (1, {"symmetry": 1})
    assert pq.read_table(report.table)["material_id"].to_pylist() == ["si"]
    for name in ("si", "no"):
        alone = ingest_plain(
            IngestConfig.of(source=str(tmp_path / "cifs" / f"{name}{kind}{ending}"), out=str(tmp_path / name))
        )
        assert (alone.accepted, alone.rejected) == ((1, 0) if name == "si" else (0, 1))


def test_a_file_of_two_crystals_is_two_crystals(tmp_path: Path) -> None:
    (tmp_path / "cifs").mkdir()
    both = "\n".join(cif().replace("data_a", f"data_{name}") for name in ("rock", "salt"))
    (tmp_path / "cifs" / "both.cif").write_text(both)
    report = ingested(tmp_path)
    assert report.read == report.accepted == 2
    assert pq.read_table(report.table)["material_id"].to_pylist() == ["both-rock", "both-salt"]


def test_what_macos_leaves_is_no_crystal_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / "a.cif").write_text(cif())
    (tmp_path / "cifs" / "._a.cif").write_bytes(b"\0\5\x16\7Mac OS X")
    with caplog.at_level(logging.INFO):
        report = ingested(tmp_path)
    assert (report.read, report.rejected) == (1, 0)
    assert "1 files of macOS (._*) hold no crystals and were not read" in caplog.text
