"""Files of other programs: nothing is lost, truncated or guessed; doubtful input is rejected with a message."""

from __future__ import annotations

import json
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.io import write as ase_write

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import IngestReport, ingest_plain
from crysatom.crystals.table import read_table
from crysatom.crystals.targets import targets_for
from tests.unit.broken_inputs import NA, cif, structure
from tests.unit.test_crystals_poscar import poscar

NUM_STRUCTURE_COLUMNS = 7
SALT = structure([NA])
JARVIS = {"lattice_mat": [[4.0, 0, 0], [0, 4, 0], [0, 0, 4]], "coords": [[0, 0, 0]], "elements": ["Na"]}
XYZ = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties={columns}:pos:R:3 pbc="T T T"\n{first} 0 0 0\n{second} 2 2 2\n'


def ingest(folder: Path, name: str, content: str | bytes) -> tuple[IngestReport, pa.Table]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return ingest_file(folder / name)


def ingest_file(path: Path) -> tuple[IngestReport, pa.Table]:
    report = ingest_plain(IngestConfig.of(source=str(path), out=str(path.with_name("out"))))
    return report, read_table(report.table)


def properties(table: pa.Table) -> dict[str, list[Any]]:
    return {name: table[name].to_pylist() for name in table.schema.names[NUM_STRUCTURE_COLUMNS:]}


def quarantined(report: IngestReport) -> list[tuple[str, str]]:
    return [(row["reason"], row["detail"]) for row in pq.read_table(report.quarantine).to_pylist()]


# --- JSON -------------------------------------------------------------------------------------------------------------


FRAME = pd.DataFrame({"structure": [SALT, SALT], "gap": [1.5, None], "metal": [True, False]}, index=["a", "b"])


@pytest.mark.parametrize("orient", ["columns", "index", "split", "table", "records"])
def test_tables_of_pandas(orient: Any, tmp_path: Path) -> None:
    _, table = ingest(tmp_path, "t.json", FRAME.to_json(orient=orient))
    assert table["material_id"].to_pylist() == (["t-0", "t-1"] if orient == "records" else ["a", "b"])
    assert properties(table) == {"gap": [1.5, None], "metal": [True, False]}


