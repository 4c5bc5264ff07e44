"""What all benchmarks share: settings, rounds, checks, and results as JSON.

A benchmark is a module with a :class:`Benchmark` called ``BENCHMARK``, and ``bench.main(BENCHMARK)`` at its end. It has
a full form, and a small one that takes seconds and that ``make test-all`` runs. ``results/NAME.json`` holds figures
(rounds of a number with a unit), facts, and the checks that held. A check that does not hold raises
:class:`CheckError`, and nothing is written.
"""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

import psutil
from compact import compact

import crysatom
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.fields import PACKAGE_VERSION

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
PACKAGE = Path(crysatom.__file__).parent

DATA_VARIABLE, DATA_TABLE = "CRYSATOM_TEST_DATA", "jarvis_dft_3d.parquet"
EMBEDDED = "the crystals in pymatgen"

FLAGS = ("avx2", "avx512f", "amx_tile", "amx_bf16")
"""Instructions of a processor that decide how fast torch is."""

CPU = ", CPU time"
"""End of the name of a figure of processor time. It belongs to the figure of the clock whose name it continues."""

SMALL_SLACK = 10.0
"""Factor of the ceilings in the small form, whose rounds last milliseconds, beside other tests."""

T = TypeVar("T")
Result = dict[str, Any]
Better = Literal["higher", "lower", "either"]


class CheckError(Exception):
    """A measurement that cannot be right."""


@dataclass(frozen=True)
class Timing:
    """Wall-clock and processor seconds for a number of crystals."""

    crystals: int
    wall: float
    cpu: float

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.crystals + other.crystals, self.wall + other.wall, self.cpu + other.cpu)

    @property
    def rate(self) -> float:
        """Crystals per second."""
        return self.crystals / self.wall

    @property
    def cpu_ms(self) -> float:
        """Processor time per crystal, in ms."""
        return 1e3 * self.cpu / self.crystals


def timed(crystals: int, work: Callable[[], T]) -> tuple[Timing, T]:
    """Run a function; return its time and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return Timing(crystals, time.perf_counter() - wall, time.process_time() - cpu), value


@dataclass(frozen=True)
class Setting:
    """A setting of a benchmark: its values in full and in small, and a line for ``--help``."""

    full: Any
    small: Any
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: Name of its module, of its page and of its results.
        about: The module's docstring.
        measures: Files and folders of ``platform/crysatom`` whose code the results depend on.
        settings: Settings by name; each is a flag.
        measure: Measures; adds figures, facts and checks to the run.
        reads_table: Whether it reads crystals and has the flag ``--table``.

    """

    name: str
    about: str
    measures: tuple[str, ...]
    settings: Mapping[str, Setting]
    measure: Callable[[Run], None]
    reads_table: bool = True


class Run:
    """A run of a benchmark.

    Attributes:
        settings: The settings, as attributes.
        table: Crystal table to draw from; None: the crystals in pymatgen.
        folder: Temporary folder.
        small: Whether this is the small form.
        figures: Measured numbers, see :meth:`figure`.
        facts: Everything else worth keeping.
        checks: What was checked.

    """

    def __init__(self, settings: argparse.Namespace, table: Path | None, folder: Path, *, small: bool) -> None:
        self.settings, self.table, self.folder, self.small = settings, table, folder, small
        self.figures: dict[str, Result] = {}
        self.facts: Result = {}
        self.checks: dict[str, str] = {}

    def check(self, name: str, ok: bool, otherwise: str, *, found: str = "") -> None:
        """Note a check, with what was found, or raise a :class:`CheckError`."""
        if not ok:
            raise CheckError(f"{name}: no. {otherwise}")
        self.checks[name] = found

    def equal(self, name: str, ours: Sequence[float], other: Sequence[float], tolerance: float) -> None:
        """Check that two series are equal to a relative tolerance."""
        worst = max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in zip(ours, other, strict=False)), default=1.0)
        ok = len(ours) == len(other) and worst <= tolerance
        found = f"relative difference {worst:.1e}, allowed {tolerance:g}"
        self.check(name, ok, f"{found}; {len(ours)} and {len(other)} values", found=found)

    def figure(
        self,
        name: str,
        rounds: Sequence[float],
        unit: str,
        *,
        better: Better = "higher",
        ceiling: tuple[float, str] | None = None,
    ) -> None:
        """Add a measured number.

        Args:
            name: What it is.
            rounds: Its value in each round.
            unit: Its unit; ``x`` for the ratio of two sides that took turns.
            better: Which values are better.
            ceiling: Median beyond which it cannot be right, and why.

        Raises:
            CheckError: If a value is not a positive number, or the median is beyond the ceiling.

        """
        values = [float(value) for value in rounds]
        self.check(
            "figures are finite and positive",
            bool(values) and all(math.isfinite(value) and value > 0 for value in values),
            f"{name}: {values}",
        )
        entry: Result = {"median": median(values), "unit": unit, "better": better, "rounds": values}
        if ceiling is not None:
            limit = ceiling[0] * (SMALL_SLACK if self.small else 1)
            self.check(
                "no ratio is beyond its ceiling", entry["median"] <= limit, f"{name}: {entry['median']:g}; {ceiling[1]}"
            )
            entry |= {"ceiling": ceiling[0], "ceiling_because": ceiling[1]}
        self.figures[name] = entry

    def timings(self, name: str, rounds: Sequence[Timing], *, cpu: bool = True) -> None:
        """Add the speed and, if this process did the work, the processor time per crystal."""
        self.figure(name, [t.rate for t in rounds], "crystals/s")
        if cpu:
            self.figure(f"{name}{CPU}", [t.cpu_ms for t in rounds], "ms/crystal", better="lower")

    def ratios(
        self, name: str, slow: Sequence[Timing], fast: Sequence[Timing], ceiling: tuple[float, str] | None = None
    ) -> None:
        """Add how many times faster one side was in each round, by the clock and by processor time."""
        pairs = list(zip(slow, fast, strict=True))
        self.figure(name, [b.rate / a.rate for a, b in pairs], "x", ceiling=ceiling)
        self.figure(f"{name}{CPU}", [a.cpu_ms / b.cpu_ms for a, b in pairs], "x", ceiling=ceiling)


