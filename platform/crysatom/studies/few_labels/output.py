"""Output of the study: tables as Markdown, LaTeX and CSV, and figures of the differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crysatom.crystals.csv_files import csv_rows
from crysatom.figures.style import BLUE, COLUMN_INCHES, GRAY, ORANGE, PAGE_INCHES, clean, new_figure
from crysatom.names import PROPERTIES
from crysatom.studies.few_labels.statistics import Result, Task
from crysatom.studies.grid.statistics import BETTER, TIE, WORSE
from crysatom.studies.significance import ALPHA
from crysatom.text_tables import Raw, latex, latex_text, markdown, markdown_text
from crysatom.writing import write_figure, write_text

HOW = (
    "First row: mean absolute error of the baseline, mean ± sample standard deviation over draws. Other rows: "
    "difference from it in percent of its error, mean over draws, paired by draw, ± half of the 95 % t interval over "
    "draws (seeds averaged). Below it, in brackets: 95 % bootstrap interval of the same difference over evaluated "
    "crystals, for the trainings at hand. `*`: the t interval does not hold 0. `**`: nor after Holm's correction; the "
    f"probability of any false `**` in the whole study is at most {ALPHA:.0%}. All labels are one draw, without a t "
    "interval: there the marks are of the crystals. `(n)`: only n draws are finished."
)
TABLE = "table"

_COLORS = {BETTER: BLUE, TIE: GRAY, WORSE: ORANGE}


class Page(NamedTuple):
    """What the page of a study says beside its results.

    Attributes:
        title: First line.
        command: Command that repeats the study.
        made_by: Date, versions and hardware.
        notes: Sentences below the tables.

    """

    title: str
    command: str
    made_by: str
    notes: Sequence[str]


def write_results(folder: Path, results: Sequence[Result], page: Page, draws: int) -> list[Path]:
    """Write the files of the study; return them. Existing files are replaced.

    Args:
        folder: Folder of the study.
        results: All results.
        page: Text of the page.
        draws: Number of draws that were asked for.

    """
    blocks = _blocks(results)
    lines = [f"# {markdown_text(page.title)}", "", f"    {page.command}", "", f"{page.made_by}."]
    tex = [f"% {' '.join(page.title.split())}. * resolved, ** also after Holm's correction"]
    for label, block in blocks.items():
        header, rows = _rows(block, draws, "<br>")
        lines += ["", f"## {markdown_text(label)}", "", markdown(header, [[r[0], *map(Raw, r[1:])] for r in rows])]
        header, rows = _rows(block, draws, "")
        tex += [f"% {label}", latex(header, [[r[0], *map(_latex_cell, r[1:])] for r in rows])]
    lines += [
        "",
        HOW,
        "",
        count_sentence(results),
        *(text for note in page.notes for text in ("", markdown_text(note))),
    ]
    texts = {f"{TABLE}.md": "\n".join(lines) + "\n", f"{TABLE}.tex": "\n".join(tex)}
    texts[f"{TABLE}.csv"] = csv_rows([facts(result) for result in results])
    for name, text in texts.items():
        write_text(folder / name, text)
    files = [folder / name for name in texts]
    for number, (label, block) in enumerate(blocks.items()):
        if (figure := forest_plot(block, label)) is not None:
            for suffix in ("png", "pdf"):
                path = folder / f"figure{f'-{number + 1}' if len(blocks) > 1 else ''}.{suffix}"
                write_figure(path, figure)
                files.append(path)
    return files


def count_sentence(results: Sequence[Result]) -> str:
    """Return the sentence that says how much was tried."""
    compared = [r.comparison for r in results if r.comparison is not None]
    tables, tasks = {r.table for r in results}, {r.task for r in results}
    resolved = sum(c.verdict != TIE for c in compared)
    corrected = sum(c.verdict_corrected != TIE for c in compared)
    return (
        f"{len(compared)} comparisons ({len(tables)} tables, {len(tasks)} tasks); everything tried in this study is in "
        f"the table. {resolved} are resolved, {corrected} of them after Holm's correction."
    )


def facts(result: Result) -> dict[str, object]:
    """Return the numbers of a result for the CSV file."""
    first = next(iter(result.cells.values()))
    c = result.comparison
    percent, crystals = (None, None) if c is None else (c.percent, c.crystals_percent)
    return {
        **result.task._asdict(),
        "table": result.table,
        "vectors": first.vectors,
        "power": " ".join(sorted({f"{cell.power:g}" for cell in result.cells.values()}, key=float)),
        "unit": result.unit,
        "evaluated": first.evaluated,
        "mae": result.mean,
        "deviation": _known(result.deviation),
        "draws": len({draw for draw, _ in result.cells}),
        "cells": len(result.cells),
        "paired_draws": c and c.draws,
        "baseline_mae": c and c.baseline,
        "difference": c and c.difference.estimate,
        "low": c and _known(c.difference.low),
        "high": c and _known(c.difference.high),
        "percent": percent and percent.estimate,
        "percent_low": percent and _known(percent.low),
        "percent_high": percent and _known(percent.high),
        "crystals_percent_low": crystals and _known(crystals.low),
        "crystals_percent_high": crystals and _known(crystals.high),
        "basis": c and c.basis,
        "p_value": c and _known(c.p_value),
        "p_holm": c and _known(c.p_holm),
        "verdict": c and c.verdict,
        "verdict_corrected": c and c.verdict_corrected,
    }


def forest_plot(block: Sequence[Result], label: str) -> Figure | None:
    """Draw the differences of a block with their intervals over draws, a panel per property, a table per row.

    Filled: resolved; open: resolved, but not after Holm's correction; gray: not resolved. Thin: over crystals.

    Args:
        block: Results that differ in property and table only.
        label: Title of the figure.

    """
    compared = [r for r in block if r.comparison is not None]
    if not compared:
        return None
    names = list(dict.fromkeys(r.table for r in compared))
    properties = list(dict.fromkeys(r.task.property for r in compared))
    across = min(2, len(properties))
    down = -(-len(properties) // across)
    width = PAGE_INCHES if across > 1 else COLUMN_INCHES + 1
    figure = new_figure(width, down * (0.75 + 0.22 * len(names)) + 0.4)
    figure.suptitle(label, fontsize=9)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for index, axes in enumerate(panels.flat):
        if index >= len(properties):
            axes.set_visible(False)
            continue
        _draw(axes, [r for r in compared if r.task.property == properties[index]], names)
        axes.set_title(_label(properties[index]), fontsize=9, loc="left")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        if index + across >= len(properties):
            axes.set_xlabel("Difference from baseline (% of its MAE)", fontsize=9)
    return figure


def _draw(axes: Axes, results: Sequence[Result], names: Sequence[str]) -> None:
    axes.axvline(0, color=GRAY, lw=0.8)
    for result in results:
        c = result.comparison
        assert c is not None, "only compared results are drawn"
        place, color = names.index(result.table), _COLORS[c.verdict]
        if c.crystals_percent is not None:
            axes.plot(c.crystals_percent[1:], [place + 0.22] * 2, color=color, lw=0.6)
        axes.plot(c.percent[1:], [place, place], color=color, lw=1.4)
        face = color if c.verdict_corrected == c.verdict else "white"
        axes.plot(c.percent.estimate, place, "o", ms=5, color=color, mfc=face, zorder=3)
    clean(axes)
    axes.grid(visible=False, axis="y")


def _blocks(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results by predictor, number of labels and elements held out."""
    blocks: dict[str, list[Result]] = {}
    for result in results:
        blocks.setdefault(block_label(result.task), []).append(result)
    return blocks


