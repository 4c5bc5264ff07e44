"""Every kind of source yields its crystals with ids and properties."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.db import connect
from ase.io import write as ase_write
from filelock import FileLock
from pymatgen.core import Element, Lattice, Species, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from crysatom.config import IngestConfig
from crysatom.crystals.checks import DEFAULT_LIMITS
from crysatom.crystals.examine import examine
from crysatom.crystals.ingest import LOCK_FILE, IngestReport, ingest_plain
from crysatom.crystals.record import Record
from crysatom.crystals.sources import open_source, read_source
from crysatom.crystals.table import Crystal, read_table
from tests.unit.broken_inputs import cif

PROTOTYPES = 8
"""Number of embedded crystals that the tests write in other formats."""


@pytest.fixture(scope="module")
def structures() -> dict[str, Structure]:
    """Some embedded crystals by id, as read by pymatgen."""
    records = [r for r in read_source("aflow:prototypes") if isinstance(r, Record)]
    return {
        r.material_id: Structure.from_dict(json.loads(r.content)) for r in records[:: 288 // PROTOTYPES][:PROTOTYPES]
    }


def ingest(source: Path | str, tmp_path: Path, **options: Any) -> tuple[IngestReport, pa.Table]:
    report = ingest_plain(IngestConfig.of(source=str(source), out=str(tmp_path / "out"), **options))
    return report, read_table(report.table)


def assert_same_crystals(table: pa.Table, structures: dict[str, Structure]) -> None:
    """Compare ids in order, lattices to 1e-6, and the positions of atoms in any order."""
    assert table["material_id"].to_pylist() == list(structures)
    for row, structure in zip(table.to_pylist(), structures.values(), strict=True):
        read = Structure(
            np.reshape(row["lattice"], (3, 3)), row["atomic_numbers"], np.reshape(row["frac_coords"], (-1, 3))
        )
        assert len(read) == len(structure)
        np.testing.assert_allclose(sorted(read.lattice.parameters), sorted(structure.lattice.parameters), atol=1e-5)
        for site in structure:
            [nearest] = [
                s for s in read if s.specie.Z == site.specie.Z and distance(s.frac_coords, site.frac_coords) < 1e-4
            ]
            assert nearest.specie.Z == site.specie.Z


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of fractional coordinates, modulo 1."""
    difference = a - b
    return float(np.abs(difference - np.rint(difference)).max())


def test_embedded_crystals(tmp_path: Path) -> None:
    report, table = ingest("aflow:prototypes", tmp_path)
    assert (report.read, report.accepted, report.rejected) == (288, 288, 0)
    ids = table["material_id"].to_pylist()
    assert len(set(ids)) == 288
    assert "AB_cF8_225_a_b-NaCl" in ids
    assert len({z for row in table["atomic_numbers"].to_pylist() for z in row}) == 69
    assert {"aflow_label", "pearson_symbol", "mineral"} <= set(table.schema.names)


def test_embedded_crystals_are_read_as_pymatgen_reads_them() -> None:
    for raw in read_source("aflow:prototypes"):
        assert isinstance(raw, Record)
        crystal = examine(raw, DEFAULT_LIMITS)
        expected = Structure.from_dict(json.loads(raw.content))
        assert isinstance(crystal, Crystal)
        np.testing.assert_array_equal(crystal.lattice, expected.lattice.matrix)
        np.testing.assert_array_equal(crystal.frac_coords, expected.frac_coords)
        np.testing.assert_array_equal(crystal.atomic_numbers, expected.atomic_numbers)


def test_folder_of_cifs(structures: dict[str, Structure], tmp_path: Path) -> None:
    for name, structure in structures.items():
        structure.to(filename=str(tmp_path / f"{name}.cif"))
    (tmp_path / "README.txt").write_text("notes")
    _, table = ingest(tmp_path, tmp_path)
    assert_same_crystals(table, dict(sorted(structures.items())))


