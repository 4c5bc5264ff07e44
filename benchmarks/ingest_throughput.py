"""Crystals per second of ingest, in one process and on Ray: ``python benchmarks/ingest_throughput.py TABLE``.

Reads the first crystals of a crystal table as CIFs with an ``id_prop.csv``, then the table itself.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import ray
from pymatgen.core import Structure

PLATFORM = Path(__file__).resolve().parents[1] / "platform"
sys.path.insert(0, str(PLATFORM))

from crysatom.cluster.ingest import ingest  # noqa: E402
from crysatom.config import IngestConfig  # noqa: E402
from crysatom.crystals.ingest import IngestReport, ingest_plain  # noqa: E402
from crysatom.crystals.table import read_table  # noqa: E402


def write_cifs(table: str, count: int, folder: Path) -> None:
    """Write the first ``count`` crystals of a table as CIFs."""
    warnings.simplefilter("ignore")  # noble gases have no electronegativity
    rows = read_table(table).slice(0, count).to_pylist()
    for row in rows:
        structure = Structure(
            np.reshape(row["lattice"], (3, 3)), row["atomic_numbers"], np.reshape(row["frac_coords"], (-1, 3))
        )
        structure.to(filename=str(folder / f"{row['material_id']}.cif"))
    (folder / "id_prop.csv").write_text("\n".join(f"{row['material_id']},{i}" for i, row in enumerate(rows)))


def measure(name: str, run: Callable[[IngestConfig], IngestReport], source: str) -> None:
    """Run ingest; print its time and crystals per second."""
    with TemporaryDirectory() as out:
        started = time.perf_counter()
        report = run(IngestConfig.of(source=source, out=out))
        seconds = time.perf_counter() - started
    rate = report.read / seconds
    print(f"{name:<22} {report.read:>8,} read {report.rejected:>4} rejected {seconds:8.2f} s {rate:8.0f} crystals/s")


def main() -> None:
    """Measure with CIFs made from a table, and with the table itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="crystal table (.parquet)")
    parser.add_argument("--crystals", type=int, default=2000)
    parser.add_argument("--cpus", type=int, default=2)
    arguments = parser.parse_args()
    environment = {"env_vars": {"PYTHONPATH": str(PLATFORM)}}
    ray.init(num_cpus=arguments.cpus, include_dashboard=False, logging_level=logging.ERROR, runtime_env=environment)
    with TemporaryDirectory() as folder:
        write_cifs(arguments.table, arguments.crystals, Path(folder))
        measure("CIFs, one process", ingest_plain, folder)
        measure("CIFs, Ray, first run", ingest, folder)
        measure("CIFs, Ray, warm", ingest, folder)
    measure("table, one process", ingest_plain, arguments.table)
    measure("table, Ray, warm", ingest, arguments.table)


if __name__ == "__main__":
    main()
