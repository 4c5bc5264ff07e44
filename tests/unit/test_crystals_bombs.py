"""Small files with very many entries: rejected or quarantined within limits of memory, time and disk."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crysatom.config import FeaturizeConfig, IngestConfig
from crysatom.crystals import rejections
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.quarantine import Rejected
from crysatom.crystals.sources import open_source
from crysatom.crystals.sources import records as reader
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import QUARANTINE

MEGABYTES = 500
"""Memory limit of a job, including its imports."""

SIZE = 3_000_000
"""Uncompressed size of 3 KB: gzip expands at most 1,000 times."""

ATOMS = '{"lattice_mat":[[3,0,0],[0,3,0],[0,0,3]],"coords":[[0,0,0]],"elements":["H"]}'
"""Shortest text of a crystal."""


def filled(head: str, unit: str, tail: str, size: int = SIZE) -> bytes:
    return (head + unit * (size // len(unit)) + tail).encode()


BOMBS: dict[str, tuple[bytes, str]] = {
    "zeros.json": (filled("[", "0,", "0]"), "entries in"),
    "objects.json": (filled("[", "{},", "{}]"), "times { in"),
    "lists.json": (filled("[", "[0],", "0]"), "times { or [ in"),
    "nested.json": (filled("", "[", "") + filled("", "]", ""), "times { or [ in"),
    "one_key.json": (filled("{", '"a":0,', '"a":0}'), "is twice in one object"),
    "column.json": (filled('{"structure":[', "0,", "0]}"), "entries in"),
    "keys.json": (b"{" + b"".join(b'"%d":0,' % k for k in range(200_000)) + b'"0":0}', "'0'"),
    "records.json": (filled("[", '{"id":0},', "0]"), "times { in"),
    "pandas.json": (filled('{"columns":["a"],"data":[', "[],", "[]]}"), "times { or [ in"),
    "pandas_of_texts.json": (filled('{"columns":["a"],"data":[', '"",', '""]}'), "entries in"),
    "deep.json": (filled("[", '{"a":[10000000]},', "0]", 7_900_000), "entries in"),
    "more.json": (filled("[", "{},", "{}]", 8_000_001), "more than 8,000,000 bytes"),
    "empty.jsonl": (filled("", "\n", ""), "entries in"),
    "objects.jsonl": (filled("", "{}\n", ""), "entries in"),
    "one_line.jsonl": (filled("[", "{},", "{}]\n"), ""),
}
"""Content of a compressed file, and a part of its error message; empty: it is one rejected record."""

READ_ALL = """
import sys
from pathlib import Path
from crysatom.config import IngestConfig
from crysatom.crystals.ingest import ingest_plain

