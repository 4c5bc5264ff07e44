"""Write a crystal table of perturbed copies of another one: any number of realistic crystals for scaling tests.

    python benchmarks/perturbed_crystals.py --table jarvis_dft_3d.parquet --copies 10 --out jarvis_x10.parquet

Copy k of crystal ``JVASP-1`` is called ``JVASP-1~k``. Its cell is strained by about 1 % and its atoms are displaced by
about 0.02 angstrom. The seed depends only on the crystal's row and the number of the copy. Memory holds one record
batch at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crysatom.crystals.table import STRUCTURE_COLUMNS, STRUCTURE_FIELDS, iter_crystal_batches, write_table
from crysatom.names import ATOMIC_NUMBERS, FORMULA, FRAC_COORDS, LATTICE, MATERIAL_ID

STRAIN = 0.01
"""Standard deviation of each component of the strain of a cell."""

DISPLACEMENT = 0.02
"""Standard deviation of each Cartesian component of an atom's displacement, in angstrom."""

Array = NDArray[Any]


def perturbed(batch: pa.RecordBatch, first_row: int, copy: int) -> pa.RecordBatch:
    """Return a copy of crystals, each with its own strain and displacements.

    Args:
        batch: Crystals with the structure columns.
        first_row: Row of the first crystal in its table.
        copy: Number of the copy.

    """
    lattices, coords = [], []
    for k in range(batch.num_rows):
        rng = np.random.default_rng([first_row + k, copy])
        lattice = np.array(batch[LATTICE][k].as_py()).reshape(3, 3)
        frac = np.array(batch[FRAC_COORDS][k].as_py()).reshape(-1, 3)
        strain = rng.normal(scale=STRAIN, size=(3, 3))
        shift = rng.normal(scale=DISPLACEMENT, size=frac.shape)
        lattices.append((lattice @ (np.eye(3) + (strain + strain.T) / 2)).ravel())
        coords.append((frac + shift @ np.linalg.inv(lattice)).ravel())
    columns = {
        MATERIAL_ID: pa.array([f"{name}~{copy}" for name in batch[MATERIAL_ID].to_pylist()]),
        LATTICE: pa.array(lattices, STRUCTURE_FIELDS[1].type),
        FRAC_COORDS: pa.array(coords, STRUCTURE_FIELDS[2].type),
        ATOMIC_NUMBERS: batch[ATOMIC_NUMBERS],
        FORMULA: batch[FORMULA],
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in STRUCTURE_COLUMNS], schema=pa.schema(STRUCTURE_FIELDS))


def copies_of(table: Path, copies: int) -> Iterator[pa.Table]:
    """Yield all crystals of a table once per copy, in batches."""
    for copy in range(1, copies + 1):
        row = 0
        for batch in iter_crystal_batches(table, columns=STRUCTURE_COLUMNS):
            yield pa.Table.from_batches([perturbed(batch, row, copy)])
            row += batch.num_rows


def write_copies(table: Path, copies: int, out: Path) -> int:
    """Write the copies as a crystal table; return the number of crystals."""
    return write_table(copies_of(table, copies), out, pa.schema(STRUCTURE_FIELDS))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="crystal table")
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, help="crystal table to write")
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows = write_copies(arguments.table, arguments.copies, arguments.out)
    size = arguments.out.stat().st_size
    print(f"{rows:,} crystals, {size:,} bytes, {time.perf_counter() - start:.0f} s: {arguments.out}")


if __name__ == "__main__":
    main()
