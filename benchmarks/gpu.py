"""Correctness and speed on a GPU, within minutes: one command on a machine with torch and PyG, one JSON file.

    python benchmarks/gpu.py pack --pool mp_pool.parquet --labeled jarvis_dft_3d.parquet --bundle data/gpu
    PYTHONPATH=platform python benchmarks/gpu.py run --bundle data/gpu

The first command makes graphs and needs the installed package. The second needs Python 3.12, torch, torch-geometric,
numpy, pandas and pyarrow only. It compares the GPU with the CPU first, then measures. Every section has a budget and is
skipped if too little of ``--seconds`` is left; the file is written after each section, so a run that is cut off keeps
what it measured. The exit code is 1 if a section fails or a comparison is beyond its tolerance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import agreement
import gpu_data
import gpu_speed
import torch
import torch_geometric
from gpu_speed import Sizes

from crysatom.names import Precision
from crysatom.predictors.registry import PREDICTORS

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
SCHEMA = 1

NEEDED = 0.5
"""A section is skipped if less than this share of its budget is left."""

OVERRUN = 3.0
"""A section is interrupted after this many times its budget, or at the end of the run."""

Section = Callable[[float], dict[str, Any]]
"""Measures for about the given seconds; returns JSON values."""


@dataclass
class Report:
    """The JSON file, written after each section.

    Attributes:
        path: File to write.
        seconds: Time for all sections.
        content: Content of the file.

    """

    path: Path
    seconds: float
    content: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.perf_counter() - self.start)

    def section(self, name: str, budget: float, measure: Section) -> None:
        """Run a section if its time allows, record its result or its error, and write the file."""
        allowed, began = min(budget, self.left()), time.perf_counter()
        result: dict[str, Any]
        if allowed < NEEDED * budget:
            result = {"state": "skipped", "why": f"needs {budget:.0f} s, {self.left():.0f} s were left"}
        else:
            print(f"{name} ...", flush=True)
            try:
                with interrupted_after(min(OVERRUN * budget, self.left())):
                    result = {"state": "done", **measure(allowed)}
            except TimeoutError as error:
                result = {"state": "cut", "why": str(error)}
            except Exception:  # noqa: BLE001 - the next section may work, and time on the machine is short
                result = {"state": "failed", "why": traceback.format_exc(limit=-6)}
        result["section_seconds"] = round(time.perf_counter() - began, 1)
        self.content.setdefault("sections", {})[name] = result
        self.write()
        print(f"{name}: {json.dumps(result)[:600]}", flush=True)

    def write(self) -> None:
        """Write the file atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".tmp")
        new.write_text(json.dumps(self.content, indent=1) + "\n")
        new.replace(self.path)

    def problems(self) -> list[str]:
        """Return the sections that failed, and comparisons beyond their tolerance."""
        sections = self.content.get("sections", {})
        failed = [f"{name}: {s['why']}" for name, s in sections.items() if s["state"] == "failed"]
        wrong = sections.get("correctness", {}).get("wrong", {})
        return failed + [f"{case}: {differences}" for case, differences in wrong.items()]


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when its time is over."""

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"interrupted after {seconds:.0f} s")

    handler = signal.signal(signal.SIGALRM, interrupt)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def environment(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on, and a digest of the measured code."""
    files = sorted((REPOSITORY / "platform" / "crysatom").rglob("*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    found = {
        "code": code,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": torch_geometric.__version__,
        "cuda": torch.version.cuda,
        "processors": os.cpu_count(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": "CPU, not a GPU: a rehearsal, no figure to quote",
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {"device": about.name, "device_memory_gib": round(about.total_memory / 2**30, 1)}
        found |= {"multiprocessors": about.multi_processor_count, "capability": f"{about.major}.{about.minor}"}
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def correctness(every: Mapping[str, agreement.Case], device: torch.device) -> Section:
    """Return the section that compares every case with the CPU, in float64 and float32."""

    def measure(seconds: float) -> dict[str, Any]:
        end = time.perf_counter() + seconds
        found: dict[str, dict[str, float]] = {}
        wrong: dict[str, Any] = {}
        left_out = []
        for name, case in every.items():
            for dtype in (torch.float64, torch.float32):
                label = f"{name}, {str(dtype).removeprefix('torch.')}"
                if time.perf_counter() > end:
                    left_out.append(label)
                    continue
                try:
                    comparison = agreement.compare(name, case, device, dtype)
                except Exception:  # noqa: BLE001 - recorded; the other cases must still be compared
                    wrong[label] = traceback.format_exc(limit=-4)
                    continue
                found[label] = {name: float(f"{value:.2g}") for name, value in comparison.differences.items()}
                wrong |= {label: comparison.wrong} if comparison.wrong else {}
        return {
            "compared": len(found),
            "wrong": wrong,
            "left_out": left_out,
            "tolerances": {str(dtype): value for dtype, value in agreement.TOLERANCE.items()},
            "differences": found,
        }

    return measure


def sections(bundle: Path, device: torch.device, sizes: Sizes) -> dict[str, tuple[float, Section]]:
    """Return all sections in order, with their budgets in seconds of a run of 480."""
    pool = gpu_data.read_pool(bundle)
    labeled = {name: gpu_data.read_labeled(bundle, name) for name in PREDICTORS}
    about = json.loads((bundle / gpu_data.ABOUT).read_text())
    speed = gpu_speed.Bench(device, sizes)
    found: dict[str, tuple[float, Section]] = {
        "correctness": (130, correctness(agreement.cases(pool, labeled, sizes.checked_width), device)),
        "bandwidth": (10, lambda _: {"copy_gb_per_s": round(speed.copy_bandwidth() / 1e9, 1)}),
        "waits": (40, lambda _: speed.waits(pool, labeled["cgcnn"])),
    }
    for precision in get_args(Precision):
        for batch in sizes.pretraining_batches:
            section = partial(speed.pretraining, pool, precision, batch, epoch_of=about["pool_crystals"])
            found[f"pretraining, {precision}, batch {batch}"] = (20, section)
    for name in PREDICTORS:
        for batch in sizes.predictor_batches:
            found[f"{name}, batch {batch}"] = (12, partial(speed.predictor, name, labeled[name], batch))
    return found


def run(arguments: argparse.Namespace) -> int:
    """Run all sections; return the exit code."""
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no CUDA device; --device cpu rehearses the run")
    out = arguments.out or Path(os.environ.get("OUT", RESULTS)) / f"gpu_{device.type}.json"
    report = Report(out, arguments.seconds)
    report.content = {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment(device),
        "bundle": json.loads((arguments.bundle / gpu_data.ABOUT).read_text()),
        "small": arguments.small,
        "seconds": arguments.seconds,
    }
    sizes = gpu_speed.SMALL if arguments.small else gpu_speed.FULL
    share = min(1.0, arguments.seconds / 480)
    if device.type == "cpu":
        torch.set_num_threads(1)  # a rehearsal is small, and more threads would only wait
    for name, (budget, section) in sections(arguments.bundle, device, sizes).items():
        report.section(name, budget * share, section)
    problems = report.problems()
    report.content["problems"] = problems
    report.write()
    print(f"written: {out}; {report.seconds - report.left():.0f} s", *problems, sep="\n")
    return int(bool(problems))


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and do what it asks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack", help="make the graphs; needs the installed package")
    packing.add_argument("--pool", type=Path, required=True, help="table of unlabeled crystals (.parquet)")
    packing.add_argument("--labeled", type=Path, required=True, help="table of labeled crystals (.parquet)")
    packing.add_argument("--property", default="formation_energy_peratom", help="column to learn")
    packing.add_argument("--pool-crystals", type=int, default=20_000)
    packing.add_argument("--labeled-crystals", type=int, default=5_000)
    packing.add_argument("--bundle", type=Path, default=REPOSITORY / "data" / "gpu", help="folder to write")
    packing.set_defaults(command=_pack)
    running = commands.add_parser("run", help="compare and measure")
    running.add_argument("--bundle", type=Path, default=REPOSITORY / "data" / "gpu", help="folder of the graphs")
    running.add_argument("--device", default="cuda", help="cpu: a rehearsal")
    running.add_argument("--seconds", type=float, default=480, help="budget of the whole run")
    running.add_argument("--small", action="store_true", help="small networks and batches: for tests")
    running.add_argument("--out", type=Path, help="file to write; default: in $OUT or benchmarks/results")
    running.set_defaults(command=run)
    arguments = parser.parse_args(argv)
    code: int = arguments.command(arguments)
    return code


def _pack(arguments: argparse.Namespace) -> int:
    counts = (arguments.pool_crystals, arguments.labeled_crystals)
    size = gpu_data.pack(arguments.pool, arguments.labeled, arguments.property, arguments.bundle, sizes=counts)
    print(f"{arguments.bundle}: {size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
