"""Read back CIFs that other programs wrote: each crystal must be unchanged or refused; measures CIFs per second.

A crystal is unchanged if composition, volume per atom and the distances from each element to its 12 nearest neighbors
agree within 1e-3 (relative or angstrom). ``named`` is ``pymatgen_symmetrized`` without the symmetry operations that it
wrote, so that only the name, Z and the formula are left.
"""

from __future__ import annotations

import io
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench import Benchmark, Run, Setting
from pymatgen.core import Lattice, Structure
from pymatgen.io import cif as pymatgen_cif
from samples import sample

from crysatom.config import Limits
from crysatom.crystals.cif import parse_cif
from crysatom.crystals.quarantine import Rejection
from crysatom.crystals.spheres import pairs_within
from crysatom.crystals.table import iter_crystal_batches

NEIGHBORS = 12
NAMED = "named"
TOLERANCE = 1e-3
SYMPREC = 0.1
LIMITS = Limits(max_atoms=10_000, min_distance=0.0)
SCHEMA = pa.schema(
    [
        ("material_id", pa.string()),
        ("cif", pa.string()),
        ("lattice", pa.list_(pa.float64())),
        ("frac_coords", pa.list_(pa.float64())),
        ("atomic_numbers", pa.list_(pa.int64())),
    ]
)
OPERATIONS = re.compile(r"loop_\n _symmetry_equiv_pos_site_id\n _symmetry_equiv_pos_as_xyz\n(?:  \d+  .*\n)+")

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
Written = tuple[str, Arrays]


def by_pymatgen(crystal: Arrays) -> Written:
    """Write all atoms (P 1)."""
    return str(pymatgen_cif.CifWriter(_structure(crystal))), crystal


def by_pymatgen_symmetrized(crystal: Arrays) -> Written:
    """Write sites and operations of the conventional cell that pymatgen finds; the refined cell is the reference."""
    refined: list[Structure] = []

    class Recording(pymatgen_cif.SpacegroupAnalyzer):
        def get_refined_structure(self, *args: Any, **kwargs: Any) -> Structure:
            refined.append(super().get_refined_structure(*args, **kwargs))
            return refined[-1]

    original = pymatgen_cif.SpacegroupAnalyzer
    pymatgen_cif.SpacegroupAnalyzer = Recording  # type: ignore[misc]
    try:
        text = str(pymatgen_cif.CifWriter(_structure(crystal), symprec=SYMPREC))
    finally:
        pymatgen_cif.SpacegroupAnalyzer = original  # type: ignore[misc]
    [structure] = refined
    return text, (structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers))


def by_ase(crystal: Arrays) -> Written:
    """Write all atoms."""
    from ase import Atoms
    from ase.io import write

    lattice, coords, numbers = crystal
    stream = io.BytesIO()
    write(stream, Atoms(numbers=numbers, scaled_positions=coords, cell=lattice, pbc=True), format="cif")
    return stream.getvalue().decode(), crystal


WRITERS: dict[str, Callable[[Arrays], Written]] = {
    "pymatgen": by_pymatgen,
    "pymatgen_symmetrized": by_pymatgen_symmetrized,
    "ase": by_ase,
}


def _structure(crystal: Arrays) -> Structure:
    return Structure(Lattice(crystal[0]), crystal[2].tolist(), crystal[1])


def write_all(table: Path, out: Path, writer: str) -> int:
    """Write the crystals of a table, in order, as CIFs to a Parquet file; return how many could not be written."""
    started, written, failed = time.monotonic(), 0, 0
    with pq.ParquetWriter(out, SCHEMA, compression="zstd") as file:
        for batch in iter_crystal_batches(table, batch_size=500):
            rows = [row for row in map(_written(writer), batch.to_pylist()) if row is not None]
            failed += batch.num_rows - len(rows)
            written += len(rows)
            file.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            print(f"{writer}: {written:,} written, {written / (time.monotonic() - started):.0f}/s", flush=True)
    return failed


