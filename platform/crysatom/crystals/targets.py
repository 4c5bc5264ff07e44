"""Targets: values of one property for the crystals of the graphs, in their order.

JARVIS has some ids in several rows. The graph of an id is that of its first row (:mod:`crysatom.graphs.featurize`), so
its target is the value of that row.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crysatom.crystals.csv_files import as_it_was
from crysatom.crystals.derived_columns import COMPUTED_COLUMNS, computed_column
from crysatom.crystals.quarantine import short
from crysatom.crystals.table import STRUCTURE_COLUMNS
from crysatom.crystals.text_table import Line, describe_missing, is_missing, number, read_text_table, typed
from crysatom.names import MATERIAL_ID, PROPERTIES

Array = NDArray[Any]
Ids = Sequence[str] | Array

logger = logging.getLogger(__name__)

_INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_TRUTH_TRAINS = "column {} holds true and false, which are trained as 1 and 0"


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Values of one property of M crystals.

    Attributes:
        name: Name of the property and of its column.
        unit: Its unit; empty if neither the table nor the vocabulary has it.
        labels: ``(M,)`` float64 values; NaN for crystals without one.

    """

    name: str
    unit: str
    labels: Array

    @property
    def labeled(self) -> Array:
        """Crystals with a label, ``(M,)`` bool."""
        return ~np.isnan(self.labels)


def first_rows(table: pa.Table, material_ids: Ids) -> Array:
    """Return the row from which each crystal's graph was made, the first with its id: ``(M,)`` int64.

    Raises:
        ValueError: If the table lacks an id, so that it is not the table of the graphs.

    """
    rows = pc.index_in(pa.array(material_ids, pa.string()), value_set=table[MATERIAL_ID].combine_chunks())
    if rows.null_count:
        missing = np.flatnonzero(rows.is_null().to_numpy(zero_copy_only=False))
        raise ValueError(
            f"the crystal table has no row for {rows.null_count} of {len(rows)} crystals, the first of them "
            f"{material_ids[missing[0]]!r}; give the table that the graphs were made of"
        )
    return np.asarray(rows.to_numpy()).astype(np.int64)


def targets_for(table: pa.Table, name: str, material_ids: Ids) -> Targets:
    """Return the targets of a property.

    Args:
        table: The crystal table that the graphs were made of (:func:`crysatom.crystals.table.read_table`).
        name: A column of numbers, with null or NaN for a missing label, or of booleans, which become 1 and 0; or
            ``volume_per_atom`` or ``density``, which are computed if the table lacks them.
        material_ids: ``(M,)`` ids of the crystals in the graphs.

    Raises:
        ValueError: If there is no such column of numbers, no crystal has a label, or one is infinite.

    """
    crystals = table.take(pa.array(first_rows(table, material_ids)))
    if name in table.schema.names:
        values = _numbers(crystals, name)
    elif name in COMPUTED_COLUMNS:
        values = computed_column(crystals, name)
    else:
        raise ValueError(f"the crystal table has no column {name!r}; {_choices(table)}")
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise ValueError(
            f"column {name} is infinite for {len(infinite)} crystals, the first of them "
            f"{material_ids[infinite[0]]!r}; correct the values, or make them null"
        )
    return _labeled(Targets(name=name, unit=unit_of(table, name), labels=values))


def targets_from_csv(path: str | Path, table: pa.Table, material_ids: Ids) -> Targets:
    """Return targets from a file of two columns, ``material_id`` and the property.

    Args:
        path: The file. Crystals that are not in it have no label.
        table: The crystal table that the graphs were made of.
        material_ids: ``(M,)`` ids of the crystals in the graphs.

    Raises:
        ValueError: If the file cannot be read, or a row has an unknown or repeated id, or its value is not a number,
            true, false or a word for a missing value; with the line.

    """
    path = Path(path)
    known = set(table[MATERIAL_ID].to_pylist())
    lines = [_with_its_id(line, known) for line in read_text_table(path, {MATERIAL_ID, *known}).lines]
    name = _header(path, lines)
    _require_rows(path, lines[1:], known)
    labels = _labels(path, name, lines[1:])
    aligned = np.array([labels.get(str(i), math.nan) for i in material_ids], dtype=np.float64)
    return _labeled(Targets(name=name, unit=unit_of(table, name), labels=aligned))


