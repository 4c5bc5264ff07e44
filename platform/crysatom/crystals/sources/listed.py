"""Ids of ``id_prop.csv`` that are POSCARs, and suggestions for ids that name no file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from crysatom.crystals.quarantine import short

_COMPRESSED = r"(?:\.(?:gz|bz2|xz))?"
_POSCAR = re.compile(rf"(?:(?:POSCAR|CONTCAR)[^.]*|.+\.(?:vasp|poscar)){_COMPRESSED}", re.IGNORECASE)
_POSCAR_ENDING = re.compile(rf"(?:\.(?:vasp|poscar))?{_COMPRESSED}$", re.IGNORECASE)

_LONGEST_NAME = 255
"""Limit of a file name in usual file systems, in bytes."""


def is_poscar(file: Path) -> bool:
    """Return whether a file has the name of a POSCAR: ``POSCAR``, ``CONTCAR_1``, ``x.vasp``, ``x.vasp.gz``."""
    return not file.name.startswith("._") and _POSCAR.fullmatch(file.name) is not None


def poscar_stem(file: Path) -> str:
    """Return the name of a POSCAR without ``.vasp`` or ``.poscar`` and the suffix of a compressed file."""
    return _POSCAR_ENDING.sub("", file.name, count=1)


def by_shape(by_name: Mapping[str, Path]) -> dict[str, str]:
    """Return file names by their normalized names, as changed by a spreadsheet or another file system."""
    return {_shape(name): file.name for name, file in by_name.items()}


def no_such_file(folder: Path, name: str, shapes: Mapping[str, str]) -> str:
    """Return a sentence on an id that names no file, with the likely cause.

    Args:
        folder: Folder of the list.
        name: The id.
        shapes: File names by their normalized names, see :func:`by_shape`.

    """
    shown, meant = short(name), shapes.get(_shape(name))
    if meant is not None:
        return f"there is no {shown}.cif beside it, but {short(meant)}: {_cause(name, meant)}; write the id as its file"
    if Path(name).name == name and len(name.encode()) <= _LONGEST_NAME and (folder / name).is_file():
        return f"{shown} is neither a CIF nor a POSCAR, and other files cannot be listed; convert it"
    what = shown if Path(name).suffix else f"{shown}.cif"
    return f"there is no {what} beside it; add the file, or remove the row"


def _shape(name: str) -> str:
    stem = re.sub(r"\.(?:cif|vasp|0+)$", "", name.strip().casefold())
    return stem.lstrip("0") or "0"


def _cause(name: str, meant: str) -> str:
    if meant.casefold().startswith(name.casefold()):
        return "capital letters count"
    if meant.startswith("0") and not name.startswith("0"):
        return "a spreadsheet probably removed the leading zeros"
    return "a spreadsheet probably took it for a number"
