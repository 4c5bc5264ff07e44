"""JSON files of structures, as written by pymatgen, pandas, JARVIS and the Materials Project."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from crysatom.crystals import strict_json
from crysatom.crystals.quarantine import Reason, Rejected, short
from crysatom.crystals.record import Format, Record
from crysatom.crystals.sources.ase_files import is_ase_database, open_ase_json
from crysatom.crystals.sources.base import Source, plain_properties, pop_id, rejected
from crysatom.crystals.sources.json_tables import STRUCTURE_KEYS, entries, structure_key

JARVIS_MISSING = ("na",)
"""JARVIS's words for a missing value."""

_CIF = re.compile(r"^\s*data_", re.IGNORECASE | re.MULTILINE)
_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError)

MOST_JSON_BYTES = 2_000_000_000
"""Limit of a file that is read at once."""

MOST_LINE_BYTES = 32_000_000
"""Limit of one record: 65,535 atoms in pymatgen's format take 20 MB."""

MOST_EXPANSION = 100
"""Largest compression ratio; structures have 3 to 30, a file without content 1,000."""

MOST_SMALL_BYTES = 8_000_000
"""Uncompressed size that is always allowed: the ratio may be larger for few structures, often repeated."""

LEAST_RECORD_BYTES = 64
"""Minimum average size of a record: a cell, an atom and their keys take more."""

LEAST_OBJECT_BYTES, LEAST_LIST_BYTES = 12, 5
"""Minimum average bytes per ``{``, and per ``{`` or ``[``: a site takes 94 bytes for six, coordinates 8 for one."""

LOOKED_AT = 1_000_000
"""Bytes of JSON Lines that are checked before reading starts."""

FEW = 10_000
"""Up to this many objects of a kind are always allowed."""


def open_json(path: str) -> Source:
    """Open a list of structures, a dictionary id -> structure, a list of records, one structure, or a pandas table.

    A record is a dictionary with the structure under ``structure`` (pymatgen), ``atoms`` (JARVIS) or ``cif`` (text), an
    id under one of the usual keys, and further keys as properties. ASE reads its own JSON databases.

    Raises:
        ValueError: If the file is not JSON, with the position of the error; or a table has a surplus row or column.

    """
    try:
        text = _whole(path)
        document = _loads(text)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: cannot be read ({error}); restore the file") from error
    except strict_json.RepeatedKeyError as error:
        raise ValueError(f"{path}: {error}") from None
    except _NoStructuresError as error:
        raise ValueError(f"{path}: holds no structures: {error}; give the file that holds the structures") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); a file with one record per line must be called .jsonl"
        ) from error
    if is_ase_database(document):
        return open_ase_json(path, document)
    _require_few_entries(document, len(text), path)
    try:
        found = entries(document, Path(path).name.split(".")[0])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if found is None:
        raise ValueError(
            f"{path}: holds no structures; it must be a list of pymatgen structures or records, or a "
            "dictionary id -> structure"
        )
    _require_few(len(found), len(text), path)
    return Source(
        name=path, records=lambda: (to_raw(value, key, f"{path}#{key}") for key, value in found), total=len(found)
    )


def open_json_lines(path: str) -> Source:
    """Open a file with one structure or record per line; it is read line by line.

    Raises:
        ValueError: If its first lines are too short for structures.

    """
    with suppress(*_UNREADABLE), _open(path) as stream:  # read errors are reported later, with their position
        head = stream.read(LOOKED_AT)
        _require_few(head.count(b"\n"), len(head), path)
    return Source(name=path, records=partial(_lines, path))


def to_raw(record: Any, default_id: str, where: str, missing: tuple[str, ...] = ()) -> Record | Rejected:
    """Return the raw record of a structure, or of a dictionary with a structure, an id and properties.

    Args:
        record: A dictionary, or the text of a CIF.
        default_id: Id for a record without one.
        where: Source of the record.
        missing: Words for a missing value, in addition to those of JARVIS in its own records.

    """
    if isinstance(record, str):
        return _of_text(record, "structure", default_id, where, {})
    if not isinstance(record, dict):
        message = f"a JSON {type(record).__name__} where a structure or record was expected; remove it"
        return rejected(Reason.UNREADABLE, message, material_id=default_id, source=where)
    key = structure_key(record)
    if key is None:
        properties = record.get("properties") if isinstance(record.get("properties"), dict) else {}
        material_id = pop_id(dict(record), default_id)
        return _of_json(record, material_id, where, properties or {})
    further = {name: value for name, value in record.items() if name != key and not str(name).startswith("@")}
    if "jid" in record and key == "atoms":
        missing = (*missing, *JARVIS_MISSING)
    material_id = pop_id(further, default_id)
    properties = plain_properties(further, missing)
    if isinstance(record[key], str):
        return _of_text(record[key], key, material_id, where, properties)
    return _of_json(record[key], material_id, where, properties)


