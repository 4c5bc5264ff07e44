"""Report the outcomes of injections as Markdown and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.harness import Outcome

MARKER = "<!-- Below: written by tests/faults/report.py. -->"


def write(outcomes: Sequence[Outcome], facts: Mapping[str, Any], folder: Path) -> None:
    """Write ``results/faults.json``, and the tables of ``faults.md`` below its marker."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.number)
    found = {**facts, "outcomes": [asdict(outcome) for outcome in ordered]}
    text = json.dumps(found, indent=1).replace("NaN", "null")
    (folder / "results" / "faults.json").write_text(text + "\n")
    page = folder / "faults.md"
    prose, marker, _ = page.read_text().partition(MARKER)
    if not marker:
        raise ValueError(f"{page} has no line {MARKER!r}; add it where the tables are to begin")
    page.write_text(f"{prose}{MARKER}\n\n{_summary(ordered)}\n\n## Each injection\n\n{_each(ordered)}\n")


def _summary(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "| fault | job | injections | survived | lost | largest difference | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]

    def key(outcome: Outcome) -> tuple[str, str]:
        return outcome.fault, outcome.kind

    for (fault, kind), group in groupby(sorted(outcomes, key=key), key=key):
        several = list(group)
        survived = sum(outcome.survived for outcome in several)
        seconds = " ".join(f"{outcome.seconds:.0f}" for outcome in several)
        lines.append(
            f"| {fault} | {kind} | {len(several)} | {survived} | {len(several) - survived} | "
            f"{_largest(several)} | {seconds} |"
        )
    survived = sum(outcome.survived for outcome in outcomes)
    total = f"| all | | {len(outcomes)} | {survived} | {len(outcomes) - survived} | {_largest(outcomes)} | "
    return "\n".join([*lines, f"{total}{sum(outcome.seconds for outcome in outcomes):.0f} |"])


def _largest(outcomes: Sequence[Outcome]) -> str:
    known = [outcome.difference for outcome in outcomes if math.isfinite(outcome.difference)]
    return f"{max(known):.1g}" if known else "counts only"


def _each(outcomes: Sequence[Outcome]) -> str:
    lines = ["| | fault | job | | what happened | commit |", "| --- | --- | --- | --- | --- | --- |"]
    for outcome in outcomes:
        how = outcome.how if outcome.survived else "lost: " + "; ".join(outcome.lost).replace("\n", " ")[-300:]
        notes = "; ".join(outcome.notes).replace("|", "/").replace("\n", " ")
        lines.append(
            f"| {outcome.number} | {outcome.fault} | {outcome.kind} | {how} | {notes} "
            f"| `{outcome.commit[:7]}{outcome.commit[40:]}` |"  # 40 digits, and "-dirty" if files differed
        )
    return "\n".join(lines)
