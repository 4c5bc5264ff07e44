"""Table of the costs of runs, with the paper's figures beside them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from crysatom import text_tables
from crysatom.crystals.csv_files import csv_rows
from crysatom.studies.grid.costs import Cost, cost
from crysatom.studies.grid.design import Grid
from crysatom.studies.grid.results import Cell

_COSTS = {
    "epochs": "epochs",
    "seconds_per_epoch": "s per epoch",
    "training_seconds": "training, s",
    "test_seconds": "testing, s",
    "megabytes": "trained numbers, MB",
    "memory_megabytes": "largest memory, MB",
}


HOW = (
    "Means over runs. An epoch (median) is training and validation; testing is the prediction of the test crystals, "
    "graphs in memory; memory is the largest of the process, or of its GPU, at the end of an epoch. The paper's "
    "figures are of an A6000 and an A100. Runs side by side on one machine slow each other down."
)


def markdown(grid: Grid, costs: Mapping[str, Sequence[Cost]]) -> str:
    """Return the table as Markdown: means over runs, the paper's figures beside them."""
    rows = []
    for key, some in costs.items():
        paper = (grid.costs or {}).get(key, {})
        texts = [
            _number(_mean(some, name)) + (f" (paper {_number(paper[name])})" if name in paper else "")
            for name in _COSTS
        ]
        hardware = "; ".join(sorted({one.hardware for one in some}))
        rows.append([grid.columns[key].label, *texts, hardware])
    return text_tables.markdown(["", *_COSTS.values(), "hardware"], rows, "l" + "r" * len(_COSTS) + "l")


def comma_separated(costs: Mapping[str, Sequence[Cost]]) -> str:
    """Return the table as CSV, one line per run."""
    return csv_rows(
        [{"column": key, **json_values(dataclasses.asdict(one))} for key, some in costs.items() for one in some]
    )


def latex(grid: Grid, costs: Mapping[str, Sequence[Cost]]) -> str:
    """Return the table as LaTeX."""
    rows = [[grid.columns[key].label, *(_number(_mean(some, name)) for name in _COSTS)] for key, some in costs.items()]
    return text_tables.latex(["", *_COSTS.values()], rows, "l" + "r" * len(_COSTS))


def costs_of(cell: Cell) -> list[Cost]:
    """Return the cost of each run of a cell."""
    return [cost(run.folder) for run in cell.runs]


def _mean(some: Sequence[Cost], name: str) -> float:
    return sum(float(getattr(one, name)) for one in some) / len(some)


def _number(value: float) -> str:
    if math.isnan(value):
        return "not measured"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with None for NaN, which JSON lacks."""
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}
