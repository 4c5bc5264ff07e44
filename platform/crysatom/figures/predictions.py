"""Figures of a trained predictor: learning curves and parity plots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from crysatom.figures.style import BLUE, COLUMN_INCHES, GRAY, ORANGE, clean, hover, new_figure, set_scale
from crysatom.names import MAE, TRAIN, VAL

MANY = 2000
"""Number of points above which a density is drawn instead of a scatter plot."""

WORST = 5
"""Number of largest errors whose crystals are named in tooltips."""


def learning_curve(history: pd.DataFrame, selected_epoch: int, unit: str) -> Figure:
    """Draw training and validation MAE against the epoch, and mark the selected epoch.

    Args:
        history: One row per epoch, in order, with the columns ``train/mae`` and ``val/mae``.
        selected_epoch: Selected epoch, from 0.
        unit: Unit of the property.

    """
    return learning_curves([("", history.reset_index(drop=True), selected_epoch)], unit)


def learning_curves(runs: Sequence[tuple[str, pd.DataFrame, int | None]], unit: str) -> Figure:
    """Draw the learning curves of several runs, like :func:`learning_curve`.

    Args:
        runs: Name, history (indexed by epoch, with the columns that the run logged) and selected epoch, if known.
        unit: Unit of the property.

    """
    lines = {TRAIN: (BLUE, "-", "training"), VAL: (ORANGE, "--", "validation")}
    figure = new_figure(COLUMN_INCHES, 2.6)
    axes = figure.add_subplot()
    drawn = []
    for name, history, selected in runs:
        before = f"{name}, " if name else ""
        for split, (color, style, label) in lines.items():
            values = history.get(f"{split}/{MAE}", pd.Series(dtype=float)).dropna()
            marker = "o" if len(values) <= 20 else None
            epochs = values.index + 1
            [line] = axes.plot(epochs, values, color=color, linestyle=style, marker=marker, ms=3, lw=1.4, label=label)
            hover(line, f"{before}{label}")
            drawn.append(values.to_numpy(dtype=float))
            if split == VAL and selected is not None and selected in values.index:
                best = float(values[selected])
                kept = f"kept: epoch {selected + 1}" if len(runs) == 1 else "kept"
                [ring] = axes.plot([selected + 1], [best], "o", mfc="none", mec=ORANGE, ms=8, label=kept)
                hover(ring, f"{before}kept, epoch {selected + 1}: {best:.4g}")
    set_scale(axes, np.concatenate(drawn))
    clean(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("Epoch", fontsize=9)
    axes.set_ylabel(with_unit("Mean absolute error", unit), fontsize=9)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=8, frameon=False)
    return figure


def parity_plot(
    target: NDArray[np.floating],
    prediction: NDArray[np.floating],
    *,
    label: str,
    unit: str,
    remark: str = "",
    ids: Sequence[str] = (),
) -> Figure:
    """Draw predictions against targets, with the identity line.

    Args:
        target: ``(n,)``.
        prediction: ``(n,)``.
        label: Name of the property.
        unit: Unit of the property.
        remark: Text in a corner, for example the error.
        ids: ``(n,)`` ids of the crystals; if given, rings mark the largest errors and name the crystal in a tooltip.

    """
    figure = new_figure(COLUMN_INCHES, COLUMN_INCHES)
    axes = figure.add_subplot()
    low, high = float(min(target.min(), prediction.min())), float(max(target.max(), prediction.max()))
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    if len(target) > MANY:
        axes.hexbin(
            target, prediction, gridsize=60, bins="log", mincnt=1, extent=limits * 2, cmap="Blues", rasterized=True
        )
    else:
        axes.scatter(target, prediction, s=9, c=BLUE, alpha=0.5, lw=0, rasterized=True)
    axes.plot(limits, limits, color=GRAY, lw=0.8)
    for i in np.argsort(-np.abs(prediction - target), kind="stable")[: WORST if len(ids) else 0]:
        [ring] = axes.plot(target[i], prediction[i], "o", mfc=(*to_rgb(BLUE), 0.1), mec=BLUE, ms=7)
        hover(ring, f"{ids[i]}: target {target[i]:.4g}, prediction {prediction[i]:.4g} {unit}")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    clean(axes)
    axes.set_xlabel(with_unit(f"{label}, target", unit), fontsize=9)
    axes.set_ylabel(with_unit("Prediction", unit), fontsize=9)
    axes.text(0.04, 0.96, remark, transform=axes.transAxes, va="top", fontsize=8)
    return figure


def with_unit(label: str, unit: str) -> str:
    """Return a label with the unit in parentheses, if there is one."""
    written = unit.replace("angstrom", "Å").replace("^3", "³")
    return f"{label} ({written})" if unit else label