def test_dictionary_of_lists(tmp_path: Path) -> None:
    document = {"jid": ["a", "b"], "atoms": [JARVIS, JARVIS], "gap": [1, 2]}
    _, table = ingest(tmp_path, "t.json", json.dumps(document))
    assert table["material_id"].to_pylist() == ["a", "b"]
    assert properties(table) == {"gap": [1, 2]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"columns": ["structure", "gap", "gap"], "data": [[SALT, 1, 2]]}, "several columns are called 'gap'"),
        ({"columns": ["structure", 1, "1"], "data": [[SALT, 1, 2]]}, "several columns are called '1'"),
        (
            {"columns": ["structure", "gap"], "data": [[SALT, 1], [SALT]]},
            "row 1 of the table has 1 cells, and there are 2",
        ),
        ({"columns": ["structure", "gap"], "data": [[SALT, 1, 2]]}, "row 0 of the table has 3 cells"),
        ({"columns": ["structure"], "data": [SALT]}, "row 0 of the table has no list of cells"),
        ({"columns": ["structure"], "data": [[SALT]], "index": [0, 1]}, "2 names of rows for 1 rows"),
        ({"columns": [["structure", "x"]], "data": [[SALT]]}, "no list of words; flatten them"),
        ({"structure": {"a": SALT, "b": SALT}, "gap": {"a": 1}}, "'gap' has other rows"),
        ({"structure": {"a": SALT}, "gap": 1.5}, "'gap' has other rows"),
        ({"structure": [SALT, SALT], "gap": [1]}, "'gap' has other rows"),
    ],
)
def test_table_that_would_lose_a_cell_is_refused(document: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ingest(tmp_path, "t.json", json.dumps(document))


def test_repeated_keys_are_refused(tmp_path: Path) -> None:
    record = json.dumps({"id": "a", "structure": SALT, "gap": 1})
    twice = record.replace('"gap": 1', '"gap": 1, "gap": 2')
    for text, key in ((f"[{twice}]", "gap"), (f'{{"a": {record}, "a": {record}}}', "a")):
        with pytest.raises(ValueError, match=f"t.json: the key '{key}' is twice in one object; keep one of them"):
            ingest(tmp_path, "t.json", text)
    report, table = ingest(tmp_path, "t.jsonl", f"{record}\n{twice}\n")
    assert table["material_id"].to_pylist() == ["a"]
    [(reason, detail)] = quarantined(report)
    assert (reason, "t.jsonl:2: the key 'gap' is twice in one object" in detail) == ("unreadable", True)


def test_local_jarvis_file_says_na_for_no_value(tmp_path: Path) -> None:
    records = [{"jid": f"J-{k}", "atoms": JARVIS, "gap": gap, "note": "na"} for k, gap in enumerate(["na", 5.1])]
    _, table = ingest(tmp_path, "j.json", json.dumps(records))
    assert properties(table) == {"gap": [None, 5.1], "note": [None, None]}


def test_words_among_numbers_of_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in id_prop.csv: missing among numbers, text among text; the position of a bad value is reported."""
    rows = [
        {"a": 1, "b": "N/A", "c": 1.5, "d": "Na", "e": True, "f": "na"},
        {"a": "-", "b": 2.5, "c": "2.5 eV", "d": "None", "e": "?", "f": "-"},
        {"a": 3, "b": 1, "c": 3.5, "d": "Cl", "e": False, "f": None},
    ]
    with caplog.at_level(logging.INFO):
        _, table = ingest(tmp_path, "t.json", json.dumps([{"structure": SALT, **row} for row in rows]))
    assert properties(table) == {
        "a": [1, None, 3],
        "b": [None, 2.5, 1.0],
        "c": ["1.5", "2.5 eV", "3.5"],
        "d": ["Na", "None", "Cl"],
        "e": [True, None, False],
        "f": ["na", "-", None],
    }
    kept = "column c is kept as text, since it has values of several kinds: 2 like 1.5 (t-0), 1 like '2.5 eV' (t-1)"
    assert [kept in r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [True]
    assert "column a has words for no value in 1 crystals; '-' of t-1 is the first" in caplog.text
    assert "column d" not in caplog.text
    assert "column f" not in caplog.text


def test_numbers_that_are_none_in_json(tmp_path: Path) -> None:
    """NaN, which Python writes, is a missing value; infinity is kept, and rejected as a target."""
    text = json.dumps([{"structure": SALT, "a": np.nan, "b": np.inf}, {"structure": SALT, "a": 1.5, "b": 1}])
    _, table = ingest(tmp_path, "t.json", text)
    assert properties(table) == {"a": [None, 1.5], "b": [np.inf, 1.0]}
    with pytest.raises(ValueError, match="infinite for 1 crystals"):
        targets_for(table, "b", ["t-0", "t-1"])


def test_booleans_of_json_are_targets(tmp_path: Path) -> None:
    records = [{"id": k, "structure": SALT, "metal": value} for k, value in enumerate([True, False, None])]
    _, table = ingest(tmp_path, "t.json", json.dumps(records))
    np.testing.assert_array_equal(targets_for(table, "metal", ["1", "0", "2"]).labels, [0.0, 1.0, np.nan])


# --- text of crystals in JSON and data frames -------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["structure", "cif", "cif_string"])
def test_cif_in_json_is_read_as_a_cif(key: str, tmp_path: Path) -> None:
    broken = cif(extra="_chemical_formula_sum 'Na Cl H2'")
    report, table = ingest(tmp_path, "t.json", json.dumps([{"id": "a", key: cif(), "x": 1}, {"id": "b", key: broken}]))
    assert table["formula"].to_pylist() == ["NaCl"]
    assert properties(table) == {"x": [1]}
    assert report.reasons == {"formula_mismatch": 1}


def test_other_texts_of_crystals_in_json(tmp_path: Path) -> None:
    document = {"a": cif(), "b": {"structure": json.dumps(SALT)}, "c": {"poscar": poscar()}, "d": "NaCl"}
    report, table = ingest(tmp_path, "t.json", json.dumps(document))
    assert dict(zip(table["material_id"].to_pylist(), table["formula"].to_pylist(), strict=True)) == {
        "a": "NaCl",
        "b": "Na",
        "c": "NaCl",
    }
    [(_, detail)] = quarantined(report)
    assert "a JSON str ('NaCl') where a structure or record was expected" in detail


def test_data_frame_of_cifs(tmp_path: Path) -> None:
    frame = {"material_id": ["a", "b", None], "cif": [cif(), "x", cif()], "gap": [1.5, 2.5, 3.5], "n": ["na", "x", "y"]}
    pq.write_table(pa.table(frame), tmp_path / "t.parquet")
    report, table = ingest_file(tmp_path / "t.parquet")
    assert table["material_id"].to_pylist() == ["a"]
    assert properties(table) == {"gap": [1.5], "n": ["na"]}
    assert report.reasons == {"unreadable": 1, "missing_id": 1}


# --- atomic numbers and rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [11.5, np.nan, np.inf, -np.inf, 1e300, 0.999999])
def test_atomic_number_that_is_none_is_refused(number: float, tmp_path: Path) -> None:
    numbers = [[number, 17.0], [11.0, 17.0]]
    rows = {
        "material_id": ["a", "b"],
        "lattice": [[4.0, 0, 0, 0, 4, 0, 0, 0, 4]] * 2,
        "frac_coords": [[0, 0, 0, 0.5, 0.5, 0.5]] * 2,
        "atomic_numbers": numbers,
    }
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    report, table = ingest_file(tmp_path / "t.parquet")
    assert table["atomic_numbers"].to_pylist() == [[11, 17]]
    [(reason, detail)] = quarantined(report)
    assert reason == "unknown_species"
    assert f"atomic number {number:.6g} is no element" in detail


@pytest.mark.parametrize(
    "changes",
    [
        {"coords": [[0, 0], [0, 0], [0, 0]], "elements": ["Na", "Cl"]},
        {"coords": [[0, 0, 0], [0.5, 0.5]], "elements": ["Na", "Cl"]},
        {"coords": [["0", "0", "0_5"]]},
        {"coords": [[False, False, False]]},
        {"coords": [0, 0, 0]},
        {"lattice_mat": [[4, 0], [0, 0], [4, 0], [0, 0], [4, 0]]},
        {"elements": ["Na", "Cl"]},
    ],
)
def test_rows_of_unequal_length_and_text_are_no_numbers(changes: dict[str, Any], tmp_path: Path) -> None:
    report, _ = ingest(tmp_path, "t.json", json.dumps([{"jid": "a", "atoms": JARVIS | changes}]))
    assert report.reasons == {"unreadable": 1}


@pytest.mark.parametrize("isotope", ["D", "T", "D+", "D1+", "T+"])
def test_isotopes_in_json_are_hydrogen(isotope: str, tmp_path: Path) -> None:
    _, table = ingest(tmp_path, "t.json", json.dumps([structure([{"element": isotope, "occu": 1}])]))
    assert table["atomic_numbers"].to_pylist() == [[1]]


def test_isotopes_of_jarvis_are_hydrogen(tmp_path: Path) -> None:
    _, table = ingest(tmp_path, "t.json", json.dumps([{"jid": "a", "atoms": JARVIS | {"elements": ["D"]}}]))
    assert table["atomic_numbers"].to_pylist() == [[1]]


# --- what ASE reads ---------------------------------------------------------------------------------------------------


def test_isotopes_in_files_that_ase_reads_are_hydrogen(tmp_path: Path) -> None:
    _, table = ingest(tmp_path, "t.xyz", XYZ.format(columns="species:S:1", first="D", second="T"))
    assert table["atomic_numbers"].to_pylist() == [[1, 1]]


def test_real_atomic_numbers_of_xyz_are_refused(tmp_path: Path) -> None:
    report, _ = ingest(tmp_path, "t.xyz", XYZ.format(columns="Z:R:1", first="11.5", second="17"))
    [(reason, detail)] = quarantined(report)
    assert (reason, "declared as real (Z:R:1)" in detail) == ("unreadable", True)


def test_comment_line_of_xyz_means_what_it_says(tmp_path: Path) -> None:
    """ASE alone would read the first three as 202401, 7 and 10.5."""
    said = {"batch": "2024_01", "code": "007", "run": '"1_0.5"', "gap": "-1.5e-3", "n": "12", "metal": "T", "who": "na"}
    text = XYZ.format(columns="species:S:1", first="Na", second="Cl")
    text = text.replace(' pbc="T T T"', ' pbc="T T T" ' + " ".join(f"{key}={value}" for key, value in said.items()))
    _, table = ingest(tmp_path, "t.xyz", text)
    assert properties(table) == {
        "batch": ["2024_01"],
        "code": ["007"],
        "run": ["1_0.5"],
        "gap": [-1.5e-3],
        "n": [12],
        "metal": [True],
        "who": ["na"],
    }


def test_repeated_keys_of_xyz_are_refused(tmp_path: Path) -> None:
    text = XYZ.format(columns="species:S:1", first="Na", second="Cl").replace(" pbc=", " gap=1 gap=2 pbc=")
    report, _ = ingest(tmp_path, "t.xyz", text)
    [(reason, detail)] = quarantined(report)
    assert (reason, "the key 'gap' is twice in the comment line" in detail) == ("unreadable", True)


def test_whole_atomic_numbers_of_xyz(tmp_path: Path) -> None:
    _, table = ingest(tmp_path, "t.xyz", XYZ.format(columns="Z:I:1", first="11", second="17"))
    assert table["atomic_numbers"].to_pylist() == [[11, 17]]


def ase_database(path: Path) -> str:
    atoms = [
        Atoms(s, cell=[a, a, a], scaled_positions=[[0] * 3, [0.5] * 3], pbc=True) for s, a in (("NaCl", 4), ("KCl", 5))
    ]
    for k, one in enumerate(atoms):
        ase_write(path, one, append=k > 0)
    return path.read_text()


def test_json_database_of_ase(tmp_path: Path) -> None:
    ase_database(tmp_path / "t.json")
    report, table = ingest_file(tmp_path / "t.json")
    assert (report.read, table["formula"].to_pylist()) == (2, ["NaCl", "KCl"])


def test_json_database_of_ase_with_half_an_atomic_number(tmp_path: Path) -> None:
    text = ase_database(tmp_path / "t.json")
    assert "11" in text
    document = json.loads(text)
    document["1"]["numbers"]["__ndarray__"][2][0] = 11.5
    with pytest.raises(ValueError, match=r"t.json: atomic number 11.5 in row 1 is no whole number"):
        ingest(tmp_path, "t.json", json.dumps(document))


@pytest.mark.parametrize("name", ["crystal.txt", "crystal", "crystal.dat"])
def test_cif_by_another_name_is_read_as_a_cif(name: str, tmp_path: Path) -> None:
    text = "# by hand\n\n" + cif(extra="_chemical_formula_sum 'Na Cl H2'")
    report, _ = ingest(tmp_path, name, text)
    assert report.reasons == {"formula_mismatch": 1}


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_columns_of_parquet_keep_what_they_say(tmp_path: Path) -> None:
    rows = {
        "material_id": ["a", "b"],
        "lattice": [[4.0, 0, 0, 0, 4, 0, 0, 0, 4]] * 2,
        "frac_coords": [[0.0, 0, 0]] * 2,
        "atomic_numbers": [[11], [17]],
        "half": pa.array([1.5, None], pa.float16()),
        "category": pa.array(["x", "na"]).dictionary_encode(),
        "price": pa.array([Decimal("1.50"), None], pa.decimal128(6, 2)),
        "digits": pa.array([Decimal("0.12345678901234567890"), None], pa.decimal128(30, 20)),
        "metal": [True, None],
    }
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    _, table = ingest_file(tmp_path / "t.parquet")
    assert properties(table) == {
        "half": [1.5, None],
        "category": ["x", "na"],
        "price": [1.5, None],
        "digits": ["0.12345678901234567890", None],
        "metal": [True, None],
    }
    assert table.schema.field("half").type == pa.float16()
