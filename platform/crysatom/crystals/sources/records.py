"""JSON files of structures, as pymatgen, pandas, JARVIS and the Materials Project write them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from crysatom.crystals.quarantine import Reason, Rejected
from crysatom.crystals.raw import Raw
from crysatom.crystals.sources.base import Source, plain_properties, pop_id, rejected

_STRUCTURE_KEYS = ("structure", "atoms", "snl")
_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError)

MOST_JSON_BYTES = 2_000_000_000
"""Of a file that is read at once."""

MOST_LINE_BYTES = 32_000_000
"""Of one record: 65,535 atoms as pymatgen writes them take 20 MB."""

MOST_EXPANSION = 100
"""Largest ratio of compression; structures have 3 to 30, and a file of nothing 1,000."""

MOST_SMALL_BYTES = 8_000_000
"""What any compressed file may become: of few structures, often repeated, the ratio may be larger."""

LEAST_RECORD_BYTES = 64
"""Of a record on average: a cell, an atom and their keys take more."""

LEAST_OBJECT_BYTES, LEAST_LIST_BYTES = 12, 5
"""For each ``{``, and for each ``{`` or ``[``, on average: a site takes 94 bytes for six, coordinates 8 for one."""

FEW = 10_000
"""So many of a kind are no burden, whatever they are."""


def open_json(path: str) -> Source:
    """Open a list of structures, a dictionary id -> structure, a list of records, one structure, or a pandas table.

    A record is a dictionary with the structure under ``structure`` (pymatgen) or ``atoms`` (JARVIS), an
    id under one of the usual keys, and properties beside them.

    Raises:
        ValueError: If the file is not JSON; says where it breaks.

    """
    try:
        text = _whole(path)
        document = _loads(text)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: cannot be read ({error}); restore the file") from error
    except _NoStructuresError as error:
        raise ValueError(f"{path}: holds no structures: {error}; give the file that holds the structures") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); a file with one record per line must be called .jsonl"
        ) from error
    _require_few_entries(document, len(text), path)
    try:
        entries = _entries(document, Path(path).name.split(".")[0])
    except TypeError:  # columns or rows of a table that are none
        entries = None
    if entries is None:
        raise ValueError(
            f"{path}: holds no structures; it must be a list of pymatgen structures or records, or a "
            "dictionary id -> structure"
        )
    return Source(
        name=path, records=lambda: (to_raw(value, key, f"{path}#{key}") for key, value in entries), total=len(entries)
    )


def open_json_lines(path: str) -> Source:
    """Open a file with one structure or record per line; it is read line by line."""
    return Source(name=path, records=partial(_lines, path))


def to_raw(record: Any, default_id: str, where: str, missing: tuple[str, ...] = ()) -> Raw | Rejected:
    """Return the raw record of a structure, or of a dictionary that holds one beside an id and properties."""
    if not isinstance(record, dict):
        message = f"a JSON {type(record).__name__} where a structure or record was expected; remove it"
        return rejected(Reason.UNREADABLE, message, material_id=default_id, source=where)
    key = next((key for key in _STRUCTURE_KEYS if key in record), None)
    if key is None:
        properties = record.get("properties") if isinstance(record.get("properties"), dict) else {}
        return Raw(
            material_id=pop_id(dict(record), default_id),
            source=where,
            format="json",
            content=json.dumps(record).encode(),
            properties=properties or {},
        )
    further = {name: value for name, value in record.items() if name != key and not str(name).startswith("@")}
    material_id = pop_id(further, default_id)
    content = json.dumps(record[key]).encode()
    return Raw(
        material_id=material_id,
        source=where,
        format="json",
        content=content,
        properties=plain_properties(further, missing),
    )


class _NoStructuresError(ValueError):
    """JSON that holds so many things in so few bytes that they can be no structures."""


def _loads(text: str) -> Any:
    """Return what JSON holds; its brackets are counted before, since each takes 30 times its length as an object.

    Raises:
        ValueError: If it is not valid, or hardly more than brackets.

    """
    objects = text.count("{")
    for number, least, what in (
        (objects, LEAST_OBJECT_BYTES, "{"),
        (objects + text.count("["), LEAST_LIST_BYTES, "{ or ["),
    ):
        if number > FEW + len(text) // least:
            raise _NoStructuresError(f"it has {number:,} times {what} in {len(text):,} bytes, which no structures have")
    return json.loads(text)


def _require_few_entries(document: Any, num_bytes: int, path: str) -> None:
    """Raise if a document has more entries than structures fit into its bytes, before records are made of them."""
    if isinstance(document, dict) and {"columns", "data"} <= document.keys():
        document = document["data"]
    if isinstance(document, list | dict):
        _require_few(len(document), num_bytes, path)


def _require_few(records: int, num_bytes: int, path: str) -> None:
    if records > FEW + num_bytes // LEAST_RECORD_BYTES:
        raise ValueError(
            f"{path}: holds no structures: there are {records:,} entries in {num_bytes:,} bytes, and a structure takes "
            f"{LEAST_RECORD_BYTES} or more; give the file that holds the structures"
        )


def _open(path: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.lower().endswith(".gz") else Path(path).open("rb")


def _whole(path: str) -> str:
    """Return the text of a file; of a compressed one no more than sound data can become."""
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


def _entries(document: Any, stem: str) -> list[tuple[str, Any]] | None:
    """Return (id, record) pairs of whatever arrangement the document has; None if it has no known one."""
    if isinstance(document, list):
        return [(f"{stem}-{i}", value) for i, value in enumerate(document)]
    if not isinstance(document, dict):
        return None
    if {"columns", "data"} <= document.keys() and isinstance(document["data"], list):
        rows = [dict(zip(document["columns"], values, strict=False)) for values in document["data"]]
        return [(str(key), row) for key, row in zip(document.get("index", range(len(rows))), rows, strict=False)]
    if "lattice" in document or any(key in document for key in _STRUCTURE_KEYS):
        return [(stem, document)]
    return [(str(key), value) for key, value in document.items()]


def _lines(path: str) -> Iterator[Raw | Rejected]:
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


def _line(line: bytes, default_id: str, where: str) -> Raw | Rejected:
    try:
        return to_raw(_loads(line.decode("utf-8-sig")), default_id, where)
    except _NoStructuresError as error:
        message = f"the line holds no structure: {error}; remove it"
        return rejected(Reason.UNREADABLE, message, material_id=default_id, source=where)
    except (ValueError, RecursionError) as error:
        message = f"the line is not valid JSON ({error}); write one structure or record per line"
        return rejected(Reason.UNREADABLE, message, material_id=default_id, source=where)
