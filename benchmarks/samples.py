"""Crystals for the benchmarks: a random sample of a crystal table, or crystals that every installation has."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from perturbed_crystals import copies_of
from pymatgen.core import Lattice, Structure

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.table import STRUCTURE_COLUMNS, read_table, write_table
from crysatom.names import ATOMIC_NUMBERS, EMBEDDED_SOURCE, FRAC_COORDS, LATTICE, MATERIAL_ID


def sample(table: Path | None, count: int, out: Path) -> Path:
    """Write a crystal table of exactly ``count`` crystals.

    Args:
        table: Table to draw from at random (seed 0); None: the 288 crystals in pymatgen and perturbed copies of them.
        count: Number of crystals.
        out: File to write; its folder must exist.

    Raises:
        ValueError: If the table has too few crystals with different ids.

    """
    if table is not None:
        crystals = read_table(table)
    else:
        embedded = ingest_plain(IngestConfig.of(source=EMBEDDED_SOURCE, out=str(out.with_suffix(".embedded")))).table
        crystals = pa.concat_tables(_enough(embedded, count))
    ids = np.array(crystals[MATERIAL_ID].to_pylist())
    rows = np.random.default_rng(0).permutation(len(ids))
    first = np.sort(np.unique(ids[rows], return_index=True)[1])[:count]
    if len(first) < count:
        raise ValueError(f"{table} has {len(first)} crystals with different ids; {count} are asked for")
    write_table(crystals.take(np.sort(rows[first])), out)
    return out


def _enough(embedded: Path, count: int) -> Iterator[pa.Table]:
    crystals = read_table(embedded).select(list(STRUCTURE_COLUMNS))
    yield crystals
    yield from (copies.cast(crystals.schema) for copies in copies_of(embedded, -(-count // len(crystals)) - 1))


def write_cifs(table: Path, folder: Path) -> list[Path]:
    """Write each crystal of a table to a CIF file with the name of its id, in a new folder."""
    folder.mkdir()
    files = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noble gases have no electronegativity
        for row in read_table(table).to_pylist():
            files.append(folder / f"{row[MATERIAL_ID]}.cif")
            structure_of(row).to(filename=str(files[-1]))
    return files


def structure_of(row: dict[str, Any]) -> Structure:
    """Return a row of a crystal table as pymatgen's structure."""
    lattice, coordinates = np.reshape(row[LATTICE], (3, 3)), np.reshape(row[FRAC_COORDS], (-1, 3))
    return Structure(Lattice(lattice), row[ATOMIC_NUMBERS], coordinates)