@pytest.mark.filterwarnings("ignore:Issues encountered:UserWarning")  # pymatgen's own reader
@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib, when writing
def test_cif_with_symmetry_is_expanded_as_pymatgen_does(structures: dict[str, Structure], tmp_path: Path) -> None:
    for name, structure in structures.items():
        path = tmp_path / f"{name}.cif"
        structure.to(filename=str(path), symprec=1e-3)
        raw = Record(material_id=name, source="", format="cif", content=path.read_bytes())
        crystal = examine(raw, DEFAULT_LIMITS)
        expected = Structure.from_file(path)
        assert isinstance(crystal, Crystal)
        assert sorted(crystal.atomic_numbers.tolist()) == sorted(expected.atomic_numbers)
        assert len(crystal.frac_coords) % len(structure.get_primitive_structure()) == 0


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ("b,1.5\na,-2\n", {"target": [1.5, -2.0]}),
        ("id,e_form,phase\nb,1.5,rutile\na,,\n", {"e_form": [1.5, None], "phase": ["rutile", None]}),
        ("\ufeffb.cif, 1 \r\na.cif, 2 \r\n", {"target": [1.0, 2.0]}),
        ("b,1,x\na,2,nan\n", {"target": [1.0, 2.0], "target_2": ["x", "nan"]}),
        ("b\na\n", {}),
    ],
)
def test_id_prop(rows: str, columns: dict[str, list[Any]], tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif())
    (tmp_path / "b.cif.gz").write_bytes(gzip.compress(cif().encode()))
    (tmp_path / "id_prop.csv").write_text(rows)
    report, table = ingest(tmp_path, tmp_path)
    assert report.rejected == 0
    assert table["material_id"].to_pylist() == ["b", "a"]
    assert {name: table[name].to_pylist() for name in table.schema.names[7:]} == columns


def documents(structures: dict[str, Structure]) -> dict[str, Any]:
    dicts = {name: s.as_dict() for name, s in structures.items()}
    records = [{"material_id": name, "structure": d, "gap": i} for i, (name, d) in enumerate(dicts.items())]
    rows = [[d, i] for i, d in enumerate(dicts.values())]
    return {
        "dictionary": dicts,
        "records": records,
        "dictionary of records": {name: {"structure": d, "gap": 1} for name, d in dicts.items()},
        "pandas": {"index": list(dicts), "columns": ["structure", "gap"], "data": rows},
    }


@pytest.mark.parametrize("arrangement", ["dictionary", "records", "dictionary of records", "pandas"])
def test_json(arrangement: str, structures: dict[str, Structure], tmp_path: Path) -> None:
    with gzip.open(tmp_path / "s.json.gz", "wt") as stream:
        json.dump(documents(structures)[arrangement], stream)
    _, table = ingest(tmp_path / "s.json.gz", tmp_path)
    assert_same_crystals(table, structures)
    assert ("gap" in table.schema.names) == (arrangement != "dictionary")


def test_json_list_and_lines_get_ids_by_position(structures: dict[str, Structure], tmp_path: Path) -> None:
    dicts = [s.as_dict() for s in structures.values()]
    (tmp_path / "s.json").write_text(json.dumps(dicts))
    (tmp_path / "l.jsonl").write_text("\n\n".join(map(json.dumps, dicts)))
    _, table = ingest(tmp_path / "s.json", tmp_path)
    assert_same_crystals(table, {f"s-{i}": s for i, s in enumerate(structures.values())})
    _, table = ingest(tmp_path / "l.jsonl", tmp_path, overwrite=True)
    assert_same_crystals(table, {f"l-{2 * i + 1}": s for i, s in enumerate(structures.values())})


