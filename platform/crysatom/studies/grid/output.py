"""Output of a study: its table as Markdown, CSV and LaTeX, all numbers as JSON, and a figure."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crysatom import text_tables
from crysatom.config import GridConfig, recorded
from crysatom.config.flags import flags_of
from crysatom.crystals.csv_files import csv_rows
from crysatom.names import MAE, PROPERTIES, TEST
from crysatom.studies.grid import cost_table
from crysatom.studies.grid.cost_table import costs_of, json_values
from crysatom.studies.grid.design import Grid, Row
from crysatom.studies.grid.figures import curves, forest_plot
from crysatom.studies.grid.results import Cell
from crysatom.studies.significance import ALPHA
from crysatom.text_tables import Raw, markdown_text
from crysatom.writing import write_figure, write_text

HOW = (
    "Test MAE: mean ± sample standard deviation over runs (seeds and, for random vectors, draws) [95 % bootstrap "
    "interval over test crystals, errors averaged over runs]. Second line: difference from the baseline, paired "
    "bootstrap over test crystals [95 %]; 'resolved' where the interval does not hold 0; '(Holm: ...)' is the verdict "
    f"that is left when any false one in the whole table is to have a probability of {ALPHA:.0%}. Intervals are of the "
    "test crystals, not of seeds or of the choice of training crystals."
)
FIGURE_PNG = "figure.png"
PAPER = "The paper's figures are of one seed, selected by the test error, on other splits: for orientation only."

CELLS_JSON, TABLE, TABLE_CSV = "cells.json", "table", "table.csv"


def write_study(
    folder: Path,
    grid: Grid,
    cells: Sequence[Cell],
    gaps: Mapping[str, Mapping[str, str]],
    *,
    config: GridConfig,
    made_by: Mapping[str, str],
) -> tuple[list[Path], dict[str, float]]:
    """Write the files of a study; return them, and its metrics for MLflow.

    Args:
        folder: Folder of the study; existing files are replaced.
        grid: The study.
        cells: Cells with at least one finished run, in the order of rows and columns. Without any, only ``cells.json``
            is written.
        gaps: ``missing``: what cannot be computed, with the reason; ``failed``: failed runs, with the reason.
        config: Configuration of the study.
        made_by: Date; versions, commit and hardware by the names of MLflow's tags.

    """
    folder.mkdir(parents=True, exist_ok=True)
    costs = {c.column: costs_of(c) for c in cells} if grid.costs is not None else {}
    facts = {
        "title": grid.title,
        "note": grid.note,
        "command": f"python jobs/study.py {' '.join(flags_of(config, 'study'))}",
        "config": recorded(config),
        "made_by": dict(made_by),
        **{what: dict(why) for what, why in gaps.items()},
        "columns": {key: column.label for key, column in grid.columns.items()},
        "cells": [
            {
                **c.facts(),
                "of": [
                    {
                        "folder": str(r.folder),
                        "run_id": r.run_id,
                        "seed": r.seed,
                        "vectors": r.config.vectors.vectors,
                        **r.identity._asdict(),
                        "earlier_version": r.earlier,
                        "test_mae": r.metrics[f"{TEST}/{MAE}"],
                    }
                    for r in c.runs
                ],
            }
            for c in cells
        ],
        "costs": {key: [json_values(dataclasses.asdict(one)) for one in some] for key, some in costs.items()},
    }
    texts = {CELLS_JSON: json.dumps(facts, indent=1) + "\n"}
    if cells:
        table = cost_table.markdown(grid, costs) if costs else markdown(grid, cells)
        how = cost_table.HOW if costs else HOW
        texts[f"{TABLE}.md"] = _page(grid, f"{table}\n{how}", cells, gaps, facts)
        texts[TABLE_CSV] = cost_table.comma_separated(costs) if costs else csv_rows([c.facts() for c in cells])
        texts[f"{TABLE}.tex"] = cost_table.latex(grid, costs) if costs else latex(grid, cells)
    files = []
    for name, text in texts.items():
        write_text(folder / name, text)
        files.append(folder / name)
    if cells:
        shares = {c.row.share for c in cells}
        figure = curves(grid, cells) if len(shares) > 1 else forest_plot(grid, cells)
        if figure is not None:
            for name in (FIGURE_PNG, "figure.pdf"):
                write_figure(folder / name, figure)
                files.append(folder / name)
    return files, {f"{TEST}_{MAE}/{_metric_name(c)}": c.mean for c in cells}


def markdown(grid: Grid, cells: Sequence[Cell]) -> str:
    """Return the table as Markdown, laid out as in the paper: a row per property, a column per method."""
    by_place = {(c.row.key, c.column): c for c in cells}
    columns = [key for key in grid.columns if any(c.column == key for c in cells)]
    rows = [
        [_label(row, _unit(cells, row)), *(Raw(_cell_text(by_place.get((row.key, key)))) for key in columns)]
        for row in _rows(cells)
    ]
    return text_tables.markdown(["", *(grid.columns[key].label for key in columns)], rows)


def latex(grid: Grid, cells: Sequence[Cell]) -> str:
    """Return the table as LaTeX (booktabs); an asterisk marks differences resolved after Holm's correction."""
    by_place = {(c.row.key, c.column): c for c in cells}
    columns = [key for key in grid.columns if any(c.column == key for c in cells)]
    title = " ".join(grid.title.split())
    rows = [
        [_label(row, _unit(cells, row)), *(Raw(_latex_text(by_place.get((row.key, key)))) for key in columns)]
        for row in _rows(cells)
    ]
    note = rf"% {title}. Mean $\pm$ sd over runs; paper's figure in parentheses; * differs from the baseline (Holm)."
    return f"{note}\n" + text_tables.latex(["", *(grid.columns[key].label for key in columns)], rows)


