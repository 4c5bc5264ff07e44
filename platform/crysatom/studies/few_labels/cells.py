"""Finished cells: a line of ``cells.csv`` each, and the errors of single crystals in small files beside it.

A cell is one training: a property, a number of labels, a predictor, a table, a draw and a seed. The file is written by
one process, line by line, and may be read on another machine.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.crystals.csv_files import as_it_was, csv_line
from crysatom.writing import write_bytes

logger = logging.getLogger(__name__)

Array = NDArray[Any]

CELLS_CSV = "cells.csv"
ERRORS = "errors"
"""Folder of the errors of single crystals: ``IDENTITY.f32``, their float32 in order, little-endian."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A finished training; the columns of ``cells.csv``.

    Attributes:
        identity: Digest of everything that decides the errors: settings, crystals, labels, vectors.
        property: Property.
        unit: Its unit.
        labels: Training crystals; 0: all of the pool.
        held_out: Elements held out, as the flag names them; 'none'.
        elements: Symbols of the elements held out of this draw, separated by spaces.
        predictor: Predictor.
        table: Name of the table.
        vectors: Source of the table.
        sha256: 12 hex digits of its components.
        power: Power of its spectrum, given or chosen.
        draw: Number of the draw.
        seed: Training seed.
        salt: Salt of the split; 'composition:SALT' or 'official:SALT' for those rules.
        evaluated: 'test' or 'validation'.
        crystals: 12 hex digits of the ids for training, validation and evaluation: cells with equal ones are paired.
        num_train: Training crystals.
        num_crystals: Evaluated crystals.
        mae: Mean absolute error of the evaluated crystals, in the unit.
        val_mae: The same of the validation crystals, which chose the epoch: too low.
        epochs: Trained epochs.
        selected_epoch: Epoch of the model, from 0.
        seconds: Seconds of the training and the predictions.

    """

    identity: str
    property: str
    unit: str
    labels: int
    held_out: str
    elements: str
    predictor: str
    table: str
    vectors: str
    sha256: str
    power: float
    draw: int
    seed: int
    salt: str
    evaluated: str
    crystals: str
    num_train: int
    num_crystals: int
    mae: float
    val_mae: float
    epochs: int
    selected_epoch: int
    seconds: float


COLUMNS = tuple(field.name for field in dataclasses.fields(Cell))
_TYPES = {"str": str, "int": int, "float": float}
_PARSERS = {field.name: _TYPES[str(field.type)] for field in dataclasses.fields(Cell)}


class CellStore:
    """The finished cells in a run's folder, and those found elsewhere.

    Args:
        folder: Folder of the run, for new cells.
        read: Further files ``cells.csv``; only read.

    """

    def __init__(self, folder: Path, read: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.cells: dict[str, Cell] = {}
        self.places: dict[str, Path] = {}
        own = folder / CELLS_CSV
        for path in ([own] if own.is_file() else []) + [path for path in read if path != own]:
            for cell in read_cells(path):
                if cell.identity not in self.cells or not self._has_errors(cell.identity):
                    self.cells[cell.identity], self.places[cell.identity] = cell, path.parent

    def add(self, cell: Cell, errors: Array) -> None:
        """Record a finished cell with the ``(num_crystals,)`` absolute errors of the evaluated crystals."""
        path = self._error_file(self.folder, cell.identity)
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, errors.astype("<f4").tobytes())
        _append(self.folder / CELLS_CSV, dataclasses.astuple(cell))
        self.cells[cell.identity], self.places[cell.identity] = cell, self.folder

    def errors(self, identity: str) -> Array | None:
        """Return the errors of a finished cell, ``(num_crystals,)`` float32; None if their file is not there."""
        if not self._has_errors(identity):
            return None
        content = self._error_file(self.places[identity], identity).read_bytes()
        if len(content) != 4 * self.cells[identity].num_crystals:
            logger.warning("the errors of cell %s in %s are incomplete", identity, self.places[identity])
            return None
        return np.frombuffer(content, "<f4")

    def _has_errors(self, identity: str) -> bool:
        return identity in self.places and self._error_file(self.places[identity], identity).is_file()

    @staticmethod
    def _error_file(folder: Path, identity: str) -> Path:
        return folder / ERRORS / f"{identity}.f32"


def find_cells(place: Path) -> list[Path]:
    """Return a file of cells, or those in a folder and in the folders in it.

    Raises:
        ValueError: If there is none.

    """
    if place.is_file():
        return [place]
    found = sorted([*place.glob(CELLS_CSV), *place.glob(f"*/{CELLS_CSV}")])
    if not found:
        raise ValueError(f"finished: {place} is no file and no folder with a {CELLS_CSV}")
    return found


def read_cells(path: Path) -> list[Cell]:
    """Return the cells of a file; a last line that a killed process left incomplete is ignored.

    Raises:
        ValueError: If the file is none of cells, or a line is damaged.

    """
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    try:
        header, *rows = csv.reader(io.StringIO(whole, newline=""))
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}: no table of cells: {error}") from error
    if tuple(header) != COLUMNS:
        raise ValueError(
            f"{path}: the first line must be {','.join(COLUMNS)}; it is a file of another study or version"
        )
    cells = []
    for number, row in enumerate(rows, 2):
        try:
            values = {name: _PARSERS[name](as_it_was(text)) for name, text in zip(COLUMNS, row, strict=True)}
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}; remove this line, and its cell is computed again") from error
        if not _is_digest(values["identity"]):
            raise ValueError(f"{path}:{number}: the identity is not 16 hexadecimal digits; remove this line")
        cells.append(Cell(**values))
    return cells


def _is_digest(text: str) -> bool:
    return len(text) == 16 and set(text) <= set("0123456789abcdef")


def _append(path: Path, row: Iterable[object]) -> None:
    """Append a line, after a header in a new file; flush it to disk."""
    content = path.read_bytes() if path.exists() else b""
    start = "" if content else csv_line(COLUMNS)
    with path.open("r+b" if content else "wb") as file:
        file.seek(content.rfind(b"\n") + 1)  # over an incomplete line of a killed process
        file.truncate()
        file.write(f"{start}{csv_line(row)}".encode())
        file.flush()
        os.fsync(file.fileno())
