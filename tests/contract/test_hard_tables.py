"""Tables of users: cells keep their meaning, no row is lost, and doubtful input is rejected with a message."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import IngestReport, ingest_plain
from crysatom.crystals.table import read_table
from crysatom.crystals.targets import targets_for
from crysatom.crystals.text_table import number
from tests.unit.broken_inputs import cif

NUM_STRUCTURE_COLUMNS = 7


class Case(NamedTuple):
    """Rows of an ``id_prop.csv`` beside a.cif and b.cif, and the expected result.

    Columns hold the values of a and b; reasons are those of the quarantine; ``said`` is part of the log.
    """

    title: str
    rows: str
    columns: dict[str, list[Any]]
    said: str
    reasons: Mapping[str, int] = MappingProxyType({})


CASES = (
    Case("no header", "a,1.5\nb,-2\n", {"target": [1.5, -2.0]}, "commas, no header; columns: target (numbers)"),
    Case(
        "none_text",
        "id,gap,order\na,1.5,None\nb,2.5,FM\n",
        {"gap": [1.5, 2.5], "order": ["None", "FM"]},
        "order (text)",
    ),
    Case("sodium as text", "id,dopant\na,Na\nb,None\n", {"dopant": ["Na", "None"]}, "dopant (text)"),
    Case("nitrogen and a dash", "id,dopant\na,N\nb,-\n", {"dopant": ["N", "-"]}, "dopant (text)"),
    Case("class_text_nohdr", "a,metal\nb,insulator\n", {"target": ["metal", "insulator"]}, "no header"),
    Case(
        "first_file_missing_text2",
        "zz,metal,x\na,insulator,y\nb,metal,x\n",
        {"target": ["insulator", "metal"], "target_2": ["y", "x"]},
        "no header",
        {"missing_file": 1},
    ),
    Case(
        "first file missing, a number",
        "zz,metal,1\na,insulator,2\nb,metal,3\n",
        {"target": ["insulator", "metal"], "target_2": [2.0, 3.0]},
        "no header",
        {"missing_file": 1},
    ),
    Case("first file missing, a unit", "zz,1 eV\na,2\nb,3\n", {"target": [2.0, 3.0]}, "no header", {"missing_file": 1}),
    Case("first id missing", ",metal\na,x\nb,y\n", {"target": ["x", "y"]}, "no header", {"missing_id": 1}),
    Case(
        "header in the middle", "id,gap\na,1\nid,gap\nb,2\n", {"gap": [1.0, 2.0]}, "gap (numbers)", {"missing_file": 1}
    ),
    Case("index of pandas", ",gap\na,1\nb,2\n", {"gap": [1.0, 2.0]}, "header in line 1; columns: gap (numbers)"),
    Case("header in capitals", '\ufeff"Material ID",gap\r\na,1\r\nb,2\r\n', {"gap": [1.0, 2.0]}, "header in line 1"),
    Case("underscore_number", "id,batch\na,2024_01\nb,2024_02\n", {"batch": ["2024_01", "2024_02"]}, "batch (text)"),
    Case("codes with zeros in front", "id,code\na,007\nb,010\n", {"code": ["007", "010"]}, "code (text)"),
    Case(
        "dash_missing", "id,gap\na,-\nb,2.5\n", {"gap": [None, 2.5]}, "gap has no value in 1 of 2 rows ('-' in line 2)"
    ),
    Case("empty cell", "id,gap\n\na,\nb,2.5\n", {"gap": [None, 2.5]}, "gap has no value in 1 of 2 rows ('' in line 3)"),
    Case("lines of an old Macintosh", "id,gap\ra,1\rb,2\r", {"gap": [1.0, 2.0]}, "header in line 1"),
    Case("semicolon", "a;1.5\nb;2.5\n", {"target": [1.5, 2.5]}, "separated by semicolons, no header"),
    Case("tab", "id\tgap\na\t1.5\nb\t2.5\n", {"gap": [1.5, 2.5]}, "separated by tabs, header in line 1"),
    Case("separator told to Excel", "sep=;\nid;gap\na;1\nb;2\n", {"gap": [1.0, 2.0]}, "semicolons, header in line 2"),
    Case("decimal comma", "a;1,5\nb;2,5\n", {"target": ["1,5", "2,5"]}, "'1,5' in line 1; decimal commas are not read"),
    Case(
        "one bad value",
        "a,1.5\nb,2.5 eV\n",
        {"target": ["1.5", "2.5 eV"]},
        "column target is kept as text, since 1 of its 2 values are no plain numbers, the first is '2.5 eV' in line 2",
    ),
    Case("bool_text", "id,metal\na,True\nb,FALSE\n", {"metal": [True, False]}, "metal (true or false)"),
    Case("bool, one missing", "id,metal\na,true\nb,N/A\n", {"metal": [True, None]}, "'N/A' in line 3"),
    Case("empty last column", "id,gap,\na,1,\nb,2,\n", {"gap": [1.0, 2.0]}, "column 3 is empty and has no name"),
    Case("quoted commas", 'id,note\na,"x, y"\nb, "1, 2"\n', {"note": ["x, y", "1, 2"]}, "note (text)"),
)

REFUSED = (
    ("dup_header", "id,gap,gap\na,1.5,9.5\nb,2.5,8.5\n", "several columns are called 'gap'"),
    ("column without name", "id,gap,\na,1,2\nb,3,4\n", "column 3 has values but no name"),
    ("header or row", "strukturen,gap\na,1\nb,2\n", "'strukturen' names no file, and words stand over numbers"),
    ("missing file or header", "zz,high\na,1\nb,2\n", "if the line is a header, call its first column id"),
    ("short row", "a,1,2\nb,3\n", r"id_prop.csv:2: 2 cells where the first row has 3"),
    ("long row", "id,note\na,x\nb,1, 2\n", r"id_prop.csv:3: 3 cells where the first row has 2.*quotation marks"),
    ("open quotation mark", 'a,"metal\nb,insulator\n', "line 2: unexpected end of data"),
    ("spaces", "a  1.5\nb  2.5\n", "separated by spaces; commas are expected"),
    ("bars", "a|1.5\nb|2.5\n", "separated by vertical bars; commas are expected"),
    ("UTF-16", "a,1\n\udcff", "not a text file"),
)


def ingest(folder: Path) -> tuple[IngestReport, pa.Table]:
    report = ingest_plain(IngestConfig.of(source=str(folder), out=str(folder.with_name("out"))))
    return report, read_table(report.table)


def folder_of(tmp_path: Path, rows: str, *names: str) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(cif())
    (folder / "id_prop.csv").write_text(rows, newline="", errors="surrogateescape")
    return folder


def properties(table: pa.Table) -> dict[str, list[Any]]:
    return {name: table[name].to_pylist() for name in table.schema.names[NUM_STRUCTURE_COLUMNS:]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_table_is_read_as_it_is_written(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        report, table = ingest(folder_of(tmp_path, case.rows, "a.cif", "b.cif"))
    assert table["material_id"].to_pylist() == ["a", "b"]
    assert properties(table) == case.columns
    assert report.reasons == case.reasons
    assert report.read == 2 + sum(case.reasons.values())
    assert case.said in caplog.text


@pytest.mark.parametrize(("title", "rows", "message"), REFUSED, ids=lambda value: value[:24])
def test_doubtful_table_is_refused(title: str, rows: str, message: str, tmp_path: Path) -> None:  # noqa: ARG001
    folder = folder_of(tmp_path, rows, "a.cif", "b.cif")
    with pytest.raises(ValueError, match=message):
        ingest(folder)


@pytest.mark.parametrize(
    "marker", ["na", "NA", "N/A", "#N/A", "nan", "None", "NULL", "-", "--", "\N{EM DASH}", "?", ".", ""]
)
def test_words_for_no_value_among_numbers(marker: str, tmp_path: Path) -> None:
    _, table = ingest(folder_of(tmp_path, f"id,gap,note\na,{marker},{marker}\nb,1e3,x\n", "a.cif", "b.cif"))
    assert properties(table) == {"gap": [None, 1000.0], "note": [marker or None, "x"]}


@pytest.mark.parametrize(
    "text", ["1_000", "0x1F", "\u0661\u0662", "\uff11", "inf", "Infinity", "1,5", "1 000", "1.5eV", "1.5(2)"]
)
def test_what_python_or_a_person_takes_for_a_number_is_none(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    "text", ["007", "-01.5", "1e999", "9007199254740993", "1.5d3", "", "+", ".", "1e", "\n1", "1\n"]
)
def test_what_would_lose_something_as_a_number_is_none(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    "text", ["0", "-0.0", "+1.5", ".5", "5.", "1e5", "1E-05", "9007199254740992", "0.1", "1.7976931348623157e308"]
)
def test_plain_numbers(text: str) -> None:
    assert number(text) == float(text)


@pytest.mark.parametrize(
    ("listed", "file", "message"),
    [
        (
            "12",
            "00012.cif",
            "there is no 12.cif beside it, but 00012.cif: a spreadsheet probably removed the leading zeros",
        ),
        ("12.0", "12.cif", "but 12.cif: a spreadsheet probably took it for a number"),
        ("nacl", "NaCl.cif", "but NaCl.cif: capital letters count"),
        ("atoms.xyz", "atoms.xyz", "atoms.xyz is neither a CIF nor a POSCAR, and other files cannot be listed"),
        ("../kcl", "NaCl.cif", "there is no ../kcl.cif beside it"),
        ("k" * 300, "NaCl.cif", "there is no kkk"),
        ("\u00e9" * 200, "NaCl.cif", "there is no \u00e9"),
        ("kcl", "NaCl.cif", "there is no kcl.cif beside it; add the file, or remove the row"),
    ],
)
def test_a_missing_file_is_told_with_its_likely_cause(listed: str, file: str, message: str, tmp_path: Path) -> None:
    report, _ = ingest(folder_of(tmp_path, f"{listed},1.5\n", file))
    assert report.reasons == {"missing_file": 1} | ({"unlisted_file": 1} if file.endswith(".cif") else {})
    details = read_details(report)
    assert message in details[0]


def read_details(report: IngestReport) -> list[str]:
    details: list[str] = pa.parquet.read_table(report.quarantine)["detail"].to_pylist()
    return details


def test_booleans_are_targets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, table = ingest(folder_of(tmp_path, "id,metal\na,True\nb,False\n", "a.cif", "b.cif"))
    with caplog.at_level(logging.INFO):
        assert targets_for(table, "metal", ["b", "a"]).labels.tolist() == [0.0, 1.0]
    assert "trained as 1 and 0" in caplog.text
