"""Test errors of finished runs of ``jobs/downstream.py`` side by side: a row per property and vectors, over all seeds.

The interval of a difference is a paired bootstrap over the test crystals, of absolute errors averaged over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "platform"))

from crysatom.studies.runs import JudgedRun, find_runs  # noqa: E402
from crysatom.studies.statistics import averaged_errors, compare, require_comparable  # noqa: E402
from crysatom.training.metrics import bootstrap_mean  # noqa: E402


def summarize(runs: list[JudgedRun], baseline: list[JudgedRun]) -> dict[str, Any]:
    """Return the row of some runs that differ by their seed only."""
    require_comparable([*baseline, *runs])
    mine = averaged_errors(runs)
    interval = bootstrap_mean(mine.to_numpy())
    comparison = compare(mine, averaged_errors(baseline))
    errors = [run.metrics["test/mae"] for run in runs]
    return {
        "seeds": [run.seed for run in runs],
        "epochs": runs[0].epochs,
        "test_mae": errors,
        "mean": statistics.mean(errors),
        "interval": [interval.low, interval.high],
        "twin_free": statistics.mean(run.metrics["test_twin_free/mae"] for run in runs),
        "difference": list(comparison.difference),
        "verdict": comparison.verdict,
        "minutes": round(sum(run.seconds for run in runs) / len(runs) / 60, 1),
        "unit": runs[0].unit,
    }


def line(name: str, vectors: str, row: dict[str, Any], baseline: str) -> str:
    """Return a row of the table."""
    each = ", ".join(f"{error:.4g}" for error in row["test_mae"])
    estimate, low, high = row["difference"]
    against = "" if vectors == baseline else f"{estimate:+.3g} [{low:+.3g}, {high:+.3g}] {row['verdict']}"
    values = f"{row['mean']:.4g} [{row['interval'][0]:.4g}, {row['interval'][1]:.4g}]"
    return f"| {name} ({row['unit']}) | {vectors} | {each} | {values} | {row['twin_free']:.4g} | {against} |"


def main() -> None:
    """Print the table; write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs' folders")
    parser.add_argument("--baseline", default="onehot92", help="vectors that the others are compared with")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks/results/downstream_jarvis.json")
    args = parser.parse_args()
    runs, unreadable = find_runs(args.runs)
    for problem in unreadable:
        print(f"warning: left out: {problem}", file=sys.stderr)
    groups: dict[tuple[str, str, int], list[JudgedRun]] = defaultdict(list)
    for run in runs:
        vectors = run.config.vectors
        shown = "/".join(Path(vectors).parts[-3:-1]) if "/" in vectors else vectors
        groups[run.property, shown, run.epochs].append(run)
    rows = {}
    print("| property | vectors | test MAE of each seed | mean [95 %] | without twins | against the baseline |")
    print("| --- | --- | --- | --- | ---: | --- |")
    for (name, vectors, epochs), group in sorted(groups.items()):
        row = summarize(group, groups[name, args.baseline, epochs])
        print(line(name, f"{vectors}", row, args.baseline))
        rows[f"{name}, {vectors}, {epochs} epochs"] = row
    args.results.write_text(json.dumps(rows, indent=1, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()