def _written(writer: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    def write(row: dict[str, Any]) -> dict[str, Any] | None:
        crystal = _arrays(row)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                text, truth = WRITERS[writer](crystal)
            except (ValueError, TypeError, AttributeError):  # spglib finds no symmetry
                return None
        names = ("lattice", "frac_coords", "atomic_numbers")
        return {"material_id": row["material_id"], "cif": text} | {
            name: np.ravel(values) for name, values in zip(names, truth, strict=True)
        }

    return write


def _arrays(row: dict[str, Any]) -> Arrays:
    return np.reshape(row["lattice"], (3, 3)), np.reshape(row["frac_coords"], (-1, 3)), np.array(row["atomic_numbers"])


def differs(found: Arrays, truth: Arrays) -> str:
    """Return how two crystals differ; empty if they are the same."""
    elements = np.unique(truth[2])
    if not np.array_equal(elements, np.unique(found[2])):
        return "composition"
    shares = [np.array([(z == e).mean() for e in elements]) for z in (found[2], truth[2])]
    if np.abs(shares[0] - shares[1]).max() > 1e-9:
        return "composition"
    volumes = [abs(np.linalg.det(lattice)) / len(z) for lattice, _, z in (found, truth)]
    if abs(volumes[0] - volumes[1]) > TOLERANCE * volumes[1]:
        return f"volume per atom {volumes[0]:.4f} instead of {volumes[1]:.4f}"
    near = [_nearest(crystal) for crystal in (found, truth)]
    for element in elements:
        shells = [np.sort(d[z == element], axis=0) for d, z in zip(near, (found[2], truth[2]), strict=True)]
        most = np.lcm(len(shells[0]), len(shells[1]))
        shells = [np.repeat(shell, most // len(shell), axis=0) for shell in shells]
        if (largest := np.abs(shells[0] - shells[1]).max()) > TOLERANCE:
            return f"distances differ by up to {largest:.4f} angstrom"
    return ""


def _nearest(crystal: Arrays) -> np.ndarray:
    """Return ``(N, 12)`` distances of each atom to its nearest neighbors, in angstrom."""
    lattice, coords, numbers = crystal
    cutoff = 5.0
    while True:
        first, _, _, distances = pairs_within(np.ascontiguousarray(lattice), coords @ lattice, cutoff, tol=1e-8)
        first, distances = first[distances > 1e-6], distances[distances > 1e-6]
        counts = np.bincount(first, minlength=len(numbers))
        if counts.min() >= NEIGHBORS:
            break
        cutoff *= 1.4
    distances = distances[np.lexsort((distances, first))]
    starts = np.cumsum(counts) - counts
    nearest: np.ndarray = distances[starts[:, None] + np.arange(NEIGHBORS)]
    return nearest


def read_all(cifs: Path, *, name_only: bool) -> tuple[Counter[str], float]:
    """Read the CIFs back; return how many are the same, were refused or are another crystal, and CPU seconds."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    for row in _rows(cifs):
        text = row["cif"]
        if name_only:
            text, found = OPERATIONS.subn("", text)
            assert found == 1, "the operations of each CIF are taken out"
        started = time.process_time()
        try:
            crystal = parse_cif(text.encode(), LIMITS)
        except Rejection as rejection:
            counts[f"refused: {rejection.reason}"] += 1
            print(f"{row['material_id']} refused: {rejection}")
            continue
        finally:
            seconds += time.process_time() - started
        difference = differs((crystal.lattice, crystal.frac_coords, crystal.atomic_numbers), _arrays(row))
        counts["different" if difference else "same"] += 1
        if difference:
            print(f"{row['material_id']} DIFFERENT: {difference}")
    return counts, seconds


def _rows(cifs: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(cifs).iter_batches(batch_size=500):
        yield from batch.to_pylist()


def measure(run: Run) -> None:
    """Write with each program, read back, and compare."""
    s = run.settings
    table = sample(run.table, s.crystals, run.folder / "crystals.parquet")
    unwritten = {}
    for kind in s.writers:
        writer = "pymatgen_symmetrized" if kind == NAMED else kind
        cifs = run.folder / f"{writer}.parquet"
        if not cifs.exists():
            unwritten[writer] = write_all(table, cifs, writer)
        counts, seconds = read_all(cifs, name_only=kind == NAMED)
        different, read = counts["different"], counts.total()
        run.check("no crystal changed", different == 0, f"{kind}: {different} of {read}")
        all_read = read + unwritten[writer] == s.crystals
        run.check("read + not written = asked for", all_read, f"{kind}: {read} read, {unwritten[writer]} not written")
        refused = read - counts["same"]
        run.check("at most a tenth is refused", kind == NAMED or refused <= read / 10, f"{kind}: {counts}")
        run.check("at least half come back", counts["same"] > read / 2, f"{kind}: {counts}")
        run.facts[kind] = {name: counts[name] for name in sorted(counts) if counts[name]}
        run.figure(f"{kind}, reading", [read / seconds], "CIFs per CPU second")


BENCHMARK = Benchmark(
    name="cif_round_trip",
    about=str(__doc__),
    measures=("crystals",),
    settings={
        "crystals": Setting(50_000, 40),
        "writers": Setting((*WRITERS, NAMED), (*WRITERS, NAMED), "programs that write the CIFs"),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
