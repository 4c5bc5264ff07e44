"""A target is the value of the row from which the graph was made."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Structure

from crysatom.config import FeaturizeConfig, IngestConfig
from crysatom.crystals.derived_columns import COMPUTED_COLUMNS, COMPUTED_FIELDS, computed_column
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.table import Crystal, read_table, to_table, write_table
from crysatom.crystals.targets import first_rows, targets_for, targets_from_csv
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import load


def crystal(material_id: str, atomic_number: int = 11, **properties: object) -> Crystal:
    return Crystal(
        material_id=material_id,
        lattice=4.0 * np.eye(3),
        frac_coords=np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
        atomic_numbers=np.array([atomic_number, 17], dtype=np.uint8),
        properties=properties,
    )


@pytest.fixture
def table() -> pa.Table:
    """Four crystals in five rows: 'a' occurs twice, with different atoms and values."""
    return to_table(
        [
            crystal("a", 11, gap=1.0, stable=True, label="x", count=3),
            crystal("b", 19, gap=None, stable=True, label="y", count=4),
            crystal("a", 37, gap=2.0, stable=False, label="x", count=5),
            crystal("c", 55, gap=4.0, stable=True, label="z", count=None),
            crystal("d", 3, gap=math.nan, stable=True, label="z", count=7),
        ]
    )


def test_values_follow_the_ids_not_the_rows(table: pa.Table) -> None:
    targets = targets_for(table, "gap", ["c", "d", "a", "b"])
    np.testing.assert_array_equal(targets.labels, [4, math.nan, 1, math.nan])
    assert targets.labeled.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(targets_for(table, "count", ["a", "c", "b"]).labels, [3, math.nan, 4])


def test_a_repeated_id_has_the_value_of_the_row_its_graph_was_made_of(table: pa.Table, tmp_path: Path) -> None:
    """The atoms of the graph are those of the first row, so its target must also be."""
    write_table(table, tmp_path / "t.parquet")
    featurize_plain(FeaturizeConfig.of(data=str(tmp_path / "t.parquet"), out=str(tmp_path / "graphs")))
    graphs = load(tmp_path / "graphs")
    back = read_table(tmp_path / "t.parquet")
    rows = first_rows(back, graphs.material_ids)
    np.testing.assert_array_equal(
        np.concatenate([back["atomic_numbers"][r].as_py() for r in rows.tolist()]), graphs.atomic_numbers
    )
    np.testing.assert_array_equal(targets_for(back, "gap", graphs.material_ids).labels[0], 1.0)


def test_the_first_row_counts_in_a_table_of_several_chunks(table: pa.Table) -> None:
    chunked = pa.concat_tables([table.slice(2, 3), table.slice(0, 2)])
    assert first_rows(chunked, ["a", "b", "d"]).tolist() == [0, 4, 2]


def test_unit_is_that_of_the_table_then_of_the_vocabulary(table: pa.Table) -> None:
    with_unit = table.append_column(pa.field("speed", pa.float64(), metadata={"unit": "km/s"}), pa.array([1.0] * 5))
    assert targets_for(with_unit, "speed", ["a"]).unit == "km/s"
    assert targets_for(table, "gap", ["a"]).unit == ""
    assert targets_for(table.append_column("ehull", pa.array([1.0] * 5)), "ehull", ["a"]).unit == "eV/atom"
    assert targets_for(table, "density", ["a"]).unit == "g/cm^3"


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        ("nothing", ["a"], "no column 'nothing'.*gap, stable, count, wild, volume_per_atom, density"),
        (
            "label",
            ["b"],
            "column label has type string.*the first value that is none is 'y' of b; columns of numbers are",
        ),
        ("gap", ["a", "e", "f"], "no row for 2 of 3 crystals, the first of them 'e'"),
        ("gap", ["b", "d"], "none of the 2 crystals has a value of gap"),
        ("wild", ["b", "c"], "infinite for 1 crystals, the first of them 'c'"),
    ],
)
def test_errors_say_what_is_wrong(name: str, ids: list[str], message: str, table: pa.Table) -> None:
    table = table.append_column("wild", pa.array([1.0, 2.0, 3.0, math.inf, 5.0]))
    with pytest.raises(ValueError, match=message):
        targets_for(table, name, ids)


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv(start: str, table: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(start + "material_id, speed\r\nc, -1.5e3\r\n\r\na,2\r\n")
    targets = targets_from_csv(tmp_path / "t.csv", table, ["a", "b", "c"])
    assert (targets.name, targets.unit) == ("speed", "")
    np.testing.assert_array_equal(targets.labels, [2, math.nan, -1500])


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_between_semicolons_or_tabs(separator: str, table: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("material_id,speed\nc,-1.5e3\na,2\n".replace(",", separator))
    np.testing.assert_array_equal(targets_from_csv(tmp_path / "t.csv", table, ["a", "c"]).labels, [2, -1500])


def test_csv_says_which_values_are_missing(table: pa.Table, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text("material_id,speed\na,1.5\nb,-\nc,\n")
    with caplog.at_level("INFO"):
        targets = targets_from_csv(tmp_path / "t.csv", table, ["a", "b", "c"])
    np.testing.assert_array_equal(targets.labels, [1.5, math.nan, math.nan])
    assert "column speed has no value in 2 of 3 rows ('-' in line 3, '' in line 4)" in caplog.text


def test_true_and_false_train_as_one_and_zero(
    table: pa.Table, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        np.testing.assert_array_equal(targets_for(table, "stable", ["b", "a", "c"]).labels, [1, 1, 1])
    assert "stable holds true and false, which are trained as 1 and 0" in caplog.text
    caplog.clear()
    (tmp_path / "t.csv").write_text("material_id,metal\na,True\nb,FALSE\nc,na\n")
    with caplog.at_level("INFO"):
        targets = targets_from_csv(tmp_path / "t.csv", table, ["a", "b", "c"])
    np.testing.assert_array_equal(targets.labels, [1, 0, math.nan])
    assert "metal holds true and false" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be 'material_id,NAME'"),
        ("a,1\nb,2\n", "first line must be 'material_id,NAME'.*it is 'a,1'"),
        ("material_id\na\n", "first line must be"),
        ("material_id,x\na,1\nz,2\n", r"t.csv:3: the crystal table has no id 'z'"),
        ("material_id,x\na,1\n\nb,2\na,1\n", r"t.csv:5: 'a' already has a value in line 2"),
        ("material_id,x\na,high\n", r"t.csv:2: 'high' is not a number"),
        ("material_id,x\na,\n", "none of the 2 crystals has a value of x"),
        ("material_id,x\na,nan\nb,N/A\n", "none of the 2 crystals has a value of x"),
        ("material_id,x\na,-inf\n", r"t.csv:2: '-inf' is not finite"),
        ("material_id,x\na,1\nb,1_000\n", r"t.csv:3: '1_000' is not a number"),
        ("material_id;x\na;1,5\n", r"t.csv:2: '1,5' is not a number"),
        ("material_id|x\na|1.5\n", "separated by vertical bars; commas are expected"),
        ("material_id,x\na,1\nb,true\n", r"t.csv:3: 'true' is not a number"),
        ('material_id,x\na,1\nb,"2\n', "not a text file of comma-separated values .line 3: unexpected end of data"),
        ("material_id,x\na,1,2\n", r"t.csv:2: 3 cells"),
        ("material_id,x\nd,1\n", "none of the 2 crystals has a value of x"),
        ("material_id,x\n", "none of the 2 crystals has a value of x"),
    ],
)
def test_csv_errors_name_the_line(text: str, message: str, table: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        targets_from_csv(tmp_path / "t.csv", table, ["a", "b"])


def test_csv_that_is_none(table: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        targets_from_csv(tmp_path / "t.csv", table, ["a"])
    with pytest.raises(ValueError, match=r"absent.csv: the file cannot be read \(No such file"):
        targets_from_csv(tmp_path / "absent.csv", table, ["a"])


def test_computed_columns_are_pymatgens(prototypes: pa.Table) -> None:
    """Every table that ingest writes has them, with the values of pymatgen."""
    for row in prototypes.to_pylist():
        lattice, coords = np.reshape(row["lattice"], (3, 3)), np.reshape(row["frac_coords"], (-1, 3))
        structure = Structure(lattice, row["atomic_numbers"], coords)
        assert row["volume_per_atom"] == pytest.approx(structure.volume / len(structure), rel=1e-12)
        assert row["density"] == pytest.approx(float(structure.density), rel=1e-8)


def test_computed_columns_say_their_unit(prototypes: pa.Table) -> None:
    assert prototypes.schema.names[5:7] == list(COMPUTED_COLUMNS)
    assert prototypes.schema.field("volume_per_atom").metadata[b"unit"] == b"angstrom^3/atom"
    assert prototypes.schema.field("density").metadata[b"unit"] == b"g/cm^3"


def test_a_table_without_computed_columns_gets_the_same(prototypes: pa.Table) -> None:
    ids = prototypes["material_id"].to_pylist()[::-3]
    bare = prototypes.drop_columns(list(COMPUTED_COLUMNS))
    for name in COMPUTED_COLUMNS:
        expected, found = targets_for(prototypes, name, ids), targets_for(bare, name, ids)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.unit == expected.unit


def test_left_handed_cell_has_the_same_volume() -> None:
    lattice = np.array([[4.0, 0, 0], [1, 4, 0], [0, 1, 4]])
    pair = [
        Crystal(
            material_id=name, lattice=cell, frac_coords=np.zeros((1, 3)), atomic_numbers=np.array([29], dtype=np.uint8)
        )
        for name, cell in (("right", lattice), ("left", lattice[[1, 0, 2]]))
    ]
    np.testing.assert_allclose(computed_column(to_table(pair), "volume_per_atom"), [64, 64])


def test_a_sources_own_density_is_kept_beside_ours(tmp_path: Path) -> None:
    """Ingesting an ingested table changes nothing either."""
    ours = next(f for f in COMPUTED_FIELDS if f.name == "density")
    pq.write_table(to_table([crystal("a", density=5000.0)]), tmp_path / "t.parquet")
    once = ingest_plain(IngestConfig.of(source=str(tmp_path / "t.parquet"), out=str(tmp_path / "once")))
    twice = ingest_plain(IngestConfig.of(source=str(once.table), out=str(tmp_path / "twice")))
    first, second = read_table(once.table), read_table(twice.table)
    assert first["source_density"].to_pylist() == [5000.0]
    assert first["density"].to_pylist() == [pytest.approx(58.4428 / 64 / 0.602214076, rel=1e-5)]
    assert first.schema.field("density").equals(ours, check_metadata=True)
    assert second.equals(first)
    assert second.schema.equals(first.schema.with_metadata(second.schema.metadata), check_metadata=True)


def test_two_properties_for_one_column_are_refused(tmp_path: Path) -> None:
    pq.write_table(to_table([crystal("a", density=1.0, source_density=2.0)]), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="'density', which the table would keep as 'source_density'"):
        ingest_plain(IngestConfig.of(source=str(tmp_path / "t.parquet"), out=str(tmp_path / "out")))


def test_jarvis_ids_of_several_rows(test_data: Path) -> None:
    """JVASP-97311 has -1.71390 in its first row and -1.71102 in two later ones."""
    table = read_table(test_data / "jarvis_dft_3d.parquet")
    ids = list(dict.fromkeys(table["material_id"].to_pylist()))
    assert (table.num_rows, len(ids)) == (55_723, 55_712)
    energies = targets_for(table, "formation_energy_peratom", ids)
    assert energies.labels[ids.index("JVASP-97311")] == -1.7139
    assert energies.unit == "eV/atom"
    assert energies.labeled.all()
    labels = {
        "optb88vdw_bandgap": 55_711,
        "optb88vdw_total_energy": 55_711,
        "ehull": 55_359,
        "mbj_bandgap": 18_167,
        "bulk_modulus_kv": 19_680,
        "shear_modulus_gv": 19_680,
    }
    assert {name: int(targets_for(table, name, ids).labeled.sum()) for name in labels} == labels
