"""Figures of a study: differences from the baseline, or errors against the share of labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from crysatom.figures.predictions import with_unit
from crysatom.figures.style import BLUE, COLUMN_INCHES, GRAY, ORANGE, PAGE_INCHES, clean, new_figure
from crysatom.names import PROPERTIES
from crysatom.studies.grid.design import Grid
from crysatom.studies.grid.results import Cell
from crysatom.studies.grid.statistics import BETTER, TIE, WORSE

_COLORS = {BETTER: BLUE, TIE: GRAY, WORSE: ORANGE}
_LINES = ("#000000", BLUE, "#009E73", ORANGE, "#CC79A7", "#E69F00", "#56B4E9", GRAY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Colors of Okabe and Ito. Markers differ too, for readers who do not see the colors."""


def forest_plot(grid: Grid, cells: Sequence[Cell]) -> Figure | None:
    """Draw differences from the baseline with intervals, in percent of the baseline's error; None without any.

    A panel per row of the study. Filled: resolved; open: resolved, but not after the correction for all comparisons of
    the study; gray: not resolved.

    Args:
        grid: The study.
        cells: Its cells.

    """
    compared = [c for c in cells if c.comparison is not None]
    if not compared:
        return None
    rows = list({c.row.key: c.row for c in compared}.values())
    keys = [key for key in grid.columns if any(c.column == key for c in compared)]
    across = min(2, len(rows))
    down = -(-len(rows) // across)
    figure = new_figure(PAGE_INCHES if across > 1 else COLUMN_INCHES + 1, down * (0.75 + 0.22 * len(keys)) + 0.2)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for index, axes in enumerate(panels.flat):
        if index >= len(rows):
            axes.set_visible(False)
            continue
        row = rows[index]
        _draw_row(axes, keys, [c for c in compared if c.row.key == row.key])
        label = PROPERTIES[row.property].label if row.property in PROPERTIES else row.property
        axes.set_title(f"{label}{f', {row.label}' if row.label else ''}", fontsize=9, loc="left")
        axes.set_yticks(range(len(keys)), [grid.columns[key].label for key in keys], fontsize=8)
        axes.set_ylim(len(keys) - 0.5, -0.5)
        if index + across >= len(rows):
            axes.set_xlabel("Difference from baseline (% of its MAE)", fontsize=9)
    return figure


def _draw_row(axes: Axes, keys: Sequence[str], cells: Sequence[Cell]) -> None:
    axes.axvline(0, color=GRAY, lw=0.8)
    for cell in cells:
        assert cell.comparison is not None, "only compared cells are drawn"
        difference, verdict = cell.comparison.difference, cell.comparison.verdict
        percent = 100 / cell.comparison.baseline
        place, color = keys.index(cell.column), _COLORS[verdict]
        axes.plot([difference.low * percent, difference.high * percent], [place, place], color=color, lw=1.4)
        filled = cell.verdict_corrected == verdict
        face = color if filled else "white"
        axes.plot(difference.estimate * percent, place, "o", ms=5, color=color, mfc=face, zorder=3)
    clean(axes)
    axes.grid(visible=False, axis="y")


def curves(grid: Grid, cells: Sequence[Cell]) -> Figure:
    """Draw the test error against the share of the training crystals, a panel per property, a line per column.

    Bars are intervals over test crystals.

    Args:
        grid: The study.
        cells: Its cells; their rows have a share.

    """
    names = list(dict.fromkeys(c.row.property for c in cells))
    across = min(2, len(names))
    down = -(-len(names) // across)
    figure = new_figure(PAGE_INCHES if across > 1 else COLUMN_INCHES + 1, 2.6 * down)
    panels = figure.subplots(down, across, squeeze=False)
    shares = sorted({c.row.share for c in cells})
    keys = [key for key in grid.columns if any(c.column == key for c in cells)]
    for index, axes in enumerate(panels.flat):
        if index >= len(names):
            axes.set_visible(False)
            continue
        mine = [c for c in cells if c.row.property == names[index]]
        for place, key in enumerate(keys):
            line = sorted((c for c in mine if c.column == key), key=lambda c: c.row.share)
            if line:
                _draw_curve(axes, line, place, len(keys), grid.columns[key].label)
        label = PROPERTIES[names[index]].label if names[index] in PROPERTIES else names[index]
        axes.set_title(label, fontsize=9, loc="left")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(shares)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        low, high = axes.get_ylim()
        if high < 10 * low:  # less than a decade may hold no tick
            axes.set_yticks([float(f"{tick:.1g}") for tick in np.geomspace(low, high, 6)[1:-1]])
        axes.yaxis.set_minor_formatter(NullFormatter())
        clean(axes)
        axes.set_xlabel("Share of training crystals (%)", fontsize=9)
        axes.set_ylabel(with_unit("Test MAE", mine[0].unit), fontsize=9)
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def _draw_curve(axes: Axes, line: Sequence[Cell], place: int, count: int, label: str) -> None:
    # side by side, so that bars do not hide each other
    x = np.array([c.row.share for c in line]) * 1.03 ** (place - (count - 1) / 2)
    y = np.array([c.mean for c in line])
    bars = np.abs(np.array([[c.interval.low, c.interval.high] for c in line]).T - y)
    color, marker = _LINES[place % len(_LINES)], _MARKERS[place % len(_MARKERS)]
    axes.errorbar(x, y, yerr=bars, color=color, marker=marker, ms=4, lw=1.2, elinewidth=0.8, label=label)