def block_label(task: Task) -> str:
    """Return the title of a block."""
    held = "" if task.held_out == "none" else f", held out: {task.held_out}"
    return f"{task.predictor}, {f'{task.labels:,}' if task.labels else 'all'} labels{held}"


def _rows(block: Sequence[Result], draws: int, brk: str) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of a block: a row per table, a column per property; intervals of crystals if ``brk``."""
    by_place: Mapping[tuple[str, str], Result] = {(r.table, r.task.property): r for r in block}
    properties = list(dict.fromkeys(r.task.property for r in block))
    units = {r.task.property: r.unit for r in block}
    tables = list(dict.fromkeys(r.table for r in block))
    header = ["table", *(_label(name) + (f" ({units[name]})" if units[name] else "") for name in properties)]
    return header, [
        [table, *(_cell(by_place.get((table, name)), draws, brk) for name in properties)] for table in tables
    ]


def _cell(result: Result | None, draws: int, brk: str) -> str:
    if result is None:
        return "-"
    c = result.comparison
    wanted = draws if result.task.labels else 1
    if c is None:
        spread = "" if math.isnan(result.deviation) else f" ± {result.deviation:.2g}"
        return f"{result.mean:.4g}{spread}{_few(len({draw for draw, _ in result.cells}), wanted)}"
    mark = "**" if c.verdict_corrected != TIE else "*" if c.verdict != TIE else ""
    half = (c.percent.high - c.percent.low) / 2
    spread = "" if math.isnan(half) else f" ± {half:.1f}"
    text = f"{c.percent.estimate:+.1f}{spread} %{_few(c.draws, wanted)} {_escaped(mark)}".rstrip()
    crystals = c.crystals_percent
    return text + (f"{brk}[{crystals.low:+.1f}, {crystals.high:+.1f}]" if crystals is not None and brk else "")


def _latex_cell(text: str) -> Raw:
    return Raw(latex_text(text.replace("\\", "")).replace("±", r"$\pm$"))


def _few(draws: int, wanted: int) -> str:
    return "" if draws == wanted else f" ({draws})"


def _escaped(mark: str) -> str:
    return "".join(f"\\{character}" for character in mark)


def _label(name: str) -> str:
    return PROPERTIES[name].label if name in PROPERTIES else name


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
