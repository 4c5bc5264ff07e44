"""The list of mutants matches the code, and the tool distinguishes surviving from killed mutants."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

LIST = REPOSITORY / "tests" / "mutants.toml"
TOOL = REPOSITORY / "tools" / "mutants.py"

GROUPS = tomllib.loads(LIST.read_text())
MUTANTS = {f"{group}: {one['name']}": {**about, **one} for group, about in GROUPS.items() for one in about["mutants"]}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_of_the_code_as_it_is(mutant: dict[str, str]) -> None:
    assert (REPOSITORY / mutant["file"]).read_text().count(mutant["old"]) == 1, "the code has changed: write it anew"
    assert mutant["new"] != mutant["old"]
    assert all((REPOSITORY / test).is_file() for test in mutant["tests"] if test.endswith(".py"))


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_mutant_is_killed() -> None:
    done = run_tool("--only", "search margin: dropped")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 killed" in done.stdout


OTHERS = """
["margin"]
file = "platform/crysatom/graphs/neighbors.py"
tests = ["tests/unit/test_graphs_neighbors.py"]
mutants = [
  { name = "the same", old = "spec.tie_tolerance + 4 * RESOLUTION", new = "4 * RESOLUTION + spec.tie_tolerance" },
  { name = "absent", old = "no such text", new = "" },
  { name = "no Python", old = "margin = spec.tie_tolerance", new = "margin = (" },
]
"""


@pytest.mark.slow
def test_what_is_not_killed_is_told_and_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "others.toml").write_text(OTHERS)
    before = (REPOSITORY / "platform" / "crysatom" / "graphs" / "neighbors.py").read_bytes()
    done = run_tool("--list", str(tmp_path / "others.toml"))
    assert done.returncode == 1
    fates = dict(re.findall(r"^(margin: .+?)  +([A-Z ]+?)  +[\d.]+ s$", done.stdout, re.MULTILINE))
    assert fates == {"margin: the same": "SURVIVED", "margin: absent": "NOT FOUND", "margin: no Python": "BROKEN"}
    assert "0 of 3 killed" in done.stdout
    assert (REPOSITORY / "platform" / "crysatom" / "graphs" / "neighbors.py").read_bytes() == before