for name in sys.argv[2:]:
    try:
        report = ingest_plain(IngestConfig.of(source=f"{sys.argv[1]}/{name}.gz", out=f"{sys.argv[1]}/{name}.out"))
        print(name, report.read, "=", report.accepted, "+", report.rejected)
    except ValueError as error:
        print(name, error)
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(int(peak.split()[1]) // 1024)  # getrusage counts what the parent had at the fork
"""


def test_small_files_of_millions_of_entries_stay_within_bounds(tmp_path: Path) -> None:
    for name, (content, _) in BOMBS.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    command = [sys.executable, "-c", READ_ALL, str(tmp_path), *BOMBS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *lines, peak = done.stdout.splitlines()
    for line, (name, (_, words)) in zip(lines, BOMBS.items(), strict=True):
        assert (words or "1 = 0 + 1") in line, (name, line)
    assert int(peak) < MEGABYTES


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", f"[{','.join([ATOMS] * 50)}]"),
        ("b.json", json.dumps({str(k): json.loads(ATOMS) for k in range(50)})),
        ("c.json", f'{{"columns":["atoms"],"data":[{",".join([f"[{ATOMS}]"] * 50)}]}}'),
        ("d.jsonl", "\n".join([ATOMS] * 50)),
    ],
)
def test_the_shortest_crystals_are_no_bomb(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "FEW", 0)
    (tmp_path / name).write_text(text)
    assert len(list(open_source(str(tmp_path / name)).records())) == 50


def test_lines_of_nothing_are_refused_before_anything_is_started_or_when_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "FEW", 5)
    (tmp_path / "a.jsonl").write_text("{}\n" * 10)
    with pytest.raises(ValueError, match=r"a\.jsonl: holds no structures: there are 10 entries in 30 bytes"):
        open_source(str(tmp_path / "a.jsonl"))
    monkeypatch.setattr(reader, "LOOKED_AT", 4)
    records = open_source(str(tmp_path / "a.jsonl")).records()
    with pytest.raises(ValueError, match=r"a\.jsonl: holds no structures: there are 6 entries in 18 bytes"):
        list(records)


def lines(folder: Path, *, sound: int, broken: int) -> str:
    path = folder / "a.jsonl"
    path.write_text("\n".join([ATOMS] * sound + ["{}"] * broken))
    return str(path)


def table(folder: Path, *, sound: int, broken: int) -> str:
    """Write a crystal table whose broken rows have no atoms."""
    path, rows = folder / "a.parquet", sound + broken
    numbers = [[1]] * sound + [[]] * broken
    columns = {
        "material_id": [f"a{k}" for k in range(rows)],
        "lattice": [[4.0, 0, 0, 0, 4, 0, 0, 0, 4]] * rows,
        "frac_coords": [[0.0] * 3 * len(z) for z in numbers],
        "atomic_numbers": pa.array(numbers, pa.list_(pa.uint8())),
    }
    pq.write_table(pa.table(columns), path)
    return str(path)


def ingest(folder: Path, *, sound: int, broken: int) -> Path:
    out = folder / "out"
    ingest_plain(IngestConfig.of(source=lines(folder, sound=sound, broken=broken), out=str(out)))
    return out / "quarantine.parquet"


def featurize(folder: Path, *, sound: int, broken: int) -> Path:
    out = folder / "out"
    data = table(folder, sound=sound, broken=broken)
    featurize_plain(FeaturizeConfig.of(data=data, out=str(out), crystals_per_shard=2))
    return out / QUARANTINE


@pytest.mark.parametrize("work", [ingest, featurize])
def test_a_source_of_hardly_anything_but_rejected_records_is_given_up(
    work: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejections, "MOST_REJECTED", 5)
    monkeypatch.setattr(rejections, "ROWS_AT_A_TIME", 2)
    with pytest.raises(ValueError, match=r"^8 inputs were rejected and 2 accepted; .* at most 5 more .* The last: "):
        work(tmp_path, sound=2, broken=8)
    assert not list((tmp_path / "out").rglob("*quarantine*"))
    (tmp_path / "further").mkdir()
    quarantine = work(tmp_path / "further", sound=2, broken=7)
    assert pq.read_metadata(quarantine).num_rows == 7


def test_rejected_inputs_are_written_while_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejections, "ROWS_AT_A_TIME", 4)
    written: list[list[Rejected]] = []
    rows = [Rejected(material_id=str(k), source="s", reason=f"r{k % 3}", detail="d") for k in range(10)]
    with rejections.streamed(written.append) as kept:
        for row in rows:
            kept.add(row)
        assert [len(some) for some in written] == [4, 4]
    assert [row for some in written for row in some] == rows
    assert (kept.count, kept.reasons, kept.first) == (10, {"r0": 4, "r1": 3, "r2": 3}, rows[:5])


def test_a_small_table_of_a_million_empty_rows_is_refused_at_once(tmp_path: Path) -> None:
    nothing = pa.nulls(1_200_000, pa.list_(pa.float64()))
    columns = {"material_id": pa.nulls(len(nothing), pa.string()), "lattice": nothing, "frac_coords": nothing}
    pq.write_table(pa.table({**columns, "atomic_numbers": nothing}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(ValueError, match="holds no crystals: there are 1,200,000 rows in"):
        open_source(str(tmp_path / "a.parquet"))
