"""A small valid example of every kind of source, for the contract tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.unit.broken_inputs import NA, XYZ, cif, structure

ONLINE = frozenset({"jarvis:DATASET", "mp:QUERY"})
"""Kinds that need a server: ``tests/unit/test_crystals_online.py`` tests them."""


def _file(name: str, content: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_text(content)
        return str(folder / name)

    return write


def _folder(folder: Path) -> str:
    for name in ("a", "b"):
        (folder / f"{name}.cif").write_text(cif())
    (folder / "id_prop.csv").write_text("id,gap\na,1.5\nb,2.5\n")
    return str(folder)


def _parquet(folder: Path) -> str:
    columns = {
        "material_id": ["a", "b"],
        "lattice": [[4.0, 0, 0, 0, 4, 0, 0, 0, 4]] * 2,
        "frac_coords": [[0.0, 0, 0]] * 2,
        "atomic_numbers": [[11], [17]],
    }
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return str(folder / "a.parquet")


_RECORDS = [json.dumps({"id": name, "structure": structure([NA])}) for name in ("a", "b")]

EXAMPLES: dict[str, Callable[[Path], str]] = {
    "aflow:prototypes": lambda _: "aflow:prototypes",
    "folder": _folder,
    ".parquet": _parquet,
    ".json": _file("a.json", f"[{', '.join(_RECORDS)}]"),
    ".jsonl": _file("a.jsonl", "\n".join(_RECORDS)),
    ".cif": _file("a.cif", cif(block="one") + cif(block="two")),
    "POSCAR": _file("POSCAR", "NaCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"),
    ".xyz": _file("a.xyz", XYZ.format(pbc="T T T") * 2),
}
"""By kind: writes a source of valid crystals into an empty folder and returns its name."""