def processor() -> str:
    """Return the model of the processor and its instructions, from ``/proc/cpuinfo``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", "").split())
    numbers = f"family {facts.get('cpu family', '?')}, model {facts.get('model', '?')}"
    found = ", ".join(flag for flag in FLAGS if flag in flags)
    return f"{facts.get('model name', 'unknown')} ({numbers}; {found or 'no AVX2'})"


def code_digest(measures: Sequence[str]) -> str:
    """Return 16 hex digits of source files, without comments, docstrings and blank lines."""
    found = hashlib.sha256()
    for name in sorted(measures):
        path = PACKAGE / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            found.update(f"{file.relative_to(PACKAGE)}\n{_code(file.read_text(encoding='utf-8'))}".encode())
    return found.hexdigest()[:16]


def _code(source: str) -> str:
    """Return the lines of a source file that compute something."""
    texts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return "\n".join(line for k, line in lines if k not in texts and line.strip() and line.lstrip()[0] != "#")


def measured(benchmark: Benchmark, given: argparse.Namespace) -> Result:
    """Run a benchmark in a temporary folder; return its results.

    Raises:
        CheckError: If a check does not hold.

    """
    settings = argparse.Namespace(**{name: getattr(given, name) for name in benchmark.settings})
    load = [psutil.getloadavg()[0]]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(settings, given.table, Path(folder), small=given.small)
        benchmark.measure(run)
    load.append(psutil.getloadavg()[0])
    tags = environment_tags("")
    versions = {k.removeprefix(PACKAGE_VERSION): v for k, v in tags.items() if k.startswith(PACKAGE_VERSION)}
    table = {"table": given.table.name if given.table else EMBEDDED} if benchmark.reads_table else {}
    return {
        "benchmark": benchmark.name,
        "small": given.small,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "machine": {
            "processor": processor(),
            "cpus": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30),
            "load_before_and_after": [round(one, 1) for one in load],
            "note": given.note,
        },
        "versions": versions,
        "commit": tags.get("mlflow.source.git.commit", ""),
        "code_digest": code_digest(benchmark.measures),
        "settings": {**table, **vars(settings)},
        "seconds": round(time.perf_counter() - start, 1),
        "checks": run.checks,
        "results": _rounded({"figures": run.figures, "facts": run.facts}),
    }


def _rounded(value: Any) -> Any:
    """Return results with five digits: more are noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def arguments(benchmark: Benchmark, given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; defaults are those of the full or the small form."""
    parser = argparse.ArgumentParser(
        description=benchmark.about, formatter_class=argparse.RawDescriptionHelpFormatter, prog=f"{benchmark.name}.py"
    )
    parser.add_argument("--small", action="store_true", help="the small form, which takes seconds: a test, no result")
    parser.add_argument("--note", default="", help="other load of the machine")
    parser.add_argument("--out", type=Path, help=f"file to write; default: results/{benchmark.name}.json if in full")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="compare two results, or one with the stored one, instead of measuring; exit with 1 if a figure is worse",
    )
    if benchmark.reads_table:
        whose = f"{DATA_TABLE} in the folder {DATA_VARIABLE} if that is set, else {EMBEDDED}"
        parser.add_argument("--table", type=Path, help=f"crystal table (.parquet); default: {whose}")
    for name, setting in benchmark.settings.items():
        about = " ".join([setting.about, f"(default: {setting.full}; small: {setting.small})"]).strip()
        many = isinstance(setting.full, tuple)
        kind = type(setting.full[0] if many else setting.full)
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=about)
        else:
            parser.add_argument(flag, type=kind, nargs="+" if many else None, help=about.replace("%", "%%"))
    found = parser.parse_args(given)
    for name, setting in benchmark.settings.items():
        if getattr(found, name) is None:
            setattr(found, name, setting.small if found.small else setting.full)
    found.table = getattr(found, "table", None)
    if found.table is None and not found.small and (folder := os.environ.get(DATA_VARIABLE)):
        found.table = Path(folder) / DATA_TABLE
    return found


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(compact(result), encoding="utf-8")


def read(path: Path) -> Result:
    """Read results.

    Raises:
        ValueError: If the file is not in the form of :func:`measured`.

    """
    found: Result = json.loads(path.read_text(encoding="utf-8"))
    if "code_digest" not in found:
        raise ValueError(f"{path}: not written by benchmarks/bench.py")
    return found


def main(benchmark: Benchmark, given: Sequence[str] | None = None) -> None:
    """Measure, print and write; or compare."""
    import comparing
    import pages

    found = arguments(benchmark, given)
    stored = RESULTS / f"{benchmark.name}.json"
    if found.compare:
        sys.exit(comparing.main(*([stored, *found.compare][-2:])))
    try:
        result = measured(benchmark, found)
    except CheckError as error:
        sys.exit(f"error: {benchmark.name}: {error}")
    print(pages.tables(result))
    out = found.out or (None if found.small else stored)
    if out is not None:
        write(result, out)
    if out == stored:
        pages.write(benchmark)
