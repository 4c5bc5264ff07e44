"""Give every reader thousands of broken inputs: ``python -m tests.fuzz.run --inputs 12000 --seed 0 --out FILE``.

Each reader runs in its own process, with limits of memory and of time per input. Hangs and crashes are counted, their
inputs kept, and the rest continues in a new process. ``--reproduce READER FOLDER`` reads a kept input again.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.conftest import REPOSITORY

SECONDS = 30.0
"""CPU time limit for one input; wall-clock time is unreliable on a busy machine."""

STILL = 300.0
"""Wall-clock limit for one input, in seconds, for readers that wait forever, e.g. for a pipe."""

MEGABYTES = 2048
"""Limit of address space of a process beyond its size after all imports."""

PACKAGES = ("ase", "gemmi", "hypothesis", "numpy", "pyarrow", "pymatgen-core", "safetensors", "torch", "tyro")
KINDS = ("inputs", "accepted", "rejected", "unexpected", "hangs", "crashes")
DOCUMENT = REPOSITORY / "docs" / "reliability.md"
BEGIN = "<!-- fuzzing: python -m tests.fuzz.run --document benchmarks/results/fuzzing.json -->"
END = "<!-- end of fuzzing -->"
EVENTS, CURRENT = "events.jsonl", "current"


def main() -> None:
    """Run all readers, or one of them as the child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=12_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzzing.json"))
    parser.add_argument("--failures", type=Path, default=Path("fuzzing_failures"))
    parser.add_argument("--only", help="one reader")
    parser.add_argument("--worker", nargs=2, metavar=("READER", "FOLDER"))
    parser.add_argument("--document", type=Path, metavar="RECORD", help="renew the table of docs/reliability.md")
    parser.add_argument("--reproduce", nargs=2, metavar=("READER", "FOLDER"))
    options = parser.parse_args()
    if options.document:
        document(json.loads(options.document.read_text()))
    elif options.reproduce:
        from tests.fuzz.targets import TARGETS, outcome

        print(outcome(TARGETS[options.reproduce[0]], Path(options.reproduce[1]).resolve()))  # noqa: T201
    elif options.worker:
        work(options.worker[0], Path(options.worker[1]), options.inputs, options.seed)
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    """Run the readers one after the other and write the record."""
    from tests.fuzz.targets import TARGETS

    names = [options.only] if options.only else list(TARGETS)
    each = -(-options.inputs // len(names))
    started = time.perf_counter()
    readers = {}
    for name in names:
        readers[name] = _watched(name, each, options.seed, options.failures)
        print(name, {k: v for k, v in readers[name].items() if k != "findings"}, flush=True)  # noqa: T201
        for finding, count in readers[name]["findings"].items():
            print(f"  {count} x {finding}", flush=True)  # noqa: T201
        record = _record(options, readers, time.perf_counter() - started)
        options.out.write_text(json.dumps(record, indent=1) + "\n")  # results so far


def _record(options: argparse.Namespace, readers: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "command": f"python -m tests.fuzz.run --inputs {options.inputs} --seed {options.seed}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "limits": {"cpu_seconds_per_input": SECONDS, "megabytes": MEGABYTES},
        "load_average": round(os.getloadavg()[2]),
        "seconds": round(seconds),
        "inputs": sum(reader["inputs"] for reader in readers.values()),
        "readers": readers,
    }


def table(record: dict[str, Any]) -> str:
    """Return the table of docs/reliability.md."""
    head = "| reader | inputs | accepted | rejected | unexpected | hangs | crashes | slowest, CPU s | peak, MB |"
    rows = [head, "| --- |" + " --- |" * 8]
    figures = (*KINDS, "slowest_seconds", "peak_megabytes")
    for name, reader in record["readers"].items():
        rows.append(f"| {name} | " + " | ".join(f"{reader[figure]:,}" for figure in figures) + " |")
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    about = (
        f"`{record['command']}`, {record['date']}; {record['machine']}, load {record['load_average']}; "
        f"Python {record['python']}, {versions}; {record['inputs']:,} inputs in {record['seconds'] / 60:.0f} minutes."
    )
    return "\n".join([*rows, "", textwrap.fill(about, 120, break_on_hyphens=False)])


def document(record: dict[str, Any]) -> None:
    """Write the table into docs/reliability.md."""
    before, rest = DOCUMENT.read_text().split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{rest.split(END)[1]}")


def _watched(name: str, inputs: int, seed: int, failures: Path) -> dict[str, Any]:
    """Return the results of one reader, which is restarted after each hang or crash."""
    counts: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    slowest = peak = 0.0
    while counts["inputs"] < inputs and counts["hangs"] + counts["crashes"] < 20:
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            ended = _until_it_ends(name, folder, inputs - counts["inputs"], seed)
            seed += 1000
            events = [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]
            for event in events:
                counts["inputs"] += 1
                counts[event["kind"]] += 1
                slowest, peak = max(slowest, event["seconds"]), max(peak, event["megabytes"])
                if event["kind"] == "unexpected":
                    findings[event["detail"][:160]] += 1
                    if findings[event["detail"][:160]] <= 2:
                        _keep(folder / event["kept"], failures, name, event["detail"])
            if ended and not (folder / CURRENT).exists():
                raise RuntimeError(f"{name}: the process ended with {ended} outside of an input")
            if ended:
                counts["inputs"] += 1
                counts["hangs" if ended == "hang" else "crashes"] += 1
                findings[ended] += 1
                _keep(folder / CURRENT, failures, name, ended)
    figures = {kind: counts[kind] for kind in KINDS}
    return {**figures, "slowest_seconds": round(slowest, 2), "peak_megabytes": round(peak), "findings": dict(findings)}


def _until_it_ends(name: str, folder: Path, inputs: int, seed: int) -> str:
    """Run the process of a reader; return its failure: a hang, or the exit code of a crash."""
    command = [sys.executable, "-m", "tests.fuzz.run", "--worker", name, str(folder)]
    command += ["--inputs", str(inputs), "--seed", str(seed)]
    paths = os.pathsep.join([str(REPOSITORY / "platform"), str(REPOSITORY / "jobs"), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    (folder / EVENTS).touch()
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment) as process:
        while process.poll() is None:
            time.sleep(0.2)
            try:
                started = (folder / "started").stat().st_mtime, float((folder / "started").read_text() or "inf")
                used = _cpu_seconds(process.pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if used - started[1] > SECONDS or time.time() - started[0] > STILL:
                process.kill()
                process.wait()
                return "hang"
    return f"exit code {process.returncode}" if process.returncode else ""


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _keep(content: Path, failures: Path, name: str, detail: str) -> None:
    failures.mkdir(parents=True, exist_ok=True)
    place = failures / f"{name.replace(' ', '_').replace('/', '_')}-{len(list(failures.iterdir())):03d}"
    shutil.copytree(content, place / "input", ignore=shutil.ignore_patterns("out"))
    (place / "finding.txt").write_text(detail)


def work(name: str, folder: Path, inputs: int, seed: int) -> None:
    """Generate inputs for a reader and read them; write one line of events for each."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings

    from tests.fuzz.targets import TARGETS, UNEXPECTED, outcome, write

    target = TARGETS[name]
    strategy = target.inputs()
    _warm(target, folder)
    limit = _status("VmSize") + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    current = folder / CURRENT
    done = 0
    with (folder / EVENTS).open("a") as events:

        @hypothesis.seed(seed)
        @settings(
            max_examples=inputs,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(files: Any) -> None:
            nonlocal done
            done += 1
            current.mkdir()
            write(files, current)
            (folder / "started").write_text(str(time.process_time()))
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak
            before, started = _status("VmRSS"), time.process_time()
            ended = outcome(target, current)
            seconds = time.process_time() - started
            event = {"kind": ended.kind, "detail": ended.detail, "seconds": seconds, "kept": f"kept-{done}"}
            event["megabytes"] = (_status("VmHWM") - before) / 2**20
            events.write(json.dumps(event) + "\n")
            events.flush()
            if ended.kind == UNEXPECTED:
                current.rename(folder / f"kept-{done}")
            else:
                shutil.rmtree(current)

        each()


def _warm(target: Any, folder: Path) -> None:
    """Read one input without limits, so that late imports are done."""
    from tests.fuzz.targets import outcome

    warm = folder / "warm"
    warm.mkdir()
    outcome(target, warm)
    shutil.rmtree(warm)


def _status(name: str) -> int:
    """Return a memory statistic of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