def test_charges_are_removed_and_deuterium_is_hydrogen(tmp_path: Path) -> None:
    ions = Structure(
        Lattice.cubic(4), [Species("Fe", 3), Species("O", -2.5), Element("D")], [[0] * 3, [0.5] * 3, [0.5, 0, 0]]
    )
    (tmp_path / "s.json").write_text(json.dumps({"json": ions.as_dict()}))
    _, table = ingest(tmp_path / "s.json", tmp_path)
    assert table["atomic_numbers"].to_pylist() == [[26, 8, 1]]
    sites = "Fe3+ Fe1 0 0 0 1\nO2- O1 0.5 0.5 0.5 1\nD D1 0.5 0 0 .\n"
    (tmp_path / "x.cif").write_text(cif(sites, extra="_chemical_formula_sum 'Fe O D'").replace(" .\n", " 1.00(2)\n"))
    _, table = ingest(tmp_path / "x.cif", tmp_path, overwrite=True)
    assert sorted(table["atomic_numbers"].to_pylist()[0]) == [1, 8, 26]


def ase_file(name: str) -> Callable[[dict[str, Structure], Path], Path]:
    def write(structures: dict[str, Structure], folder: Path) -> Path:
        images = [AseAtomsAdaptor.get_atoms(s) for s in structures.values()]
        for name_, image in zip(structures, images, strict=True):
            image.info = {"material_id": name_, "gap": 1.5}
        if name.endswith(".db"):
            with connect(folder / name) as database:
                for image in images:
                    database.write(image, key_value_pairs=image.info)
        else:
            ase_write(folder / name, images)
        return folder / name

    return write


@pytest.mark.parametrize("excess", [-1, 0, 1, 40])
def test_a_line_of_just_the_largest_size_costs_no_other(
    excess: int, structures: dict[str, Structure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"id": name, "structure": s.as_dict()}).encode() + b"\n" for name, s in structures.items()]
    limit = max(map(len, lines)) + 10
    lines[1] = lines[1][:-1].ljust(limit + excess - 1) + b"\n"
    (tmp_path / "s.jsonl").write_bytes(b"".join(lines))
    monkeypatch.setattr("crysatom.crystals.sources.records.MOST_LINE_BYTES", limit)
    records = list(read_source(str(tmp_path / "s.jsonl")))
    assert [isinstance(record, Record) for record in records] == [k != 1 or excess <= 0 for k in range(len(lines))]
    assert [record.source.rpartition(":")[2] for record in records] == [str(k + 1) for k in range(len(lines))]