def _with_its_id(line: Line, known: Collection[str]) -> Line:
    """Return a line; remove the apostrophe of our CSV escaping from its id unless the table has the id."""
    number_of_line, cells = line
    first = cells[0] if cells[0] in known else as_it_was(cells[0])
    return number_of_line, [first, *cells[1:]]


def _require_rows(path: Path, lines: Sequence[Line], known: Collection[str]) -> None:
    """Raise at the first row without two cells, or whose id is unknown or repeated."""
    seen: dict[str, int] = {}
    for line, cells in lines:
        where = f"{path}:{line}"
        if len(cells) != 2:
            raise ValueError(f"{where}: {len(cells)} cells; a row is an id and a number, separated by a comma")
        if cells[0] not in known:
            raise ValueError(
                f"{where}: the crystal table has no id {short(cells[0])!r}; correct the id, or remove the row"
            )
        if cells[0] in seen:
            raise ValueError(f"{where}: {cells[0]!r} already has a value in line {seen[cells[0]]}; keep one of the two")
        seen[cells[0]] = line


def _labels(path: Path, name: str, lines: Sequence[Line]) -> dict[str, float]:
    """Return the values by id, of a column of numbers or of true and false, without missing ones."""
    column = typed([cells[1] for _, cells in lines])
    if column.kind == "text":
        _require_numbers(path, lines)
        return {}
    if column.missing:
        logger.info("%s: %s", path, describe_missing(name, column, [line for line, _ in lines]))
    if column.kind == "true or false":
        logger.info("%s: %s", path, _TRUTH_TRAINS.format(name))
    values = zip(lines, column.values, strict=True)
    return {cells[0]: float(value) for (_, cells), value in values if value is not None}


def _require_numbers(path: Path, lines: Sequence[Line]) -> None:
    """Raise at the first value that is neither a number nor missing; at a true or false only if all others are that."""
    wrong = [(line, cells[1]) for line, cells in lines if not is_missing(cells[1]) and number(cells[1]) is None]
    for line, text in sorted(wrong, key=lambda each: each[1].lower() in {"true", "false"})[:1]:
        what = "finite" if _INFINITE.fullmatch(text) else "a number"
        raise ValueError(f"{path}:{line}: {short(text)!r} is not {what}; correct it, or remove the row")


def _numbers(crystals: pa.Table, name: str) -> Array:
    column = crystals[name]
    if not _is_number(column.type):
        first = _first_word(crystals, name) if pa.types.is_string(column.type) else ""
        raise ValueError(f"column {name} has type {column.type}, a target is a number; {first}{_choices(crystals)}")
    if pa.types.is_boolean(column.type):
        logger.info(_TRUTH_TRAINS.format(name))
        column = column.cast(pa.uint8())
    return np.asarray(column.cast(pa.float64()).to_numpy())


def _first_word(crystals: pa.Table, name: str) -> str:
    """Return a sentence on the first value of a text column that is not a number."""
    for material_id, value in zip(crystals[MATERIAL_ID].to_pylist(), crystals[name].to_pylist(), strict=True):
        if value is not None and not is_missing(value) and number(value) is None:
            return f"the first value that is none is {short(value)!r} of {short(material_id)}; "
    return ""


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_boolean(dtype))


def _choices(table: pa.Table) -> str:
    columns = [f.name for f in table.schema if _is_number(f.type) and f.name not in STRUCTURE_COLUMNS]
    return f"columns of numbers are {short(', '.join(dict.fromkeys([*columns, *COMPUTED_COLUMNS])), 1000)}"


def unit_of(table: pa.Table, name: str) -> str:
    """Return the unit of a column in the table, else that of the vocabulary."""
    metadata = (table.schema.field(name).metadata or {}) if name in table.schema.names else {}
    known = PROPERTIES[name].unit if name in PROPERTIES else ""
    return str(metadata[b"unit"].decode()) if b"unit" in metadata else known


def _labeled(targets: Targets) -> Targets:
    if not targets.labeled.any():
        raise ValueError(f"none of the {len(targets.labels)} crystals has a value of {targets.name}; choose another")
    return targets


def _header(path: Path, lines: Sequence[Line]) -> str:
    cells = lines[0][1] if lines else []
    if len(cells) != 2 or cells[0] != MATERIAL_ID or not cells[1]:
        raise ValueError(
            f"{path}: the first line must be '{MATERIAL_ID},NAME', with the name of the property; it is "
            f"{short(','.join(cells))!r}"
        )
    return cells[1]
