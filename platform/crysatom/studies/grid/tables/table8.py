"""Measured formation energies, learned from calculated ones: the paper's Table 8."""

from __future__ import annotations

import dataclasses

from crysatom.config import GridConfig
from crysatom.config.checks import require
from crysatom.config.downstream import COLUMN
from crysatom.crystals.measured import CALCULATED, FOLDS, folds_of
from crysatom.studies.grid.common import JARVIS, figures
from crysatom.studies.grid.design import Grid, Row
from crysatom.studies.grid.tables import table5

CALCULATED_ONLY = "calculated only"
MEASURED_ONLY = "80 % measured only"
FINE_TUNED = {1: "calculated, then 20 % measured", FOLDS - 1: "calculated, then 80 % measured"}
"""Rows by the number of folds that are learned from."""

_FINE_TUNING = {"lr": 1e-3, "epochs": 50}
"""A third of the default rate, since the model is trained already."""

FIGURES = {
    "cgcnn": ((0.265, 0.144, 0.094), (0.241, 0.111, 0.072)),
    "crysxpp": ((0.243, 0.138, 0.087), (0.222, 0.115, 0.071)),
    "alignn": ((0.220, 0.099, 0.073), (0.212, 0.093, 0.068)),
    "matformer": ((0.218, 0.098, 0.072), (0.213, 0.094, 0.069)),
    "potnet": ((0.217, 0.097, 0.070), (0.211, 0.093, 0.067)),
}
"""Without and with CrysAtom's vectors: of all rows but the one that learns from measured values only."""


def grid() -> Grid:
    """Return the columns of Table 5, with rows by what is learned from."""
    rows_in_paper = tuple(f"{JARVIS[0]} {label}" for label in (CALCULATED_ONLY, *FINE_TUNED.values()))
    columns = {}
    for key, column in table5.grid().columns.items():
        paper = FIGURES.get(column.predictor, ((), ()))[key != column.predictor]
        columns[key] = dataclasses.replace(column, paper=figures(rows_in_paper, paper) if paper else {})
    return Grid(
        title="Measured formation energies, learned from calculated ones (Table 8)",
        columns=columns,
        properties=JARVIS[:1],
        note="No calculated value of a measured compound is learned from, whatever its structure. Rows with measured "
        "values are of five folds: every compound is judged once, by a model that was trained on calculated values and "
        "then on measured ones of one or four other folds; the paper trains on both, and judges the rest of one split.",
        rows=_rows,
        measured=True,
    )


def _rows(config: GridConfig) -> list[Row]:
    require(
        not config.train_fraction,
        f"{config.study} has shares of its own, of measured compounds: leave train_fraction out",
    )
    return [row for name in config.properties for row in _rows_of(name)]


def _rows_of(name: str) -> list[Row]:
    calculated = Row(property=name, label=CALCULATED_ONLY, settings={"split": f"{COLUMN}{CALCULATED}"})

    def folds(learned: int) -> tuple[dict[str, str], ...]:
        return tuple({"split": f"{COLUMN}{column}"} for column in folds_of(learned))

    fine_tuned = [
        Row(property=name, label=label, settings=_FINE_TUNING, folds=folds(learned), start=calculated.key)
        for learned, label in FINE_TUNED.items()
    ]
    return [calculated, Row(property=name, label=MEASURED_ONLY, folds=folds(FOLDS - 1)), *fine_tuned]
