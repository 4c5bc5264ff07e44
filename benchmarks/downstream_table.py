"""Test errors of finished runs of ``jobs/downstream.py`` side by side: a row per property and vectors, over all seeds.

The interval of a difference is a paired bootstrap over the test crystals, of absolute errors averaged over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "platform"))

from crysatom.names import MATERIAL_ID, PREDICTION, PREDICTIONS_CSV, RESULTS_JSON, RUN_JSON, TARGET  # noqa: E402
from crysatom.training.metrics import bootstrap_mean  # noqa: E402


@dataclass(frozen=True)
class Finished:
    """A run: its settings, its results, and the absolute error of each test crystal by id."""

    config: dict[str, Any]
    results: dict[str, Any]
    seconds: float
    errors: pd.Series


def read(folder: Path) -> Finished | None:
    """Return a run; None if it is not finished."""
    run = json.loads((folder / RUN_JSON).read_text())
    if not run.get("finished"):
        return None
    rows = pd.read_csv(folder / PREDICTIONS_CSV, index_col=MATERIAL_ID)
    errors = (rows[PREDICTION] - rows[TARGET]).abs()
    return Finished(run["config"], json.loads((folder / RESULTS_JSON).read_text()), run["seconds"], errors)


def summarize(runs: list[Finished], baseline: list[Finished]) -> dict[str, Any]:
    """Return the row of some runs that differ by their seed only."""
    errors = [run.results["metrics"]["test/mae"] for run in runs]
    mine, theirs = (sum(run.errors for run in side) / len(side) for side in (runs, baseline))
    difference = bootstrap_mean((mine - theirs.loc[mine.index]).to_numpy())
    interval = bootstrap_mean(mine.to_numpy())
    return {
        "seeds": [run.config["seeds"][0] for run in runs],
        "epochs": runs[0].results["epochs"],
        "test_mae": errors,
        "mean": statistics.mean(errors),
        "interval": [interval.low, interval.high],
        "twin_free": statistics.mean(run.results["metrics"]["test_twin_free/mae"] for run in runs),
        "difference": [difference.estimate, difference.low, difference.high],
        "minutes": round(sum(run.seconds for run in runs) / len(runs) / 60, 1),
        "unit": runs[0].results["unit"],
    }


def line(name: str, vectors: str, row: dict[str, Any], baseline: str) -> str:
    """Return a row of the table."""
    each = ", ".join(f"{error:.4g}" for error in row["test_mae"])
    estimate, low, high = row["difference"]
    verdict = "tie" if low <= 0 <= high else "better" if high < 0 else "worse"
    against = "" if vectors == baseline else f"{estimate:+.3g} [{low:+.3g}, {high:+.3g}] {verdict}"
    values = f"{row['mean']:.4g} [{row['interval'][0]:.4g}, {row['interval'][1]:.4g}]"
    return f"| {name} ({row['unit']}) | {vectors} | {each} | {values} | {row['twin_free']:.4g} | {against} |"


def main() -> None:
    """Print the table; write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs' folders")
    parser.add_argument("--baseline", default="onehot92", help="vectors that the others are compared with")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks/results/downstream_jarvis.json")
    args = parser.parse_args()
    groups: dict[tuple[str, str, int], list[Finished]] = defaultdict(list)
    for folder in sorted(path.parent for path in args.runs.glob(f"*/{RUN_JSON}")):
        if (run := read(folder)) is not None:
            vectors = run.config["vectors"]
            shown = "/".join(Path(vectors).parts[-3:-1]) if "/" in vectors else vectors
            groups[run.results["property"], shown, run.results["epochs"]].append(run)
    rows = {}
    print("| property | vectors | test MAE of each seed | mean [95 %] | without twins | against the baseline |")
    print("| --- | --- | --- | --- | ---: | --- |")
    for (name, vectors, epochs), runs in sorted(groups.items()):
        row = summarize(runs, groups[name, args.baseline, epochs])
        print(line(name, f"{vectors}", row, args.baseline))
        rows[f"{name}, {vectors}, {epochs} epochs"] = row
    args.results.write_text(json.dumps(rows, indent=1, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()
