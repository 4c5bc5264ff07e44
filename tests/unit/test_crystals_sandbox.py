"""A runaway reader ends in its own process; its previous records are kept, and the rest is quarantined."""

from __future__ import annotations

from pathlib import Path

import pytest

from crysatom.crystals.quarantine import Rejected
from crysatom.crystals.sources.sandbox import BATCH, GIGABYTES, confined

READER = f"""
import os

import numpy as np

from crysatom.crystals.record import Record, pack_arrays


def read(path, how):
    print("to the standard output")
    content = pack_arrays(np.eye(3), np.zeros((1, 3)), np.ones(1))
    for number in range({BATCH}):
        properties = {{"x": 1.5}}
        yield Record(material_id=f"a-{{number}}", source=path, format="arrays", content=content, properties=properties)
    if how == "abort":
        os.abort()
    if how == "greedy":
        np.ones(({GIGABYTES} * 2**30,), np.uint8)
    while how == "slow":
        pass
    while how == "stubborn":
        try:
            while True:
                pass
        except TimeoutError:
            pass
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("abort", "ended its process with code -6"),
        ("greedy", "ended its process with code 1"),
        ("slow", "ended its process with code 1"),
        ("stubborn", "took more than 2 s of a processor"),
    ],
)
def test_what_a_reader_gave_before_its_end_is_kept(
    how: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reader.py").write_text(READER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    *sound, last = confined("reader", "/data/a.odd", how, seconds=1)
    assert [record.material_id for record in sound] == [f"a-{number}" for number in range(BATCH)]
    assert isinstance(last, Rejected)
    assert (last.material_id, last.source) == (f"a-{BATCH + 1}", f"/data/a.odd#{BATCH + 1}")
    assert said in last.detail
    assert f"record {BATCH} " in last.detail


def test_a_sound_reader_ends_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reader.py").write_text(READER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    records = list(confined("reader", "a", "well"))
    assert len(records) == BATCH
    assert not any(isinstance(record, Rejected) for record in records)


def test_a_file_that_asks_for_more_memory_than_there_is_costs_no_more_than_a_row(tmp_path: Path) -> None:
    file = tmp_path / "a.xyz"
    file.write_text(f'1\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:{10**9}:pos:R:3 pbc="T T T"\nNa 0 0 0\n')
    [row] = confined("crysatom.crystals.sources.ase_files", str(file), "extxyz", gigabytes=2)
    assert isinstance(row, Rejected)
    assert "more memory than a reader may have" in row.detail