def _page(
    grid: Grid,
    table: str,
    cells: Sequence[Cell],
    gaps: Mapping[str, Mapping[str, str]],
    facts: Mapping[str, Any],
) -> str:
    given = str(facts["config"]["baseline"])
    baselines = sorted({given or grid.columns[c.column].baseline for c in cells if c.comparison})
    made_by = "; ".join(f"{name.removeprefix('version.')} {value}" for name, value in facts["made_by"].items())
    lines = [f"# {markdown_text(grid.title)}", "", f"    {facts['command']}", "", f"{made_by}.", "", table]
    if baselines:
        lines += ["", f"Baselines: {markdown_text(', '.join(grid.columns[key].label for key in baselines))}."]
    lines += ["", PAPER] if any(column.paper for column in grid.columns.values()) else []
    lines += ["", grid.note] if grid.note else []
    if incomplete := [c for c in cells if not c.complete]:
        names = ", ".join(f"{c.row.key}/{c.column} ({len(c.runs)} of {c.wanted})" for c in incomplete)
        lines += ["", f"Not all runs are finished: {names}."]
    if earlier := {r.folder.name for c in cells for r in c.runs if r.earlier}:
        lines += [
            "",
            f"{len(earlier)} runs are of an earlier version; settings that it did not know have today's defaults.",
        ]
    for what, why in gaps.items():
        if why:
            lines += [
                "",
                f"{what.capitalize()}:",
                "",
                *(f"- {markdown_text(name)}: {markdown_text(reason)}" for name, reason in why.items()),
            ]
    return "\n".join(lines) + "\n"


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    spread = "" if math.isnan(cell.deviation) else f" ± {cell.deviation:.2g}"
    text = f"{cell.mean:.4g}{spread} {cell.interval.ends()}"
    text += "" if cell.complete else f", {len(cell.runs)} of {cell.wanted} runs"
    text += "" if math.isnan(cell.paper) else f" (paper {cell.paper:.4g})"
    if (c := cell.comparison) is not None:
        d = c.difference
        holm = "" if cell.verdict_corrected == c.verdict else f" (Holm: {cell.verdict_corrected})"
        text += f"<br>{d.estimate:+.3g} {d.ends('+.3g')}, {-c.gain:+.1%}, {c.verdict}{holm}"
    return text


def _latex_text(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    spread = "" if math.isnan(cell.deviation) else rf" \pm {cell.deviation:.2g}"
    resolved = cell.comparison is not None and cell.verdict_corrected == cell.comparison.verdict != "not resolved"
    paper = "" if math.isnan(cell.paper) else f" ({cell.paper:.4g})"
    return f"${cell.mean:.4g}{spread}{'^{*}' if resolved else ''}${paper}"


def _rows(cells: Sequence[Cell]) -> list[Row]:
    return list({c.row.key: c.row for c in cells}.values())


def _label(row: Row, unit: str) -> str:
    name = PROPERTIES[row.property].label if row.property in PROPERTIES else row.property
    return f"{name}{f', {row.label}' if row.label else ''}{f' ({unit})' if unit else ''}"


def _unit(cells: Sequence[Cell], row: Row) -> str:
    return next(c.unit for c in cells if c.row.key == row.key)


def _metric_name(cell: Cell) -> str:
    """Return a name that MLflow accepts for a metric."""
    text = f"{cell.row.key}/{cell.column}"
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in text)
