"""Crystals per second of ingest, in one process and on Ray: CIFs with an ``id_prop.csv``, and a crystal table.

Both ways must give the same crystal table. Ray is started before, and its first run is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import bench
from bench import Benchmark, Run, Setting, Timing, timed
from driving import on_ray
from samples import sample, write_cifs

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import IngestReport, ingest_plain
from crysatom.crystals.table import read_table

Ingest = Callable[[IngestConfig], IngestReport]


def measure(run: Run) -> None:
    """Ingest each source in both ways, in turn."""
    from crysatom.cluster.ingest import ingest

    s = run.settings
    few = sample(run.table, s.cifs, run.folder / "few.parquet")
    cifs = run.folder / "cifs"
    files = write_cifs(few, cifs)
    (cifs / "id_prop.csv").write_text("\n".join(f"{file.stem},{k}" for k, file in enumerate(files)) + "\n")
    table = sample(run.table, s.rows, run.folder / "many.parquet")
    with on_ray():
        for name, source, count in (("CIFs", cifs, s.cifs), ("crystal table", table, s.rows)):
            ingested(run, ingest, source, count)  # workers start and import
            both = [[ingested(run, way, source, count) for way in (ingest_plain, ingest)] for _ in range(s.rounds)]
            plain, ray = ([timing for timing, _ in side] for side in zip(*both, strict=True))
            for (_, one), (_, other) in both:
                same = read_table(one.table).equals(read_table(other.table))
                run.check("both ways give the same table", same, name)
            run.timings(f"{name}, one process", plain)
            run.timings(f"{name}, Ray", ray, cpu=False)


def ingested(run: Run, work: Ingest, source: Path, count: int) -> tuple[Timing, IngestReport]:
    """Ingest; check the counts."""
    out = run.folder / f"out-{len(list(run.folder.iterdir()))}"
    timing, report = timed(count, partial(work, IngestConfig.of(source=str(source), out=str(out))))
    counts = report.read, report.accepted, report.rejected
    run.check("read = accepted + rejected = asked for", counts[0] == sum(counts[1:]) == count, f"{counts}, {count}")
    run.check("at most 1 % was rejected", report.rejected <= 0.01 * count, f"{report.reasons}")
    return timing, report


BENCHMARK = Benchmark(
    name="ingest_throughput",
    about=str(__doc__),
    measures=("crystals", "cluster/ingest.py"),
    settings={
        "cifs": Setting(2000, 40, "number of CIFs"),
        "rows": Setting(20_000, 100, "rows of the crystal table"),
        "rounds": Setting(2, 1),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
