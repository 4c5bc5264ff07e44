"""Write the tables of the benchmarks' pages from their results: ``python benchmarks/pages.py [NAME ...]``.

A page is ``benchmarks/NAME.md``: prose, a marker, and below it what this script writes from ``results/NAME.json``. The
head says which commit was measured, and whether the code has changed since.
"""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench
import series

from crysatom.text_tables import markdown

MARKER = "<!-- Below: written by benchmarks/pages.py from results/{}.json. -->"
CHANGED = "**The code that it measures has changed since.**"
NOT_YET = "Not measured yet: `python benchmarks/{}.py`."
WIDTH = 120
PACKAGES = ("python", "torch", "numpy", "ray", "pymatgen")


def tables(result: Mapping[str, Any]) -> str:
    """Return figures, facts and checks as Markdown."""
    found = result["results"]
    figures: dict[str, Any] = found["figures"]
    rows = [
        [
            name,
            number(figure["median"]),
            spread(figure["rounds"]),
            figure["unit"],
            beside(figures.get(name + bench.CPU)),
        ]
        for name, figure in figures.items()
        if not name.endswith(bench.CPU)
    ]
    parts = [markdown(["", "median", "rounds", "unit", "by CPU time"], rows, "lrrlr").rstrip()]
    facts = [f"- {name}: {shown(value)}" for name, value in found["facts"].items() if not is_table(value)]
    ceilings = {
        f"- A ratio above {figure['ceiling']:g} would be an error: {figure['ceiling_because']}"
        for figure in figures.values()
        if "ceiling" in figure
    }
    checks = [f"{name} ({note})" if note else name for name, note in result["checks"].items()]
    lines = [*facts, *sorted(ceilings), *([f"- Checked: {'; '.join(checks)}."] if checks else [])]
    return "\n\n".join([*parts, "\n".join(wrapped(line) for line in lines)])


def number(value: float) -> str:
    """Return a number with three or more digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def beside(figure: Mapping[str, Any] | None) -> str:
    """Return the median of a figure of CPU time, with its unit."""
    return "" if figure is None else f"{number(figure['median'])} {figure['unit']}"


def spread(rounds: list[float]) -> str:
    """Return the range of the rounds, and how many they are."""
    if len(rounds) == 1:
        return "1"
    return f"{number(min(rounds))} to {number(max(rounds))} ({len(rounds)})"


def shown(value: Any) -> str:
    """Return a fact as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return number(value) if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def is_table(value: Any) -> bool:
    """Return whether a fact is a table, which is left to the JSON file."""
    return isinstance(value, dict) and any(isinstance(one, dict) for one in value.values())


def wrapped(line: str) -> str:
    """Return a line of prose or an item of a list with at most 120 characters per line."""
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def as_list(value: Any) -> list[Any]:
    """Return the values of a flag."""
    return list(value) if isinstance(value, list | tuple) else [value]


def command(benchmark: bench.Benchmark, result: Mapping[str, Any]) -> str:
    """Return the command that measured, with the flags that differ from the full form."""
    parts = ["python", f"benchmarks/{benchmark.name}.py"]
    settings = result["settings"]
    if settings.get("table", bench.EMBEDDED) != bench.EMBEDDED:
        parts += ["--table", settings["table"]]
    for name, setting in benchmark.settings.items():
        full, value = (as_list(one) for one in (setting.full, settings.get(name, setting.full)))
        if value != full:
            parts += [f"--{name.replace('_', '-')}", *map(str, value)]
    return shlex.join(parts)


def head(result: Mapping[str, Any], *, changed: bool) -> str:
    """Return where, when and with what was measured, and whether the code is still the same."""
    machine, versions, commit = result["machine"], result["versions"], result["commit"]
    load = " and ".join(map(str, machine["load_before_and_after"]))
    packages = ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
    notes = [f"load average {load} before and after"] * bool(load) + [machine["note"]] * bool(machine["note"])
    where = f"{machine['processor']}, {machine['cpus']} CPUs, {machine['memory_gb']} GB"
    sentences = [
        f"Measured on {result['date']}{f', commit {commit[:8]}{commit[40:]}' * bool(commit)}.",
        *([CHANGED] if changed else []),
        f"{'; '.join([where, *notes, packages])}. All rounds: `results/{result['benchmark']}.json`.",
    ]
    return wrapped(" ".join(sentences))


def rendered(benchmark: bench.Benchmark, page: str, result: Mapping[str, Any] | None, *, changed: bool) -> str:
    """Return a page with new tables.

    Raises:
        ValueError: If the page has no marker.

    """
    marker = MARKER.format(benchmark.name)
    prose, found, _ = page.partition(marker)
    if not found:
        raise ValueError(f"benchmarks/{benchmark.name}.md has no line {marker!r}; add it below the prose")
    if result is None:
        return f"{prose}{marker}\n\n{NOT_YET.format(benchmark.name)}\n"
    parts = [f"## Results\n\n    {command(benchmark, result)}", head(result, changed=changed), tables(result)]
    return "\n\n".join([f"{prose}{marker}", *parts]) + "\n"


def stored(benchmark: bench.Benchmark) -> bench.Result | None:
    """Return the stored results of a benchmark; None if there are none."""
    path = bench.RESULTS / f"{benchmark.name}.json"
    return bench.read(path) if path.exists() else None


def page_of(benchmark: bench.Benchmark) -> Path:
    """Return the path of a benchmark's page."""
    return bench.FOLDER / f"{benchmark.name}.md"


def write(benchmark: bench.Benchmark) -> bool:
    """Write a benchmark's page; return whether the code that it measures has changed since."""
    result = stored(benchmark)
    changed = result is not None and result["code_digest"] != bench.code_digest(benchmark.measures)
    path = page_of(benchmark)
    path.write_text(rendered(benchmark, path.read_text(encoding="utf-8"), result, changed=changed), encoding="utf-8")
    return changed


def up_to_date(benchmark: bench.Benchmark) -> bool:
    """Return whether a page shows its results. The sentence on changed code may be there or not.

    It is not compared: otherwise every change of the code would make a page wrong.
    """
    page, result = page_of(benchmark).read_text(encoding="utf-8"), stored(benchmark)
    return page in {rendered(benchmark, page, result, changed=changed) for changed in (False, True)}


def main() -> None:
    """Write the pages; say which results are of older code."""
    parser = argparse.ArgumentParser(description=re.sub(r"``", "", str(__doc__).splitlines()[0]))
    parser.add_argument("names", nargs="*", choices=[[], *series.NAMES], help="default: all")
    for name in parser.parse_args().names or series.NAMES:
        changed = write(series.load(name))
        print(f"benchmarks/{name}.md{': ' * changed}{'the code has changed since' * changed}")


if __name__ == "__main__":
    main()
