"""Figures of a pretraining run: losses, cross-correlation, map of the element vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from crysatom.figures.label_placement import label_points
from crysatom.figures.style import (
    BLUE,
    COLUMN_INCHES,
    FAMILY_STYLES,
    ORANGE,
    PAGE_INCHES,
    clean,
    hover,
    ink,
    new_figure,
    set_scale,
)
from crysatom.names import ALL_LOSS_TERMS, BONDS, CONNECTIVITY, CONTEXT, FEATURES, HELD_OUT, LOSS, MASKING, SSL, TRAIN
from crysatom.vectors.elements import element_table
from crysatom.vectors.geometry import principal_components
from crysatom.vectors.table import AtomVectors

TITLES = {
    LOSS: "Total",
    CONNECTIVITY: "Connectivity reconstruction",
    FEATURES: "Feature reconstruction",
    SSL: "Self-supervised",
    MASKING: "Masked elements",
    CONTEXT: "Context",
    BONDS: "Bond lengths",
}


def loss_curves(history: pd.DataFrame) -> Figure:
    """Draw every loss term against the epoch, one panel per term, with training and held-out losses.

    A term that falls by more than a factor of ten gets a logarithmic axis.

    Args:
        history: One row per epoch (the index), columns ``<split>/<term>``.

    Raises:
        ValueError: If there is no column of a loss term, or no epoch.

    """
    terms = [term for term in ALL_LOSS_TERMS if f"{TRAIN}/{term}" in history or f"{HELD_OUT}/{term}" in history]
    if not terms or history.empty:
        raise ValueError(f"no losses to draw: columns {list(history.columns)}, {len(history)} epochs")
    rows = -(-len(terms) // 2)
    columns = min(len(terms), 2)
    figure = new_figure(COLUMN_INCHES * columns, 2.3 * rows)
    for panel, term in enumerate(terms):
        axes = figure.add_subplot(rows, columns, panel + 1)
        _draw_term(axes, history, term)
        if panel >= len(terms) - columns:
            axes.set_xlabel("Epoch", fontsize=9)
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def cross_correlation(matrix: NDArray[np.floating]) -> Figure:
    """Draw the cross-correlation of the projections of two views; Barlow Twins drives it toward identity.

    Args:
        matrix: ``(P, P)``, entries between -1 and 1.

    Raises:
        ValueError: If it is not square, or smaller than 2 x 2.

    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"a cross-correlation matrix is square and at least 2 x 2, got shape {matrix.shape}")
    diagonal = float(np.diag(matrix).mean())
    off_diagonal = float(np.sqrt(np.mean(matrix[~np.eye(len(matrix), dtype=bool)] ** 2)))
    figure = new_figure(4.6, 3.8)
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_title(f"Diagonal mean {diagonal:.3f}, off-diagonal rms {off_diagonal:.3f}", fontsize=9)
    axes.set_xlabel("Projection component, view B", fontsize=9)
    axes.set_ylabel("Projection component, view A", fontsize=9)
    axes.tick_params(labelsize=8)
    bar = figure.colorbar(image, ax=axes, ticks=[-1, -0.5, 0, 0.5, 1], fraction=0.046, pad=0.03)
    bar.set_label("Cross-correlation", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def has_map(vectors: AtomVectors) -> bool:
    """Return whether there are enough elements (3) and dimensions (2) for a map."""
    return len(vectors.atomic_numbers) >= 3 and vectors.dim >= 2


def vector_map(vectors: AtomVectors) -> Figure:
    """Draw the elements by the two leading principal components of their vectors.

    Raises:
        ValueError: If there are fewer than three elements or only one dimension.

    """
    if not has_map(vectors):
        raise ValueError(
            f"a map needs at least 3 elements and 2 dimensions, got {len(vectors.atomic_numbers)} and {vectors.dim}"
        )
    scores, explained = principal_components(vectors.vectors, 2)
    figure = new_figure(PAGE_INCHES, 6.4)
    axes = figure.add_subplot()
    _draw_points(axes, vectors, scores)
    axes.set_xlabel(f"Principal component 1 ({100 * explained[0]:.0f}% of variance)", fontsize=10)
    axes.set_ylabel(f"Principal component 2 ({100 * explained[1]:.0f}% of variance)", fontsize=10)
    clean(axes)
    axes.margins(0.06)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False, handletextpad=0.3, columnspacing=1.2)
    inks = [ink(FAMILY_STYLES[family][0]) for family in _families(vectors)]
    label_points(axes, scores, vectors.symbols, inks, fontsize=8)
    for index, (text, z) in enumerate(zip(axes.texts, vectors.atomic_numbers, strict=True)):
        facts = element_table()[int(z)]
        sites = "" if vectors.site_counts is None else f", {vectors.site_counts[index]:,} sites"
        place = f"group {facts['group'] or '(f block)'}, period {facts['period']}"
        hover(text, f"{facts['symbol']}: {place}, {facts['family']}{sites}")
    return figure


def _draw_term(axes: Axes, history: pd.DataFrame, term: str) -> None:
    lines = {TRAIN: (BLUE, "-", "training"), HELD_OUT: (ORANGE, "--", "held out")}
    drawn = []
    for split, (color, style, label) in lines.items():
        if f"{split}/{term}" in history:
            values = history[f"{split}/{term}"].dropna()
            marker = "o" if len(values) <= 20 else None
            [line] = axes.plot(
                values.index, values, color=color, linestyle=style, marker=marker, ms=3, lw=1.4, label=label
            )
            hover(line, label)
            drawn.append(values.to_numpy(dtype=float))
    clean(axes)
    set_scale(axes, np.concatenate(drawn))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(TITLES[term], fontsize=9, loc="left")
    axes.set_ylabel("Loss", fontsize=9)


def _families(vectors: AtomVectors) -> NDArray[np.str_]:
    return np.array([element_table()[int(z)]["family"] for z in vectors.atomic_numbers])


def _draw_points(axes: Axes, vectors: AtomVectors, scores: NDArray[np.float64]) -> None:
    families = _families(vectors)
    for family, (color, marker) in FAMILY_STYLES.items():
        chosen = scores[families == family]
        if len(chosen):
            x, y = chosen.T
            axes.scatter(x, y, s=26, c=color, marker=marker, lw=0.4, edgecolors="white", label=family, zorder=3)
