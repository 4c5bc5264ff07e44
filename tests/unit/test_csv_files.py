"""CSV that spreadsheets do not execute, and that is read back unchanged."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crysatom.crystals.csv_files import as_it_was, csv_line, csv_text, harmless, read_written, write_csv
from crysatom.text_tables import Raw, latex, latex_text, markdown, markdown_text
from tests.conftest import REPOSITORY

FORMULAS = (
    "=1+1",
    "=HYPERLINK(A1)",
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\uff1d1",
    "'=1",
    "-1_0",
    "--1",
    "-",
)
PLAIN = (
    "mp-149",
    "JVASP-1",
    "a=b",
    "1+1",
    "-1.5",
    "+2",
    "-1e-05",
    "-.5",
    "'quoted'",
    "",
    "NA",
    "007",
    "Na2 Cl2",
    "a@b",
)


@pytest.mark.parametrize("text", FORMULAS)
def test_what_begins_like_a_formula_gets_an_apostrophe(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("text", PLAIN)
def test_numbers_and_other_text_stay_as_they_are(text: str) -> None:
    assert harmless(text) == text


@given(st.text() | st.text("'=+-@ \t\r\n12.e;,\"|"))
def test_text_comes_back_from_a_cell(text: str) -> None:
    assert as_it_was(harmless(text)) == text
    [row] = csv.reader(io.StringIO(csv_line([text, 1]), newline=""))
    assert row == [harmless(text), "1"]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_cell_is_one_for_programs_that_separate_otherwise(separator: str) -> None:
    assert csv_line([f"a{separator}=1", -1.5, None, True]) == f'"a{separator}=1",-1.5,,True\n'


def test_ordinary_tables_are_written_as_pandas_does() -> None:
    frame = pd.DataFrame(
        {
            "id": ["a", 'b, "c"', None],
            "x": [0.1, -1e300, np.nan],
            "y": np.array([0.1, -2.5, 3], dtype=np.float32),
            "n": [1, -2, 3],
            "b": [True, False, True],
        }
    )
    assert csv_text(frame) == frame.to_csv(index=False)
    assert csv_text(frame[:0]) == frame[:0].to_csv(index=False)


def test_ids_come_back_as_they_were(tmp_path: Path) -> None:
    ids = [*FORMULAS, *PLAIN, "nan"]
    write_csv(pd.DataFrame({"material_id": ids, "prediction": np.arange(len(ids)) - 0.5}), tmp_path / "p.csv")
    read = read_written(tmp_path / "p.csv")
    assert read["material_id"].tolist() == ids
    assert pd.read_csv(tmp_path / "p.csv")["material_id"].isna().sum() == 3, "else it would not matter"
    assert read["prediction"].tolist() == [k - 0.5 for k in range(len(ids))]


@pytest.mark.parametrize("nothing", ["", "nan"])
def test_numbers_that_are_missing_are_nan(nothing: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"row,mean\nNA,{nothing}\n'=a,-0.5\n")
    read = read_written(tmp_path / "t.csv")
    assert read["mean"].isna().tolist() == [True, False]
    assert read["row"][0] == "NA"


@pytest.mark.parametrize(
    ("writes", "writer"),
    [
        (r"\.to_csv\(|csv\.(writer|DictWriter)|\.to_excel\(", "crystals/csv_files.py"),
        (r"\.to_markdown\(|\.to_latex\(|\| -|toprule|textbackslash", "text_tables.py"),
    ],
)
def test_nothing_else_writes_tables(writes: str, writer: str) -> None:
    root = REPOSITORY / "platform" / "crysatom"
    found = {str(p.relative_to(root)) for p in root.rglob("*.py") if re.search(writes, p.read_text())}
    assert found <= {writer}


def test_text_is_no_command_in_tables_for_people() -> None:
    evil = "a|b\n\n<img src=x> \\input{x} $y$ ~ ^"
    assert markdown_text(evil) == r"a\|b &lt;img src=x> \input{x} $y$ ~ ^"
    assert latex_text(evil) == (r"a|b <img src=x> \textbackslash{}input\{x\} \$y\$ \textasciitilde{} \^{}")
    assert latex_text("angstrom^3, 10^-21 cm^") == r"angstrom$^3$, 10$^{-21}$ cm\^{}"


def test_tables_of_texts() -> None:
    header, rows = ["", "n_1"], [["a|b", 1], [Raw("c<br>$d$"), None]]
    assert markdown(header, rows) == "| | n_1 |\n| --- | --- |\n| a\\|b | 1 |\n| c<br>$d$ | None |\n"
    assert markdown(header, [], "lr") == "| | n_1 |\n| --- | ---: |\n"
    tabular = latex(header, rows)
    assert tabular.splitlines() == [
        r"\begin{tabular}{lc}",
        r"\toprule",
        r" & n\_1 \\",
        r"\midrule",
        r"a|b & 1 \\",
        r"c<br>$d$ & None \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert latex(header, rows, caption="50 %") == f"\\begin{{table}}\n\\caption{{50 \\%}}\n{tabular}\\end{{table}}\n"
