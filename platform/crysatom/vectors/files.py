"""Files of atom vectors: CSV, CGCNN's atom_init.json, safetensors; each write is atomic."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from crysatom.config.files import require_regular
from crysatom.crystals.csv_files import csv_line
from crysatom.names import SYMBOLS
from crysatom.vectors.table import AtomVectors
from crysatom.writing import write_bytes

VECTORS_CSV = "vectors.csv"
ATOM_INIT_JSON = "atom_init.json"
VECTORS_SAFETENSORS = "vectors.safetensors"
PROVENANCE = "provenance"

MOST_SAID = 1000
"""Limit on the characters of a message: a file may contain keys and numbers of any length."""


def write_vectors(table: AtomVectors, folder: str | Path) -> list[Path]:
    """Write the three files of a table into a folder, which is created if missing.

    ``vectors.csv`` has the format of ElementEmbeddings' ``Embedding.from_csv`` (header ``element,0,1,...``),
    ``atom_init.json`` that of CGCNN (keys Z as text), and ``vectors.safetensors`` also contains counts, standard errors
    and provenance. Reading restores each float32 component exactly.

    Returns:
        The written paths.

    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        VECTORS_CSV: _to_csv(table).encode(),
        ATOM_INIT_JSON: _to_json(table).encode(),
        VECTORS_SAFETENSORS: _to_safetensors(table),
    }
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return [folder / name for name in contents]


def read_vectors(path: str | Path) -> AtomVectors:
    """Read atom vectors from a file, or from a folder that :func:`write_vectors` wrote.

    Args:
        path: ``.csv`` with a column of symbols named ``element`` or ``symbol`` and one column per
            dimension; ``.json`` with atomic numbers or symbols as keys and lists of numbers as values;
            ``.safetensors`` as written by :func:`write_vectors`.

    Raises:
        ValueError: If the file cannot be read; with its name and the reason.

    """
    path = Path(path)
    if path.is_dir():
        path = path / VECTORS_SAFETENSORS
    if not path.is_file():
        raise ValueError(f"{path}: no such vectors file")
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ValueError(
            f"{path}: cannot tell the form of a vectors file from its name; it must end in {', '.join(_READERS)}"
        )
    try:
        require_regular(path)
        return reader(path)
    except (ValueError, TypeError, OverflowError, RecursionError, csv.Error) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"{path}: {message[:MOST_SAID]}{'...' if len(message) > MOST_SAID else ''}") from error


def _to_csv(table: AtomVectors) -> str:
    rows = ([symbol, *row] for symbol, row in zip(table.symbols, table.vectors, strict=True))
    return "".join(map(csv_line, (["element", *range(table.dim)], *rows)))


def _to_json(table: AtomVectors) -> str:
    # str of a float32 is the shortest text that restores it; that of a float64 has twice the digits
    rows = {str(z): [float(str(x)) for x in row] for z, row in zip(table.atomic_numbers, table.vectors, strict=True)}
    return json.dumps(rows)


def _to_safetensors(table: AtomVectors) -> bytes:
    from safetensors.numpy import save  # here and below: reading other files must not need the package

    arrays = {name: getattr(table, name) for name in _ARRAYS if getattr(table, name) is not None}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # others are silently saved wrong
    return save(arrays, metadata={PROVENANCE: json.dumps(table.provenance, sort_keys=True)})


def _from_csv(path: Path) -> AtomVectors:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    if not rows or rows[0][1][0] not in ("element", "symbol"):
        raise ValueError("the first line must be a header that begins with 'element' or 'symbol'")
    return _assemble((f"line {number}", row[0], row[1:]) for number, row in rows[1:])


def _from_json(path: Path) -> AtomVectors:
    pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError("must hold one JSON object of lists, keyed by atomic number or symbol")
    return _assemble((f"key {key!r}", key, values) for key, values in pairs)


def _from_safetensors(path: Path) -> AtomVectors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    wrong = [name for name in ("atomic_numbers", "vectors") if name not in arrays]
    wrong += [name for name, array in arrays.items() if _ARRAYS.get(name) != array.dtype]
    if wrong:
        raise ValueError(f"missing, unknown or wrongly typed tensors: {', '.join(wrong)}; expected {_ARRAYS}")
    provenance = json.loads(metadata.get(PROVENANCE, "{}"))
    if not isinstance(provenance, dict):
        raise ValueError(f"its {PROVENANCE} is a JSON {type(provenance).__name__}, not an object")  # noqa: TRY004
    return AtomVectors(**arrays, provenance=provenance)


def _assemble(rows: Iterable[tuple[str, str, Any]]) -> AtomVectors:
    vectors: dict[int, list[float]] = {}
    for where, name, values in rows:
        z = _atomic_number(where, name)
        if z in vectors:
            raise ValueError(f"{where}: {SYMBOLS[z - 1]} appears twice")
        vectors[z] = _numbers(where, values)
        first = next(iter(vectors.values()))
        if len(vectors[z]) != len(first):
            raise ValueError(f"{where}: {len(vectors[z])} components where the first element has {len(first)}")
    if not vectors:
        raise ValueError("no elements")
    numbers = sorted(vectors)
    with np.errstate(over="ignore"):  # overflow becomes infinite; the table rejects it with the element's name
        array = np.array([vectors[z] for z in numbers]).astype(np.float32)
    return AtomVectors(atomic_numbers=np.array(numbers, dtype=np.int64), vectors=array)


def _atomic_number(where: str, name: str) -> int:
    if name in SYMBOLS:
        return SYMBOLS.index(name) + 1
    if name.isdecimal() and 1 <= int(name) <= len(SYMBOLS):
        return int(name)
    raise ValueError(f"{where}: {name!r} is neither an element symbol nor an atomic number")


def _numbers(where: str, values: Any) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: a component is not a number ({error})") from error


_ARRAYS = {"atomic_numbers": np.int64, "vectors": np.float32, "site_counts": np.int64, "standard_errors": np.float32}
_READERS: dict[str, Callable[[Path], AtomVectors]] = {
    ".csv": _from_csv,
    ".json": _from_json,
    ".safetensors": _from_safetensors,
}
