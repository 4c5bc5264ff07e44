"""Mutation test: apply known bugs, one at a time, and check that the tests named beside them fail.

``python tools/mutants.py`` runs all mutants of ``tests/mutants.toml`` in a temporary copy of the repository, prints a
table, and exits with 1 unless every mutant was killed. If a mutant survives, a test no longer detects the bug. If its
text is not found, the code has changed and the mutant must be updated. ``--only WORD`` selects mutants by name.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "mutants.toml"
LIMIT_S = 300.0
"""Timeout of a test run; a mutant may make a test hang, which kills the mutant."""

IMPORTED = ("pandas", "pyarrow.parquet", "pymatgen.core", "scipy.stats", "torch", "torch_geometric.data")
"""Packages that most tests need; imported once, before forking."""

OFFSET = 10
PASSED, FAILED = OFFSET, OFFSET + 1
"""Exit codes of pytest, offset to differ from those of Python. Any other code means that pytest could not run."""

Fate = Literal["killed", "SURVIVED", "NOT FOUND", "BROKEN"]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A bug.

    Attributes:
        name: Description of the bug.
        file: File, relative to the repository's root.
        old: Text in the file; must occur exactly once.
        new: Replacement of the text.
        tests: Arguments of pytest: the tests that must fail.

    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read(path: Path) -> list[Mutant]:
    """Return the mutants in a file."""
    groups = tomllib.loads(path.read_text())
    return [
        Mutant(
            name=f"{group}: {entry['name']}",
            file=entry.get("file", about.get("file")),
            old=entry["old"],
            new=entry["new"],
            tests=tuple(entry.get("tests", about.get("tests"))),
        )
        for group, about in groups.items()
        for entry in about["mutants"]
    ]


def is_found(mutant: Mutant, root: Path) -> bool:
    """Return whether the text occurs exactly once in the file."""
    path = root / mutant.file
    return path.is_file() and path.read_text().count(mutant.old) == 1


@contextmanager
def copy_of_repository() -> Iterator[Path]:
    """Yield a copy of the working tree, without files that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607 - as found on PATH
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / name)
        yield Path(folder)


def run_tests(root: Path, tests: Sequence[str], *, shown: bool = False) -> int | None:
    """Run tests in a copy, with or without output; return pytest's exit code, or None after a timeout."""
    sys.stdout.flush()
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=(root, tests, shown))
    process.start()
    process.join(LIMIT_S)
    if process.exitcode is None:
        assert process.pid is not None, "started"
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode


def _pytest(root: Path, tests: Sequence[str], shown: bool) -> None:
    """Run pytest in a fork, which has imported the slow packages but nothing of the repository."""
    os.setpgid(0, 0)
    os.chdir(root)
    sys.path[:0] = paths = [str(root / "platform"), str(root)]  # before ROOT, from which the package is installed
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.dont_write_bytecode = True  # caches compare size and time: a mutant may look like the original
    with Path(os.devnull).open("w") as nowhere:
        for stream in () if shown else (1, 2):
            os.dup2(nowhere.fileno(), stream)
        sys.exit(OFFSET + pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow", *tests]))


def fate(mutant: Mutant, root: Path) -> Fate:
    """Test a mutant in a copy of the repository and restore the file; return the outcome."""
    if not is_found(mutant, root):
        return "NOT FOUND"
    path = root / mutant.file
    healthy = path.read_text()
    try:
        path.write_text(healthy.replace(mutant.old, mutant.new))
        code = run_tests(root, mutant.tests)
    finally:
        path.write_text(healthy)
    if code == PASSED:
        return "SURVIVED"
    return "killed" if code in {FAILED, None} else "BROKEN"


def check(mutants: Sequence[Mutant]) -> bool:
    """Test and print all mutants; return whether all were killed by tests that pass without them."""
    width = max(len(mutant.name) for mutant in mutants)
    killed = 0
    for package in IMPORTED:
        importlib.import_module(package)
    with copy_of_repository() as root:
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            if (code := run_tests(root, tests, shown=True)) != PASSED:
                print(f"{' '.join(tests)} ends with {code} without any mutant; repair these tests first")
                return False
        for mutant in mutants:
            start = time.perf_counter()
            found = fate(mutant, root)
            print(f"{mutant.name:<{width}}  {found:<9}  {time.perf_counter() - start:5.1f} s", flush=True)
            killed += found == "killed"
    print(f"{killed} of {len(mutants)} killed")
    return killed == len(mutants)


def main() -> None:
    """Test the mutants that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only mutants whose name contains this word")
    parser.add_argument("--list", type=Path, default=LIST, help="list of mutants")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in read(arguments.list) if arguments.only in mutant.name]
    if not mutants:
        parser.error(f"no mutant in {arguments.list} has a name with {arguments.only!r}")
    sys.exit(0 if check(mutants) else 1)


if __name__ == "__main__":
    main()
