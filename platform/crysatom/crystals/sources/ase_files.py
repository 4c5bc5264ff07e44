"""Files that ASE reads: extended XYZ, ASE databases and trajectories, VASP and many more."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from crysatom.crystals.quarantine import Reason, Rejected, Rejection, short
from crysatom.crystals.record import Record, pack_arrays
from crysatom.crystals.sources.base import Source, plain_properties, pop_id, rejected
from crysatom.crystals.sources.extxyz import comment_line
from crysatom.crystals.sources.folder import open_cif, open_poscar
from crysatom.crystals.sources.sandbox import confined, why

_PICKLED = frozenset({"bundletrajectory"})
"""ASE formats whose readers use pickle."""

_START_BYTES = 1 << 16


def open_ase(path: str) -> Source | None:
    """Open a file in any format ASE recognizes; every frame or row is a crystal. None if ASE knows none.

    Raises:
        ValueError: If ASE is absent, or would unpickle the file.

    """
    try:
        from ase.io.formats import UnknownFileTypeError, filetype, ioformats
    except ImportError as error:
        raise ValueError(f'{path}: ASE reads this kind of file; pip install "crysatom[ingest]"') from error
    try:
        kind = filetype(path)
    except (UnknownFileTypeError, UnicodeDecodeError, OSError):
        kind = ""
    if kind == "cif" or _begins_as_cif(path):
        return open_cif(path)
    if kind == "vasp":
        return open_poscar(path)
    if kind not in ioformats:
        return None
    if kind in _PICKLED:
        raise ValueError(f"{path}: ASE format {kind} holds pickles, which are not read; convert it to .xyz or .db")
    return Source(name=path, records=partial(confined, __name__, path, kind))


def _begins_as_cif(path: str) -> bool:
    """Return whether the first line that is neither empty nor a comment begins a data block."""
    with Path(path).open("rb") as stream:
        start = stream.read(_START_BYTES).removeprefix(BOM_UTF8)
    lines = (line.strip() for line in start.splitlines())
    return next((line for line in lines if line and not line.startswith(b"#")), b"")[:5].lower() == b"data_"


def is_ase_database(document: Any) -> bool:
    """Return whether a JSON document is an ASE database; ``ase.io.write("x.json", ...)`` makes one too."""
    return isinstance(document, dict) and {"ids", "nextid"} <= document.keys()


def open_ase_json(path: str, document: dict[str, Any]) -> Source:
    """Open an ASE database in JSON; every row is a crystal.

    Raises:
        ValueError: If ASE is missing, the file is compressed, or an atomic number is not whole (truncated by ASE).

    """
    if find_spec("ase") is None:
        raise ValueError(f'{path}: a JSON database of ASE, which reads it; pip install "crysatom[ingest]"')
    if not path.lower().endswith(".json"):
        raise ValueError(f"{path}: a JSON database of ASE, which does not read it compressed; unpack it")
    for row, content in document.items():
        for number in _atomic_numbers(content):
            if type(number) is not int:
                problem = f"atomic number {short(number)} in row {short(row)} is no whole number"
                raise ValueError(f"{path}: {problem}; correct it")
    return Source(name=path, records=partial(confined, __name__, path, "json"), total=len(document["ids"]))


def _atomic_numbers(row: Any) -> list[Any]:
    """Return the atomic numbers of a row of a JSON database, unconverted."""
    numbers = row.get("numbers") if isinstance(row, dict) else None
    if isinstance(numbers, dict) and isinstance(numbers.get("__ndarray__"), list):
        numbers = numbers["__ndarray__"][-1]
    return numbers if isinstance(numbers, list) else []


def read(path: str, kind: str) -> Iterator[Record | Rejected]:
    """Yield the frames or rows of a file of known format, up to the first that ASE cannot read."""
    from ase.data import atomic_numbers

    atomic_numbers.update(D=1, T=1)  # ASE has no isotopes; all readers here treat them as hydrogen
    return _rows(path, kind) if kind in {"db", "json"} else _frames(path, kind)


def _frames(path: str, kind: str) -> Iterator[Record | Rejected]:
    from ase.io import iread

    stem = Path(path).stem
    options: dict[str, Any] = {"properties_parser": comment_line} if kind == "extxyz" else {}
    number = 0
    try:
        for number, atoms in enumerate(iread(path, index=":", format=kind, **options), start=1):
            yield _record(atoms, dict(atoms.info), f"{stem}-{number}", f"{path}#{number}")
    except Exception as error:  # noqa: BLE001 - each ASE reader raises other exceptions
        message = (
            f"ASE cannot read frame {number + 1} ({why(error)}); it and what follows were not read: correct the file"
        )
        yield rejected(Reason.UNREADABLE, message, material_id=f"{stem}-{number + 1}", source=f"{path}#{number + 1}")


def _rows(path: str, kind: str) -> Iterator[Record | Rejected]:
    from ase.db import connect

    stem = Path(path).stem
    number = 0
    try:
        for row in connect(path, type="json" if kind == "json" else "extract_from_name").select():  # type: ignore[no-untyped-call]
            number = row.id
            yield _record(row.toatoms(), dict(row.key_value_pairs), f"{stem}-{number}", f"{path}#{number}")
    except Exception as error:  # noqa: BLE001 - errors of sqlite3 and of ASE
        message = (
            f"ASE cannot read the row after {number} ({why(error)}); it and what follows "
            "were not read: repair the database"
        )
        yield rejected(Reason.UNREADABLE, message, material_id=f"{stem}-{number + 1}", source=f"{path}#{number + 1}")


def _record(atoms: Any, info: dict[str, Any], default_id: str, where: str) -> Record | Rejected:
    """Return the record of an ``ase.Atoms``; ``info`` has id and properties, its calculator further properties."""
    occupancy = info.pop("occupancy", None)
    material_id = pop_id(info, default_id)
    try:
        _require_crystal(atoms, occupancy)
    except Rejection as rejection:
        return Rejected.because(rejection, material_id=material_id, source=where)
    results = {k: v for k, v in (atoms.calc.results if atoms.calc else {}).items() if np.ndim(v) == 0}
    cell = np.asarray(atoms.cell)
    content = pack_arrays(cell, _fractional(atoms.positions, cell), atoms.numbers)
    properties = plain_properties(results | info)
    return Record(material_id=material_id, source=where, format="arrays", content=content, properties=properties)


def _require_crystal(atoms: Any, occupancy: Any) -> None:
    if len(atoms) and not np.any(atoms.cell):
        message = (
            "there is no unit cell (a plain .xyz has none); "
            'write extended XYZ with Lattice="ax ay az bx ..." in its second line'
        )
        raise Rejection(Reason.NO_LATTICE, message)
    if not all(atoms.pbc):
        directions = ", ".join(f"{axis} {bool(p)}" for axis, p in zip("abc", atoms.pbc, strict=True))
        raise Rejection(
            Reason.NOT_PERIODIC,
            f"not periodic in all three directions ({directions}); if it is a crystal, set pbc to true",
        )
    partial_sites = [
        site for site in (occupancy or {}).values() if len(site) != 1 or abs(sum(site.values()) - 1) > 1e-6
    ]
    if partial_sites:
        message = (
            f"{len(partial_sites)} kinds of site are partly occupied; only ordered crystals can be used: "
            "order it, or leave it out"
        )
        raise Rejection(Reason.DISORDERED, message)


def _fractional(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return fractional coordinates ``(N, 3)``; zeros in a cell without volume, which the checks reject."""
    if not np.isfinite(cell).all() or np.linalg.det(cell) == 0:
        return np.zeros_like(positions)
    fractional: np.ndarray = np.linalg.solve(cell.T, positions.T).T
    return fractional
