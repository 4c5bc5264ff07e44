r"""Leave crystals out of a pool whose compositions another table holds, and draw some of the rest.

    python benchmarks/pool_without.py mp_pool.parquet jarvis_dft_3d.parquet --out clean.parquet
    python benchmarks/pool_without.py mp_pool.parquet jarvis_dft_3d.parquet --out some.parquet \
        --most-atoms 24 --draw 24000

What is learned from the result has seen no compound of the other table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crysatom.crystals.derived_columns import num_atoms
from crysatom.crystals.splits import reduced_compositions
from crysatom.names import ATOMIC_NUMBERS


def without(pool: pa.Table, other: pa.Table, most_atoms: int = 0, draw: int = 0) -> pa.Table:
    """Return the crystals of a pool with other reduced compositions than those of a table, in their order.

    Args:
        pool: Crystal table.
        other: Crystal table.
        most_atoms: Largest number of atoms in a cell; 0: no limit.
        draw: Number of crystals, drawn by ``numpy.random.default_rng(0)``; 0: all.

    """
    compositions, which = reduced_compositions(pool)
    kept = ~np.isin(compositions, reduced_compositions(other)[0])[which]
    if most_atoms:
        kept &= num_atoms(pool) <= most_atoms
    rows = np.flatnonzero(kept)
    if draw:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:draw])
    return pool.take(pa.array(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("pool", type=Path)
    parser.add_argument("other", type=Path, help="table whose compositions are left out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most-atoms", type=int, default=0)
    parser.add_argument("--draw", type=int, default=0)
    given = parser.parse_args()
    found = without(
        pq.read_table(given.pool), pq.read_table(given.other, columns=[ATOMIC_NUMBERS]), given.most_atoms, given.draw
    )
    pq.write_table(found, given.out, compression="zstd")
    print(f"{len(found):,} crystals: {given.out}")
