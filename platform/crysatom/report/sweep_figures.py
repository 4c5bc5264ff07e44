"""Figure of a sweep: each trial is a line through its settings to its objective."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from crysatom.figures.style import BLUE, GRAY, hover, is_wide, new_figure
from crysatom.names import PROBE
from crysatom.report.overview import Sweep

MOST_TICKS = 6
"""A numeric setting with more values than this gets round ticks instead of one tick per value."""


def parallel_coordinates(sweep: Sweep, objective: str) -> Figure:
    """Draw the ranked trials; the best one is thick and drawn last.

    Args:
        sweep: Sweep with at least two ranked trials.
        objective: Label of the objective.

    """
    trials = sweep.ranked
    columns = [[trial.params.get(name, "") for trial in trials] for name in sweep.searched]
    values = [trial.metrics[PROBE] for trial in trials]
    figure = new_figure(1.5 * len(columns) + 1.6, 2.8)
    axes = figure.add_subplot()
    heights = [_draw_setting(axes, place, texts) for place, texts in enumerate(columns)]
    heights.append(_draw_axis(axes, len(columns), np.array(values)))
    for k in reversed(range(len(trials))):
        color, width, alpha = (BLUE, 2.4, 1.0) if k == 0 else (GRAY, 1.2, 0.45)
        [line] = axes.plot([column[k] for column in heights], color=color, lw=width, alpha=alpha)
        hover(line, f"{trials[k].name}: {values[k]:.4g}")
    axes.set_xticks(range(len(heights)), [*sweep.searched, objective], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, len(columns) + 0.5)
    return figure


def _draw_setting(axes: Axes, place: int, texts: Sequence[str]) -> list[float]:
    """Draw the axis of a setting, numbers to scale and texts sorted; return the trials' heights."""
    distinct = sorted(set(texts))
    numbers = [_number(text) for text in texts]
    if len(distinct) > 1 and not any(map(math.isnan, numbers)):
        return _draw_axis(axes, place, np.array(numbers), distinct if len(distinct) <= MOST_TICKS else ())
    at = {text: k / (len(distinct) - 1) if len(distinct) > 1 else 0.5 for k, text in enumerate(distinct)}
    _draw_ticks(axes, place, {text or "(not set)": height for text, height in at.items()})
    return [at[text] for text in texts]


def _draw_axis(axes: Axes, place: int, values: np.ndarray, texts: Sequence[str] = ()) -> list[float]:
    low, high = float(values.min()), float(values.max())
    scale = (LogNorm if is_wide(values) else Normalize)(low, high if high > low else low + 1)
    locator = LogLocator(subs=(1, 2, 5)) if is_wide(values) else MaxNLocator(4)
    ticks = {text: float(text) for text in texts} or {f"{t:g}": t for t in locator.tick_values(low, high)}
    _draw_ticks(axes, place, {text: float(scale(t)) for text, t in ticks.items() if low <= t <= high})
    return [float(scale(value)) for value in values]


def _draw_ticks(axes: Axes, place: int, heights: dict[str, float]) -> None:
    axes.axvline(place, color=GRAY, lw=0.8)
    for text, height in heights.items():
        words = axes.annotate(text, (place, height), xytext=(4, 2), textcoords="offset points", fontsize=8)
        words.set_in_layout(False)  # a long label must not shrink the axes


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