def test_a_row_without_atoms_after_one_of_the_most_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crysatom.crystals.sources.parquet.MOST_ATOMS", 2)
    atoms = [[11, 17], None, [11], [11, 17, 11], None, [17]]
    columns = {
        "material_id": [f"a-{k}" for k in range(len(atoms))],
        "lattice": [[5.0, 0, 0, 0, 5, 0, 0, 0, 5]] * len(atoms),
        "frac_coords": [None if z is None else [0.1 * k for k in range(3 * len(z))] for z in atoms],
        "atomic_numbers": pa.array(atoms, pa.list_(pa.uint8())),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    records = list(read_source(str(tmp_path / "a.parquet")))
    assert [record.source.rpartition("#")[2] for record in records] == ["0", "1", "2", "3", "4", "5"]
    assert [isinstance(record, Record) for record in records] == [True, True, True, False, True, True]


@pytest.mark.parametrize("name", ["s.xyz", "s.db", "s.traj"])
def test_ase(name: str, structures: dict[str, Structure], tmp_path: Path) -> None:
    path = ase_file(name)(structures, tmp_path)
    _, table = ingest(path, tmp_path)
    assert_same_crystals(table, structures)
    assert table["gap"].to_pylist() == [1.5] * PROTOTYPES


def test_ase_reads_poscar(structures: dict[str, Structure], tmp_path: Path) -> None:
    structure = next(iter(structures.values()))
    structure.to(filename=str(tmp_path / "POSCAR"), fmt="poscar")
    _, table = ingest(tmp_path / "POSCAR", tmp_path)
    assert_same_crystals(table, {"POSCAR-1": structure})


def test_table_as_source_keeps_columns_and_units(structures: dict[str, Structure], tmp_path: Path) -> None:
    rows = {
        "material_id": [*structures, next(iter(structures))],
        "lattice": [s.lattice.matrix.ravel() for s in structures.values()] + [[0.0] * 9],
        "frac_coords": [s.frac_coords.ravel() for s in structures.values()] + [[0.0] * 3],
        "atomic_numbers": [s.atomic_numbers for s in structures.values()] + [[1]],
        "gap": [None, *range(PROTOTYPES)],
    }
    gap = pa.field("gap", pa.float32(), metadata={"unit": "eV"})
    fields = [
        ("material_id", pa.string()),
        ("lattice", pa.list_(pa.float64())),
        ("frac_coords", pa.list_(pa.float64())),
    ]
    schema = pa.schema([*fields, ("atomic_numbers", pa.list_(pa.int16())), gap])
    pq.write_table(pa.table(rows, schema=schema), tmp_path / "t.parquet")
    report, table = ingest(tmp_path / "t.parquet", tmp_path)
    assert report.reasons == {"zero_volume": 1}
    assert_same_crystals(table, structures)
    assert table.schema.field("gap").equals(gap, check_metadata=True)
    assert table["gap"].to_pylist() == [None, *range(PROTOTYPES - 1)]


def test_properties_of_mixed_kinds(tmp_path: Path) -> None:
    structure = Structure(Lattice.cubic(4), ["Na"], [[0] * 3]).as_dict()
    values = [{"a": 1, "b": True, "c": 1, "d": [1, 2], "formula": "x"}, {"a": 2.5, "b": None, "c": "x", "e": 2**70}]
    (tmp_path / "s.json").write_text(json.dumps([{"structure": structure, **v} for v in values]))
    _, table = ingest(tmp_path / "s.json", tmp_path)
    columns = {name: table[name].to_pylist() for name in ("a", "b", "c", "d", "e", "source_formula")}
    assert columns == {
        "a": [1.0, 2.5],
        "b": [True, None],
        "c": ["1", "x"],
        "d": ["[1, 2]", None],
        "e": [None, str(2**70)],
        "source_formula": ["x", None],
    }


def test_output_is_replaced_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif())
    ingest(tmp_path / "a.cif", tmp_path)
    with pytest.raises(ValueError, match="--overwrite"):
        ingest(tmp_path / "a.cif", tmp_path)
    ingest(tmp_path / "a.cif", tmp_path, overwrite=True)
    files = sorted(p.name for p in (tmp_path / "out").glob("[!.]*"))
    assert files == ["crystals.parquet", "notes.parquet", "quarantine.parquet"]


def test_a_folder_has_one_ingest_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif())
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / LOCK_FILE), pytest.raises(ValueError, match="another process is reading crystals"):
        ingest(tmp_path / "a.cif", tmp_path)
    assert ingest(tmp_path / "a.cif", tmp_path)[0].accepted == 1


def test_terminal_is_not_spammed(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.cif").write_text(cif("Ar Ar1 0.3333 0 0 1\n"))
    ingest(tmp_path, tmp_path)
    assert not recwarn.list
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_jarvis_table(test_data: Path, tmp_path: Path) -> None:
    """JARVIS has some ids in several rows: the first is kept, the other 11 are in the quarantine."""
    source = open_source(str(test_data / "jarvis_dft_3d.parquet"))
    records = [r for r in source.records() if isinstance(r, Record)]
    assert len(records) == source.total == 55_723
    repeated = [name for name, count in Counter(r.material_id for r in records).items() if count > 1]
    table = pq.read_table(test_data / "jarvis_dft_3d.parquet", filters=[("material_id", "in", repeated)])
    pq.write_table(table, tmp_path / "t.parquet")
    report, ingested = ingest(tmp_path / "t.parquet", tmp_path)
    assert (report.read, report.accepted, report.reasons) == (16, 5, {"duplicate_id": 11})
    assert ingested["formula"].to_pylist()[0] == table["formula"][0].as_py()
