"""Broken inputs, how to make each, and the message for the user.

``python -m tests.unit.broken_inputs`` rewrites the table in docs/ingest.md.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.sources.registry import known_sources

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "ingest.md"
BEGIN = "<!-- broken inputs: python -m tests.unit.broken_inputs -->"
END = "<!-- end of broken inputs -->"
REFUSED = "refused"
"""Used as reason if the source as a whole is an error."""


class Broken(NamedTuple):
    """Broken input: title, expected reason, and a function that writes it and returns the source."""

    title: str
    reason: str
    write: Callable[[Path], str]


SITES = "Na Na1 0 0 0 1\nCl Cl1 0.5 0.5 0.5 1\n"
COLUMNS = ("type_symbol", "label", "fract_x", "fract_y", "fract_z", "occupancy")
TWO_FOLD = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'-x, -y, -z'\n'x+1/2, y, z'\n'-x+1/2, -y, -z'\n"
NO_GROUP = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'-x, -y, -z'\n'x+1/2, y, z'\n"
NO_OPERATION = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'x+1/2, u+1/2, z'\n"


def cif(
    sites: str = SITES,
    *,
    cell: tuple[Any, ...] = (4, 4, 4, 90, 90, 90),
    columns: tuple[str, ...] = COLUMNS,
    extra: str = "",
    block: str = "crystal",
) -> str:
    names = [*(f"_cell_length_{n}" for n in "abc"), *(f"_cell_angle_{n}" for n in ("alpha", "beta", "gamma"))]
    lines = [f"data_{block}", *(f"{name} {value}" for name, value in zip(names, cell, strict=False)), extra]
    return "\n".join([*lines, "loop_", *(f"_atom_site_{name}" for name in columns), sites])


def _file(name: str, content: str | bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(folder / name)

    return write


def _cif(text: str) -> Callable[[Path], str]:
    return _file("crystal.cif", text)


def _listed(rows: str, *names: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "id_prop.csv").write_text(rows)
        for name in names:
            (folder / f"{name}.cif").write_text(cif())
        return str(folder)

    return write


def _row(**changes: Any) -> dict[str, Any]:
    row = {
        "material_id": "a",
        "lattice": [4.0, 0, 0, 0, 4, 0, 0, 0, 4],
        "frac_coords": [0.0, 0, 0],
        "atomic_numbers": [11],
    }
    return row | changes


def _parquet(*rows: dict[str, Any], drop: str = "", **changed: pa.DataType) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        types = {
            "material_id": pa.string(),
            "lattice": pa.list_(pa.float64()),
            "frac_coords": pa.list_(pa.float32()),
            "atomic_numbers": pa.list_(pa.int16()),
        } | changed
        columns = {name: pa.array([row[name] for row in rows], dtype) for name, dtype in types.items() if name != drop}
        pq.write_table(pa.table(columns), folder / "table.parquet")
        return str(folder / "table.parquet")

    return write


def structure(*species: list[dict[str, Any]]) -> dict[str, Any]:
    sites = [{"species": s, "abc": [i / len(species), 0, 0]} for i, s in enumerate(species)]
    return {"@class": "Structure", "lattice": {"matrix": (4 * np.eye(3)).tolist()}, "sites": sites}


def _json(document: Any) -> Callable[[Path], str]:
    return _file("structures.json", json.dumps(document))


def _folder_called_cif(folder: Path) -> str:
    (folder / "crystal.cif").mkdir()
    return str(folder)


def _pickle(folder: Path) -> str:
    (folder / "data.pkl").write_bytes(pickle.dumps({"structure": None}))
    return str(folder / "data.pkl")


def _supercell() -> str:
    sites = "".join(f"Na Na{i} {i / 600:.6f} 0 0 1\n" for i in range(600))
    return cif(sites, cell=(2400, 4, 4, 90, 90, 90))


_POSCAR = "Na\n1.0\n4 0 0\n0 4 0\n0 0 4\n1\nDirect\n0 0 0\n"
XYZ = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="{pbc}"\nNa 0 0 0\nCl 2 2 2\n'
TWO_BLOCKS = cif(block="one") + cif(block="two")


def _two_in_one_row(folder: Path) -> str:
    (folder / "a.cif").write_text(TWO_BLOCKS)
    (folder / "id_prop.csv").write_text("a,1.0\n")
    return str(folder)


NA = {"element": "Na", "occu": 1}

BROKEN: tuple[Broken, ...] = (
    Broken("empty CIF", "unreadable", _cif("  \n")),
    Broken("web page saved as CIF", "unreadable", _cif("<html><body>404 Not Found</body></html>")),
    Broken("binary file called .cif", "unreadable", _file("crystal.cif", b"\x1f\x8b\x08\0\0\0\0\0")),
    Broken("CIF cut off in the middle of a row", "unreadable", _cif(cif(SITES + "Cl Cl2 0.2"))),
    Broken("CIF with an unknown coordinate", "unreadable", _cif(cif("Na Na1 ? 0 0 1\n"))),
    Broken("compressed CIF cut off", "unreadable", _file("crystal.cif.gz", gzip.compress(cif().encode())[:60])),
    Broken("folder called .cif", "unreadable", _folder_called_cif),
    Broken("partly occupied site", "disordered", _cif(cif("Na Na1 0 0 0 0.8\nCl Cl1 0.5 0.5 0.5 1\n"))),
    Broken("two elements on one site", "disordered", _cif(cif("Na Na1 0 0 0 0.5\nK K1 0 0 0 0.5\n"))),
    Broken("site of occupancy 0", "disordered", _cif(cif(SITES + "K K1 0.5 0 0 0\n"))),
    Broken("impossible cell angles", "zero_volume", _cif(cif(cell=(4, 4, 4, 120, 120, 120)))),
    Broken("cell length 0", "zero_volume", _cif(cif(cell=(4, 4, 0, 90, 90, 90)))),
    Broken("cell in nanometers", "zero_volume", _cif(cif(cell=(0.4, 0.4, 0.4, 90, 90, 90)))),
    Broken("cell in picometers", "absurd_volume", _cif(cif(cell=(400, 400, 400, 90, 90, 90)))),
    Broken("NaN in the cell", "nan_lattice", _cif(cif(cell=("nan", 4, 4, 90, 90, 90)))),
    Broken("no cell", "no_lattice", _cif(cif(cell=(4, 4)))),
    Broken("NaN coordinate", "nan_coordinates", _cif(cif("Na Na1 nan 0 0 1\n"))),
    Broken("no atoms", "empty", _cif("data_x\n_cell_length_a 4\n")),
    Broken("same site twice", "overlapping_atoms", _cif(cif("Na Na1 0 0 0 1\nNa Na2 0 0 0 1\n"))),
    Broken(
        "all atoms listed beside symmetry operations",
        "overlapping_atoms",
        _cif(cif("Na Na1 0 0 0 1\nNa Na2 0.5 0 0 1\n", extra=TWO_FOLD)),
    ),
    Broken("atoms 0.2 angstrom apart", "overlapping_atoms", _cif(cif("Na Na1 0 0 0 1\nCl Cl1 0.05 0 0 1\n"))),
    Broken(
        "atoms close across the cell's border", "overlapping_atoms", _cif(cif("Na Na1 0.01 0 0 1\nCl Cl1 0.97 0 0 1\n"))
    ),
    Broken("dummy atom", "unknown_species", _cif(cif("Xx X1 0 0 0 1\n"))),
    Broken("vacancy Vc", "unknown_species", _cif(cif("Vc V1 0 0 0 1\n"))),
    Broken(
        "label that may be cobalt or carbon, without symbol",
        "unknown_species",
        _cif(cif("CO1 0 0 0\n", columns=("label", "fract_x", "fract_y", "fract_z"))),
    ),
    Broken("water without hydrogens", "implicit_hydrogens", _cif(cif("Wat W1 0 0 0 1\n"))),
    Broken(
        "formula with hydrogen, sites without", "formula_mismatch", _cif(cif(extra="_chemical_formula_sum 'Na Cl H2'"))
    ),
    Broken("600 atoms, limit 500", "too_large", _cif(_supercell())),
    Broken("CIF: two elements in a type symbol", "unknown_species", _cif(cif("Fe/Mn Fe1 0 0 0 1\n"))),
    Broken(
        "CIF: hydrogens attached to a site",
        "implicit_hydrogens",
        _cif(cif("C C1 0 0 0 3\n", columns=(*COLUMNS[:5], "attached_hydrogens"))),
    ),
    Broken(
        "CIF: site of a disorder group",
        "disordered",
        _cif(cif("F F1 0 0 0 1\nF F2 0.5 0 0 2\n", columns=(*COLUMNS[:5], "disorder_group"))),
    ),
    Broken("CIF: invalid symmetry operation", "symmetry", _cif(cif(extra=NO_OPERATION))),
    Broken("CIF: symmetry operations that form no group", "symmetry", _cif(cif(extra=NO_GROUP))),
    Broken("CIF: unknown space group", "symmetry", _cif(cif(extra="_symmetry_space_group_name_H-M 'F m 5 m'"))),
    Broken(
        "CIF: space group with two origins, neither operations nor Z",
        "symmetry",
        _cif(cif("Si Si1 0.1 0.1 0.1 1\n", extra="_symmetry_space_group_name_H-M 'F d -3 m'")),
    ),
    Broken(
        "CIF: space group that contradicts the cell",
        "contradiction",
        _cif(cif(cell=(4, 4, 5, 90, 90, 90), extra="_symmetry_space_group_name_H-M 'F m -3 m'")),
    ),
    Broken(
        "CIF: Z that contradicts the sites",
        "formula_mismatch",
        _cif(cif(extra="_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4")),
    ),
    Broken("CIF: volume that contradicts the cell", "contradiction", _cif(cif(extra="_cell_volume 256"))),
    Broken("CIF of more than 5 MB", "too_large", _cif(cif() + "# reflections\n" * 400_000)),
    Broken("two structures in a CIF with one value in id_prop.csv", "several_structures", _two_in_one_row),
    Broken("id_prop.csv: row without file", "missing_file", _listed("a,1.0\nb,2.0\n", "a")),
    Broken("id_prop.csv: file without row", "unlisted_file", _listed("a,1.0\n", "a", "b")),
    Broken("id_prop.csv: row without id", "missing_id", _listed("a,1.0\n,2.0\n", "a")),
    Broken("id_prop.csv: id on two rows", "duplicate_id", _listed("a,1.0\na,2.0\n", "a")),
    Broken("id_prop.csv: id without the zeros of its file", "missing_file", _listed("00012,1.0\n12,2.0\n", "00012")),
    Broken("JSON: record that is not a structure", "unreadable", _json([{"name": "NaCl"}])),
    Broken("JSON: number where a structure should be", "unreadable", _json([1])),
    Broken("JSON: molecule", "no_lattice", _json({"m": {"@class": "Molecule", "sites": []}})),
    Broken(
        "JSON: site without coordinates",
        "unreadable",
        _json([{"lattice": {"matrix": [[4, 0, 0]] * 3}, "sites": [{"species": [NA]}]}]),
    ),
    Broken(
        "JSON: mixed site",
        "disordered",
        _json([structure([{"element": "Na", "occu": 0.5}, {"element": "K", "occu": 0.5}])]),
    ),
    Broken("JSON: dummy species", "unknown_species", _json([structure([{"element": "X0+", "occu": 1}])])),
    Broken("JSON: structure without sites", "empty", _json([structure()])),
    Broken("JSON: two records with one id", "duplicate_id", _json([{"id": "a", "structure": structure([NA])}] * 2)),
    Broken(
        "JSON Lines: duplicate key in a record",
        "unreadable",
        _file("structures.jsonl", json.dumps({"structure": structure([NA]), "gap": 1})[:-1] + ', "gap": 2}'),
    ),
    Broken("JSON Lines: truncated line", "unreadable", _file("structures.jsonl", '{"lattice": {"matr\n')),
    Broken(
        "JSON Lines: compressed file cut off",
        "unreadable",
        _file("s.jsonl.gz", gzip.compress(json.dumps(structure([NA])).encode())[:40]),
    ),
    Broken("Parquet: atomic number 200", "unknown_species", _parquet(_row(atomic_numbers=[200]))),
    Broken(
        "Parquet: atomic number 11.5",
        "unknown_species",
        _parquet(_row(atomic_numbers=[11.5]), atomic_numbers=pa.list_(pa.float64())),
    ),
    Broken("Parquet: coordinates do not match atoms", "unreadable", _parquet(_row(atomic_numbers=[11, 17]))),
    Broken(
        "Parquet: Cartesian coordinates of a wide range",
        "absurd_coordinates",
        _parquet(_row(frac_coords=[5000.0, 0, 0])),
    ),
    Broken("Parquet: infinite coordinate", "nan_coordinates", _parquet(_row(frac_coords=[float("inf"), 0, 0]))),
    Broken("Parquet: cell vectors in a plane", "zero_volume", _parquet(_row(lattice=[4.0, 0, 0, 0, 4, 0, 4, 4, 0]))),
    Broken(
        "Parquet: cell shorter than an atom",
        "overlapping_atoms",
        _parquet(_row(lattice=[0.3, 0, 0, 0, 40, 0, 0, 0, 40])),
    ),
    Broken("Parquet: row without atoms", "empty", _parquet(_row(frac_coords=[], atomic_numbers=[]))),
    Broken("Parquet: row without id", "missing_id", _parquet(_row(material_id=None))),
    Broken("Parquet: id on two rows", "duplicate_id", _parquet(_row(), _row())),
    Broken("POSCAR of VASP 4, which names no elements", "unknown_species", _file("POSCAR", _POSCAR)),
    Broken(
        "POSCAR with an extra position",
        "unreadable",
        _file("POSCAR", _POSCAR.replace("1\nD", "Na\n1\nD") + "0 0 .5\n"),
    ),
    Broken("XYZ: no cell", "no_lattice", _file("m.xyz", "1\nmolecule\nNa 0 0 0\n")),
    Broken("XYZ: slab", "not_periodic", _file("slab.xyz", XYZ.format(pbc="T T F"))),
    Broken("XYZ: cut off", "unreadable", _file("cut.xyz", XYZ.format(pbc="T T T")[:-12])),
    Broken("source that does not exist", REFUSED, lambda folder: str(folder / "nothing")),
    Broken("folder without CIF", REFUSED, str),
    Broken("empty id_prop.csv", REFUSED, _listed("\n", "a")),
    Broken("id_prop.csv: two columns with one name", REFUSED, _listed("id,gap,gap\na,1,2\n", "a")),
    Broken("id_prop.csv: header, or row without file", REFUSED, _listed("compounds used,gap\na,1\n", "a")),
    Broken("id_prop.csv: row with too few cells", REFUSED, _listed("id,gap,phase\na,1\n", "a")),
    Broken("id_prop.csv: cells separated by spaces", REFUSED, _listed("a 1\n", "a")),
    Broken("JSON: duplicate key in an object", REFUSED, _file("s.json", '{"a": 1, "a": 2}')),
    Broken("JSON: pandas table with a short row", REFUSED, _json({"columns": ["structure", "x"], "data": [[1]]})),
    Broken("JSON: pandas table with two columns of one name", REFUSED, _json({"columns": ["x", "x"], "data": []})),
    Broken("pickle", REFUSED, _pickle),
    Broken("JSON file cut off", REFUSED, _file("structures.json", '[{"lattice":')),
    Broken("text file called .parquet", REFUSED, _file("table.parquet", "id,value\n" * 10)),
    Broken("Parquet without coordinates", REFUSED, _parquet(_row(), drop="frac_coords")),
    Broken("kind of file that ASE does not know", REFUSED, _file("notes.txt", "NaCl\n")),
    Broken("embedded set that does not exist", REFUSED, lambda _: "aflow:everything"),
)


def message(broken: Broken, folder: Path) -> tuple[str, str]:
    """Return reason and message for the broken input, with paths relative to its folder."""
    data = folder / "data"
    data.mkdir()
    source = broken.write(data)
    try:
        report = ingest_plain(IngestConfig.of(source=source, out=str(folder / "out")))
    except ValueError as error:
        return REFUSED, _relative(str(error), data)
    [row] = pq.read_table(report.quarantine).to_pylist()
    return row["reason"], _relative(row["detail"], data)


def _relative(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "").replace(str(folder), "FOLDER")


def table() -> str:
    """Return the table of docs/ingest.md."""
    lines = ["| input | reason | message |", "| --- | --- | --- |"]
    for broken in BROKEN:
        with TemporaryDirectory() as folder:
            reason, text = message(broken, Path(folder))
        escaped = text.replace("|", "\\|").replace("<", "&lt;").replace(known_sources(), "[these](#sources)")
        lines.append(f"| {broken.title} | {'error' if reason == REFUSED else f'`{reason}`'} | {escaped} |")
    return "\n".join(lines)


def document_with_table(text: str) -> str:
    """Return the document with a new table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    DOCUMENT.write_text(document_with_table(DOCUMENT.read_text()))
