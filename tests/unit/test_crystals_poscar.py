"""POSCARs: valid ones are read as by pymatgen and ASE; those where they guess are rejected."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ase.io import read as ase_read
from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar

from crysatom.config import IngestConfig
from crysatom.crystals.checks import DEFAULT_LIMITS
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.poscar import parse_poscar
from crysatom.crystals.quarantine import Rejection
from crysatom.crystals.table import read_table
from tests.unit.broken_inputs import cif

CUBE = ("NaCl", "1.0", "4 0 0", "0 4 0", "0 0 4", "Na Cl", "1 1", "Direct", "0 0 0", "0.5 0.5 0.5")


def poscar(**lines: str) -> str:
    """Return a POSCAR with changed lines, such as ``line_2="-64"``, counted from 1."""
    text = list(CUBE)
    for name, line in lines.items():
        text[int(name.removeprefix("line_")) - 1] = line
    return "\n".join(text) + "\n"


def parsed(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return parse_poscar(text.encode(), DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "text",
    [
        poscar(),
        poscar().replace("\n", "\r\n"),
        poscar(line_1=""),
        poscar(line_2="-64", line_3="1 0 0", line_4="0 1 0", line_5="0 0 1"),
        poscar(line_2="2 4 0.5", line_3="2 0 0", line_4="0 1 0", line_5="0 0 8", line_8="cartesian", line_10="1 .5 4"),
        poscar(line_6="Na_pv/f474ac0d Cl/79d9987ad87", line_7="  1   1  ! two"),
        poscar(line_6="Na\nCl", line_7="1\n1"),
        poscar(line_8="Selective dynamics\ndirect", line_9="0 0 0 T T F", line_10="0.5 0.5 0.5 F F F Cl"),
        poscar(line_8="K", line_10="2.0D0 2 2 Cl"),
        poscar(line_6="Na K Cl", line_7="1 0 1"),
        poscar() + "\n 0.1 0.1 0.1\n 0.2 0.2 0.2\n",
        poscar() + "Lattice velocities and vectors\n1\n",
    ],
)
def test_ways_to_write_the_same_crystal(text: str) -> None:
    lattice, coords, numbers = parsed(text)
    np.testing.assert_allclose(lattice, 4 * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(coords, [[0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-12)
    assert numbers.tolist() == [11, 17]


@pytest.mark.parametrize("symbol", ["D", "T", "D_s/abc"])
def test_isotopes_are_hydrogen(symbol: str) -> None:
    assert parsed(poscar(line_6=f"{symbol} Cl"))[2].tolist() == [1, 17]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (poscar(line_6="1 1", line_7="Direct"), "line 6 has counts of atoms and no line before it names .* .VASP 4"),
        (poscar(line_6="X Cl"), "'X' is no element"),
        (poscar(line_6="H1.25 Cl"), "'H1.25' is no element"),
        (poscar(line_7="1 1 1"), "2 elements and counts of atoms '1 1 1' do not match"),
        (poscar(line_7="1 1.5"), "2 elements and counts of atoms '1 1.5' do not match"),
        (poscar(line_7="1 2"), "line 11: 0 words where the position of an atom .Cl. was expected"),
        (poscar().rstrip("\n").replace("1 1", "1 2"), "the file ends after line 10, before the position of every atom"),
        (poscar() + "0.2 0.2 0.2\n", "line 11: a further position, after those of 2 atoms"),
        (poscar(line_10="0.5 0.5 0.5 K"), "line 10: the atom is labeled K, and by the count of atoms it is Cl"),
        (poscar(line_10="0.5 0_5 0.5"), "line 10: '0_5' is not a number"),
        (poscar(line_10="-0.5-0.5 0.5 0"), "line 10: '-0.5-0.5' is not a number"),
        (poscar(line_8="0 0 0"), "line 8: '0 0 0' where Direct or Cartesian was expected"),
        (poscar(line_2="0"), "line 2: 0 is not a scale"),
        (poscar(line_2="-1 -1 -1"), "is not a scale"),
        (poscar(line_2="-64", line_5="0 4 0"), "no volume that could be scaled"),
        (poscar(line_5="0 4 0", line_8="Cartesian"), "the cell has no volume"),
        (poscar(line_4="0 4"), "line 4: 2 words where a cell vector of three numbers was expected"),
        (poscar(line_7="400 400"), "800 atoms, more than 500"),
        ("", "the file ends after line 1, before the scale"),
        ("<html>\n<body>\n", "line 2: '<body>' is not a number"),
        ("x" * 5_000_001, "more than 5 MB"),
    ],
)
def test_what_others_would_guess_is_refused(text: str, message: str) -> None:
    with pytest.raises(Rejection, match=message):
        parsed(text)


def test_as_pymatgen_and_ase_read_them(prototypes: pa.Table, tmp_path: Path) -> None:
    for k, row in enumerate(prototypes.to_pylist()[::24]):
        lattice = np.reshape(row["lattice"], (3, 3))
        structure = Structure(lattice, row["atomic_numbers"], np.reshape(row["frac_coords"], (-1, 3)))
        path = tmp_path / "POSCAR"
        path.write_text(Poscar(structure).get_str(direct=bool(k % 2), significant_figures=14))
        cell, coords, numbers = parsed(path.read_text())
        ours = Structure(cell, numbers, coords)
        theirs = Structure.from_file(path)
        np.testing.assert_allclose(ours.lattice.matrix, theirs.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(ours.cart_coords, theirs.cart_coords, atol=1e-9)
        np.testing.assert_allclose(ours.cart_coords, ase_read(path).positions, atol=1e-9)
        assert ours.atomic_numbers == theirs.atomic_numbers


@pytest.mark.parametrize("name", ["POSCAR", "POSCAR_D", "CONTCAR-1", "x.vasp", "x.POSCAR", "my_POSCAR", "POSCAR.7"])
def test_files_called_like_poscars(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(poscar(line_6="D Cl"))
    report = ingest_plain(IngestConfig.of(source=str(tmp_path / name), out=str(tmp_path / "out")))
    assert read_table(report.table)["atomic_numbers"].to_pylist() == [[1, 17]]


def test_id_prop_names_poscars(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in the folders of JARVIS; the reader is the same, and an unlisted file is reported."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("POSCAR-JVASP-1.vasp", "POSCAR-JVASP-2.vasp", "POSCAR-3.vasp"):
        (folder / name).write_text(poscar())
    (folder / "POSCAR-4").write_text(poscar(line_6="1 1", line_7="Direct"))
    (folder / "a.cif").write_text(cif())
    (folder / "a.vasp").write_text(poscar())
    (folder / "id_prop.csv").write_text("POSCAR-JVASP-1.vasp,1\nPOSCAR-JVASP-2,2\na,3\nPOSCAR-4,4\nPOSCAR-5.vasp,5\n")
    report = ingest_plain(IngestConfig.of(source=str(folder), out=str(tmp_path / "out")))
    table = read_table(report.table)
    assert table["material_id"].to_pylist() == ["POSCAR-JVASP-1", "POSCAR-JVASP-2", "a"]
    assert table["target"].to_pylist() == [1, 2, 3]
    assert report.reasons == {"unlisted_file": 2, "unknown_species": 1, "missing_file": 1}
    assert report.read == 7
    assert "not read" not in caplog.text


def test_id_prop_names_compressed_poscars(tmp_path: Path) -> None:
    (tmp_path / "x.vasp.gz").write_bytes(gzip.compress(poscar().encode()))
    (tmp_path / "id_prop.csv").write_text("x,1\n")
    report = ingest_plain(IngestConfig.of(source=str(tmp_path), out=str(tmp_path / "out")))
    assert (report.read, report.accepted) == (1, 1)
