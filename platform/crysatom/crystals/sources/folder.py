"""Folder of CIFs, with or without CGCNN's ``id_prop.csv``, which lists them with their properties.

Files in ``id_prop.csv`` may also be POSCARs, as in the folders of JARVIS and ALIGNN.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from crysatom.config.files import require_regular
from crysatom.crystals.cif import MAX_CIF_BYTES, split_structures
from crysatom.crystals.quarantine import Reason, Rejected
from crysatom.crystals.record import Record
from crysatom.crystals.sources.base import CIF_SUFFIXES, Source, rejected
from crysatom.crystals.sources.id_prop import ID_PROP, Row, read_id_prop
from crysatom.crystals.sources.listed import by_shape, is_poscar, no_such_file, poscar_stem

logger = logging.getLogger(__name__)

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

_APPLE_DOUBLE = "._"
"""Prefix of the attribute files that macOS writes beside each file on foreign disks and in archives."""

MOST_ON_DISK = 1 << 50
"""In bytes; only the first megabytes of a large file are read."""


def open_cif(path: str) -> Source:
    """Open a single CIF; the id of a crystal is the file name, plus the data block's name if there are several."""
    return Source(name=path, records=partial(_every_file, [Path(path)]))


def open_poscar(path: str) -> Source:
    """Open a single POSCAR; its id is the file name and 1."""
    file = Path(path)

    def records() -> Iterator[Record | Rejected]:
        yield replace(_as_poscar(_read(file, f"{poscar_stem(file)}-1", {})), source=f"{path}#1")

    return Source(name=path, records=records, total=1)


def open_folder(path: str) -> Source:
    """Open the CIFs of a folder, not of its subfolders.

    If there is an ``id_prop.csv``, its rows determine the files and their order; a row without a file and a file
    without a row are both rejected. Otherwise every CIF is read, in order of name.

    Raises:
        ValueError: If there is neither a CIF nor an ``id_prop.csv``, or the latter cannot be read.

    """
    folder = Path(path)
    files = sorted(file for file in folder.iterdir() if file.name.lower().endswith(CIF_SUFFIXES))
    attributes = [file for file in files if file.name.startswith(_APPLE_DOUBLE)]
    if attributes:
        logger.info("%s: %d files of macOS (._*) hold no crystals and were not read", folder, len(attributes))
        files = [file for file in files if file not in attributes]
    listing = folder / ID_PROP
    if not files and not listing.exists():
        raise ValueError(f"{path}: no .cif file in this folder (subfolders are not searched)")
    poscars = sorted(file for file in folder.iterdir() if is_poscar(file)) if listing.exists() else []
    _mention_other_files(folder, [*files, *attributes, *poscars])
    if not listing.exists():
        return Source(name=path, records=partial(_every_file, files), total=len(files))
    by_name = {name: file for file in files for name in (file.name, f"{cif_stem(file)}.cif", cif_stem(file))}
    for file in poscars:
        by_name.setdefault(poscar_stem(file), file)
        by_name[file.name] = file
    rows = read_id_prop(listing, known=by_name.keys())
    return Source(name=path, records=partial(_listed_files, folder, by_name, rows))


def cif_stem(path: Path) -> str:
    """Return the file name without ``.cif``, ``.cif.gz`` and so on."""
    name = path.name
    ending = next((suffix for suffix in CIF_SUFFIXES if name.lower().endswith(suffix)), path.suffix)
    return name[: len(name) - len(ending)]


def _every_file(files: list[Path]) -> Iterator[Record | Rejected]:
    for file in files:
        yield from _structures(_read(file, cif_stem(file), {}))


def _structures(record: Record | Rejected) -> Iterator[Record | Rejected]:
    """Yield a record for each crystal of a CIF."""
    parts = list(split_structures(record.content)) if isinstance(record, Record) else []
    if not parts or isinstance(record, Rejected):
        yield record
        return
    names = [name for name, _ in parts]
    are_distinct = len(set(names)) == len(names) and all(names)
    for number, (name, content) in enumerate(parts, start=1):
        yield replace(
            record,
            material_id=f"{record.material_id}-{name if are_distinct else number}",
            source=f"{record.source}#{name or number}",
            content=content,
        )


def _listed_files(folder: Path, by_name: dict[str, Path], rows: list[Row]) -> Iterator[Record | Rejected]:
    listed: set[Path] = set()
    shapes = by_shape(by_name)
    for row in rows:
        where = f"{folder / ID_PROP}:{row.line}"
        file = by_name.get(row.material_id)
        if not row.material_id:
            yield rejected(
                Reason.MISSING_ID,
                "the row has no id; its first column must name a CIF",
                material_id=f"line-{row.line}",
                source=where,
            )
        elif file is None:
            message = no_such_file(folder, row.material_id, shapes)
            yield rejected(Reason.MISSING_FILE, message, material_id=row.material_id, source=where)
        else:
            record = _read_structure(file, _stem(file), row.properties)
            yield record if file not in listed else replace(record, source=f"{where} ({file.name})")
            listed.add(file)
    for file in dict.fromkeys(by_name.values()):
        if file not in listed:
            message = f"{ID_PROP} has no row for it; add one, or remove {ID_PROP} to read all files without properties"
            yield rejected(Reason.UNLISTED_FILE, message, material_id=_stem(file), source=str(file))


def _stem(file: Path) -> str:
    return poscar_stem(file) if is_poscar(file) else cif_stem(file)


def _read_structure(file: Path, material_id: str, properties: dict[str, Any]) -> Record | Rejected:
    """Return the content of a CIF or a POSCAR."""
    record = _read(file, material_id, properties)
    return _as_poscar(record) if is_poscar(file) else record


def _as_poscar(record: Record | Rejected) -> Record | Rejected:
    return replace(record, format="poscar") if isinstance(record, Record) else record


def _read(file: Path, material_id: str, properties: dict[str, Any]) -> Record | Rejected:
    """Return the content of a file, up to one byte more than the limit."""
    opener = _OPENERS.get(file.suffix.lower(), open)
    try:
        require_regular(file, MOST_ON_DISK)
        with opener(file, "rb") as stream:
            content = bytes(stream.read(MAX_CIF_BYTES + 1))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        message = (
            f"the file cannot be read ({getattr(error, 'strerror', None) or error}); restore it, or its permissions"
        )
        return rejected(Reason.UNREADABLE, message, material_id=material_id, source=str(file))
    except ValueError as error:
        return rejected(Reason.UNREADABLE, str(error), material_id=material_id, source=str(file))
    return Record(material_id=material_id, source=str(file), format="cif", content=content, properties=properties)


def _mention_other_files(folder: Path, files: list[Path]) -> None:
    known = {*files, folder / ID_PROP, folder / "atom_init.json"}
    others = sorted(file.name for file in folder.iterdir() if file.is_file() and file not in known)
    if others:
        logger.warning("%s: %d files that are no .cif were not read (%s)", folder, len(others), ", ".join(others[:3]))
