"""Crystal table: foreign files and atomic writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crysatom.crystals.table import (
    GRAPH_COLUMNS,
    STRUCTURE_FIELDS,
    Crystal,
    iter_crystal_batches,
    read_table,
    to_table,
    write_table,
)


def crystals(count: int = 10) -> list[Crystal]:
    generator = np.random.default_rng(0)
    return [
        Crystal(
            material_id=f"m-{i}",
            lattice=4 * np.eye(3) + generator.normal(size=(3, 3)) * 0.1,
            frac_coords=generator.uniform(size=(1 + i % 3, 3)).astype(np.float32).astype(np.float64),
            atomic_numbers=np.full(1 + i % 3, 8 + i, dtype=np.uint8),
            properties={"e_form": -0.5 * i, "split": "train" if i % 2 else None},
        )
        for i in range(count)
    ]


@pytest.fixture
def table() -> pa.Table:
    return to_table(crystals())


def as_others_write_it(table: pa.Table) -> pa.Table:
    """int16 numbers, float32 coordinates, columns in another order, without formula, an integer property."""
    numbers = table["atomic_numbers"].cast(pa.list_(pa.int16()))
    coords = table["frac_coords"].cast(pa.list_(pa.float32()))
    others = pa.table(
        {"duplicate_of": pa.array([None] * 9 + [3], pa.int32()), "atomic_numbers": numbers, "frac_coords": coords}
    )
    return others.append_column("lattice", table["lattice"]).append_column("material_id", table["material_id"])


def test_written_table_is_read_back(table: pa.Table, tmp_path: Path) -> None:
    assert write_table(table, tmp_path / "a.parquet") == 10
    back = read_table(tmp_path / "a.parquet")
    assert back.equals(table)
    assert back.schema.field("lattice").metadata[b"unit"] == b"angstrom"
    assert back.schema.field("e_form").metadata[b"unit"] == b"eV/atom"
    assert back["formula"][0].as_py() == "O2"


def test_tables_of_others_are_brought_to_the_contract(table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(as_others_write_it(table), tmp_path / "a.parquet")
    back = read_table(tmp_path / "a.parquet")
    assert back.schema.names[:5] == [f.name for f in STRUCTURE_FIELDS]
    assert back.select(GRAPH_COLUMNS).equals(table.select(GRAPH_COLUMNS))
    assert back["formula"].equals(table["formula"])
    assert back["duplicate_of"].to_pylist() == [None] * 9 + [3]


def test_batches_are_bounded_and_complete(table: pa.Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "a.parquet")
    batches = list(iter_crystal_batches(tmp_path / "a.parquet", batch_size=4))
    assert [b.num_rows for b in batches] == [4, 4, 2]
    assert batches[0].schema.names == list(GRAPH_COLUMNS)
    assert pa.Table.from_batches(batches).equals(table.select(GRAPH_COLUMNS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["lattice"]), "lacks lattice"),
        (lambda t: t.set_column(1, "lattice", t["formula"]), "list of numbers"),
        (lambda t: t.set_column(1, "lattice", pa.array([[1.0] * 6] * 10)), "6 lattice numbers"),
        (
            lambda t: t.set_column(3, "atomic_numbers", pa.array([[300] * n for n in [1, 2, 3] * 3 + [1]])),
            "cannot become",
        ),
        (lambda t: t.set_column(0, "material_id", pa.array([None] * 10, pa.string())), "null in 10 rows"),
    ],
)
def test_what_is_no_crystal_table_is_named(change: object, message: str, table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(change(pa.table(table.to_pydict())), tmp_path / "a.parquet")  # type: ignore[operator]
    with pytest.raises(ValueError, match=message) as error:
        read_table(tmp_path / "a.parquet")
    assert "a.parquet" in str(error.value)


def test_interrupted_writing_leaves_the_old_file_and_no_other(table: pa.Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "a.parquet")

    def breaks_off() -> object:
        yield table.slice(0, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(breaks_off(), tmp_path / "a.parquet", table.schema)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
    assert read_table(tmp_path / "a.parquet").num_rows == 10
