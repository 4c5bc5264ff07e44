"""Runs of predictors side by side: ``python benchmarks/predictor_curves.py RUN ...``.

Reads folders of finished runs of jobs/downstream.py on the same crystals, prints a table, and keeps it as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).parent / "results"
SHOWN = (1 / 6, 1 / 3, 2 / 3, 1.0)
"""Parts of a training after which its validation error is shown."""


def facts(folder: Path) -> dict[str, Any]:
    """Return what a run was, how it went, and what it cost."""
    note = json.loads((folder / "run.json").read_text())
    if not note["finished"]:
        sys.exit(f"error: {folder} is not finished")
    results = json.loads((folder / "results.json").read_text())
    history = pd.read_csv(folder / "history.csv")
    epochs = len(history)
    metrics = results["metrics"]
    return {
        "predictor": note["config"]["predictor"],
        "vectors": note["config"]["vectors"],
        "data_digest": note["data_digest"],
        "epochs": epochs,
        "seconds": round(float(history["seconds"].sum())),
        "unit": results["unit"],
        "val_mae": {n: round(float(history["val/mae"][n - 1]), 3) for n in (round(epochs * k) for k in SHOWN)},
        "train_mae": round(float(history["train/mae"].iloc[-1]), 3),
        "best_val_mae": round(metrics["val_selected/mae"], 3),
        "test_mae": [round(metrics[f"test/{name}"], 3) for name in ("mae", "mae_low", "mae_high")],
    }


def row(found: Mapping[str, Any]) -> str:
    """Return a line of the table."""
    curve = ", ".join(f"{mae:.1f} ({epoch})" for epoch, mae in found["val_mae"].items())
    mae, low, high = found["test_mae"]
    vectors = Path(found["vectors"]).parent.name if "/" in found["vectors"] else found["vectors"]
    return (
        f"| {found['predictor']} | {vectors} | {found['epochs']} | {found['seconds']:,} | {curve} | "
        f"{found['train_mae']:.1f} | {found['best_val_mae']:.2f} | {mae:.2f} [{low:.2f}, {high:.2f}] |"
    )


def main() -> None:
    """Print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--note", default="", help="what the crystals are, and what else the machine was doing")
    arguments = parser.parse_args()
    found = [facts(folder) for folder in arguments.runs]
    unit = found[0]["unit"]
    heads = ("predictor", "vectors", "epochs", "seconds", "validation MAE (after epoch)", "training MAE")
    print("| " + " | ".join((*heads, "best validation", "test")) + " |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | --- |")
    for one in found:
        print(row(one))
    result = {"runs": found, "unit": unit, "note": arguments.note, "date": time.strftime("%Y-%m-%d")}
    (RESULTS / "predictor_curves.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
