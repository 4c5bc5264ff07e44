"""Output of the chemistry study: tables as text, and a figure of the predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crysatom.figures.style import BLUE, GRAY, ORANGE, PAGE_INCHES, clean, new_figure
from crysatom.names import DISTANCES
from crysatom.studies.chemistry.leave_one_out import METHODS
from crysatom.studies.chemistry.probes import GROUP, NUMBERS
from crysatom.studies.chemistry.study import CLASSES, SPACES, Chemistry
from crysatom.studies.significance import ALPHA
from crysatom.training.intervals import Interval

LABELS = {**{name: label for name, (label, _) in NUMBERS.items()}, GROUP: "Group"}

BY_CHANCE = " (chance)"
"""Suffix of a number that relabeled elements reach in more than 5 % of the draws."""

SIGNS = {"supported": "+", "not supported": "o", "contradicted": "-", "not tested": ""}
"""Verdicts as one character."""


def probe_table(chemistry: Chemistry, method: str) -> pd.DataFrame:
    """Return R2 of numbers and accuracy of groups with 95 % intervals: one row per table, one column per property."""
    rows = chemistry.probes[chemistry.probes["method"] == method]
    cells = {}
    for row in rows.to_dict("records"):
        score = Interval(row["score"], row["score_low"], row["score_high"])
        cells[row["table"], LABELS[row["property"]]] = f"{score.estimate:.2f} {score.ends('.2f')}{_mark(row['p'])}"
    return _arranged(cells, list(chemistry.tables), list(LABELS.values()))


def silhouette_table(chemistry: Chemistry) -> pd.DataFrame:
    """Return silhouettes: one row per table, one column per classification and space."""
    cells = {
        (row["table"], f"{row['classes']}, {row['space']}"): f"{row['silhouette']:.2f}{_mark(row['p'])}"
        for row in chemistry.silhouettes.to_dict("records")
    }
    return _arranged(cells, list(chemistry.tables), [f"{by}, {space}" for by in CLASSES for space in SPACES])


def verdict_table(chemistry: Chemistry) -> pd.DataFrame:
    """Return verdicts: one row per statement, one column per table; in brackets the p-values by each distance."""
    found = chemistry.statements
    cells = {}
    for name in chemistry.tables:
        of_table = found[found["table"] == name]
        for statement, rows in of_table.groupby("statement", sort=False):
            each = ", ".join(
                f"{'+' if row['leans'] == 'for' else '-'}{row['p_holm']:.3f}" for row in rows.to_dict("records")
            )
            verdict = rows["verdict"].iloc[0]
            cells[str(statement), name] = f"{SIGNS[verdict]} ({each})" if SIGNS[verdict] else verdict
    return _arranged(cells, list(dict.fromkeys(found["statement"])), list(chemistry.tables), "statement")


def count_table(chemistry: Chemistry) -> pd.DataFrame:
    """Return the number of statements by verdict: one row per table."""
    once = chemistry.statements[chemistry.statements["distance"] == DISTANCES[0]]
    cells = {
        (name, verdict): str(int(((once["table"] == name) & (once["verdict"] == verdict)).sum()))
        for name in chemistry.tables
        for verdict in SIGNS
    }
    return _arranged(cells, list(chemistry.tables), list(SIGNS))


def overview(chemistry: Chemistry) -> pd.DataFrame:
    """Return the tables that were compared: one row per table, with its elements that another table lacks."""
    cells = {}
    for name, table in chemistry.tables.items():
        cells[name, "dimensions"] = str(table.dim)
        cells[name, "vectors"] = str(table.provenance.get("vectors", ""))
        cells[name, "elements left out"] = " ".join(chemistry.left_out[name])
    return _arranged(cells, list(chemistry.tables), ["vectors", "dimensions", "elements left out"])


def _arranged(
    cells: dict[tuple[str, str], str], rows: list[str], columns: list[str], index: str = "table"
) -> pd.DataFrame:
    content = [[cells.get((row, column), "") for column in columns] for row in rows]
    return pd.DataFrame(content, index=pd.Index(rows, name=index), columns=columns)


def _mark(p: float) -> str:
    return BY_CHANCE if p > ALPHA else ""


def probe_figure(chemistry: Chemistry) -> Figure:
    """Draw scores with intervals, one panel per property; a tick marks the 95 % quantile of relabelings."""
    names = list(chemistry.tables)
    columns = len(LABELS)
    figure = new_figure(PAGE_INCHES * 1.35, 1.1 + 0.24 * len(names))
    places = np.arange(len(names))[::-1]
    for i, (fact, label) in enumerate(LABELS.items()):
        axes = figure.add_subplot(1, columns, i + 1)
        for method, color, marker, shift in zip(METHODS, (BLUE, ORANGE), ("o", "s"), (0.15, -0.15), strict=True):
            rows = chemistry.probes.query("property == @fact and method == @method").set_index("table").loc[names]
            y = places + shift
            score = rows["score"].to_numpy()
            bars = np.abs(rows[["score_low", "score_high"]].to_numpy() - score[:, None]).T
            axes.errorbar(score, y, xerr=bars, fmt=marker, ms=3.5, lw=1, color=color, label=method, zorder=3)
            axes.scatter(rows["chance_95"], y, marker="|", s=22, lw=0.8, color=GRAY, zorder=2)
        clean(axes)
        axes.set_yticks(places, names if i == 0 else [""] * len(names), fontsize=8)
        axes.set_xlim(-0.6, 1.05)
        axes.axvline(0, color=GRAY, lw=0.6)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(label.replace(" (", "\n("), fontsize=8)
        axes.set_xlabel("Accuracy" if fact == GROUP else "R²", fontsize=8)
    handles, texts = figure.axes[0].get_legend_handles_labels()
    tick = figure.axes[0].collections[-1]
    figure.legend(
        [*handles, tick],
        [*texts, "95 % of relabelings"],
        loc="outside lower center",
        ncols=3,
        fontsize=7,
        frameon=False,
    )
    return figure