def _of_json(structure: Any, material_id: str, where: str, properties: dict[str, Any]) -> Record:
    content = json.dumps(structure).encode()
    return Record(material_id=material_id, source=where, format="json", content=content, properties=properties)


def _of_text(text: str, key: str, material_id: str, where: str, properties: dict[str, Any]) -> Record | Rejected:
    """Return the record of a structure given as text: a CIF, a POSCAR, or nested JSON."""
    how: Format | None = "poscar" if key == "poscar" else "json" if text.lstrip().startswith("{") else None
    if how is None and ("cif" in key or _CIF.search(text)):
        how = "cif"
    if how is None:
        message = f"a JSON str ({short(text, 40)!r}) where a structure or record was expected; remove it"
        return rejected(Reason.UNREADABLE, message, material_id=material_id, source=where)
    content = text.encode(errors="replace")
    return Record(material_id=material_id, source=where, format=how, content=content, properties=properties)


class _NoStructuresError(ValueError):
    """Raised for JSON with so many objects in so few bytes that they cannot be structures."""


def _loads(text: str) -> Any:
    """Parse JSON; count its brackets first, since an object takes 30 times the size of its text.

    Raises:
        ValueError: If it is invalid, or contains hardly more than brackets.

    """
    objects = text.count("{")
    for number, least, what in (
        (objects, LEAST_OBJECT_BYTES, "{"),
        (objects + text.count("["), LEAST_LIST_BYTES, "{ or ["),
    ):
        if number > FEW + len(text) // least:
            raise _NoStructuresError(f"it has {number:,} times {what} in {len(text):,} bytes, which no structures have")
    return strict_json.loads(text)


def _require_few_entries(document: Any, num_bytes: int, path: str) -> None:
    """Raise if a document has too many entries for its size, before records are made of them."""
    columns = ("data", *STRUCTURE_KEYS) if isinstance(document, dict) else ()
    for entries_of in (document, *(document[name] for name in columns if name in document)):
        if isinstance(entries_of, list | dict):
            _require_few(len(entries_of), num_bytes, path)


def _require_few(records: int, num_bytes: int, path: str) -> None:
    if records > FEW + num_bytes // LEAST_RECORD_BYTES:
        raise ValueError(
            f"{path}: holds no structures: there are {records:,} entries in {num_bytes:,} bytes, and a structure takes "
            f"{LEAST_RECORD_BYTES} or more; give the file that holds the structures"
        )


def _open(path: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.lower().endswith(".gz") else Path(path).open("rb")


def _whole(path: str) -> str:
    """Return the text of a file; the uncompressed size is limited."""
    most = MOST_JSON_BYTES
    if path.lower().endswith(".gz"):
        most = min(most, max(MOST_SMALL_BYTES, MOST_EXPANSION * Path(path).stat().st_size))
    with _open(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(
            f"it holds more than {most:,} bytes of JSON, which is read at once; write one record per line (.jsonl)"
        )
    return content.decode("utf-8-sig")


def _lines(path: str) -> Iterator[Record | Rejected]:
    stem = Path(path).name.split(".")[0]
    number = num_bytes = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(iter(partial(stream.readline, MOST_LINE_BYTES), b""), start=1):
                num_bytes += len(line)
                _require_few(number, num_bytes, path)
                too_long = len(line) == MOST_LINE_BYTES and not line.endswith(b"\n")
                while too_long and (rest := stream.readline(MOST_LINE_BYTES)):
                    if rest.endswith(b"\n") or len(rest) < MOST_LINE_BYTES:
                        break
                if too_long:
                    message = f"the line has more than {MOST_LINE_BYTES // 1_000_000} MB, the limit for a record"
                    yield rejected(Reason.TOO_LARGE, message, material_id=f"{stem}-{number}", source=f"{path}:{number}")
                elif line.strip():
                    yield _line(line, f"{stem}-{number}", f"{path}:{number}")
    except _UNREADABLE as error:
        message = f"the file breaks off after this line ({error}); what follows was not read: restore the file"
        yield rejected(Reason.UNREADABLE, message, material_id=f"{stem}-{number + 1}", source=f"{path}:{number + 1}")


def _line(line: bytes, default_id: str, where: str) -> Record | Rejected:
    try:
        return to_raw(_loads(line.decode("utf-8-sig")), default_id, where)
    except strict_json.RepeatedKeyError as error:
        return rejected(Reason.UNREADABLE, str(error), material_id=default_id, source=where)
    except _NoStructuresError as error:
        message = f"the line holds no structure: {error}; remove it"
        return rejected(Reason.UNREADABLE, message, material_id=default_id, source=where)
    except (ValueError, RecursionError) as error:
        message = f"the line is not valid JSON ({error}); write one structure or record per line"
        return rejected(Reason.UNREADABLE, message, material_id=default_id, source=where)
