"""Figures of a trained predictor: how its error fell, and how its predictions lie about the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from crysatom.names import MAE, TRAIN, VAL
from crysatom.report.style import BLUE, COLUMN_INCHES, GRAY, ORANGE, clean, new_figure

MANY = 2000
"""Points from which a scatter plot is a blot, and a density is drawn instead."""


def learning_curve(history: pd.DataFrame, selected_epoch: int, unit: str) -> Figure:
    """Draw the mean absolute error against epoch, training and validation, with the selected epoch marked.

    Args:
        history: One row per epoch, in order, with the columns ``train/mae`` and ``val/mae``.
        selected_epoch: Counted from 0.
        unit: Of the property.

    """
    figure = new_figure(COLUMN_INCHES, 2.6)
    axes = figure.add_subplot()
    lines = ((TRAIN, BLUE, "-", "training"), (VAL, ORANGE, "--", "validation"))
    for split, color, style, label in lines:
        values = history[f"{split}/{MAE}"].to_numpy(dtype=float)
        marker = "o" if len(values) <= 20 else None
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, color=color, linestyle=style, marker=marker, ms=3, lw=1.4, label=label)
    best = float(history[f"{VAL}/{MAE}"].iloc[selected_epoch])
    axes.plot(
        [selected_epoch + 1], [best], "o", mfc="none", mec=ORANGE, ms=8, label=f"kept: epoch {selected_epoch + 1}"
    )
    clean(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("Epoch", fontsize=9)
    axes.set_ylabel(with_unit("Mean absolute error", unit), fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


def parity_plot(
    target: NDArray[np.floating], prediction: NDArray[np.floating], *, label: str, unit: str, remark: str
) -> Figure:
    """Draw predictions against targets, with the line on which they would be perfect.

    Args:
        target: ``(n,)``.
        prediction: ``(n,)``.
        label: What is predicted.
        unit: Of both.
        remark: Shown in a corner: the error.

    """
    figure = new_figure(COLUMN_INCHES, COLUMN_INCHES)
    axes = figure.add_subplot()
    low, high = float(min(target.min(), prediction.min())), float(max(target.max(), prediction.max()))
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    if len(target) > MANY:
        axes.hexbin(target, prediction, gridsize=60, bins="log", mincnt=1, extent=limits * 2, cmap="Blues")
    else:
        axes.scatter(target, prediction, s=9, c=BLUE, alpha=0.5, lw=0)
    axes.plot(limits, limits, color=GRAY, lw=0.8)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    clean(axes)
    axes.set_xlabel(with_unit(f"{label}, target", unit), fontsize=9)
    axes.set_ylabel(with_unit("Prediction", unit), fontsize=9)
    axes.text(0.04, 0.96, remark, transform=axes.transAxes, va="top", fontsize=8)
    return figure


def with_unit(label: str, unit: str) -> str:
    """Return a label with its unit, if there is one, as people write it."""
    written = unit.replace("angstrom", "Å").replace("^3", "³")
    return f"{label} ({written})" if unit else label
