"""Place many short labels at points so that no two overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from crysatom.figures.style import GRAY

Array = NDArray[np.float64]

# Above a point first, then to the right, left and below, as cartographers prefer; then the angles between.
_ANGLES = np.deg2rad([90, 0, 180, 270, 45, 135, 315, 225, *np.arange(15, 360, 15)])
_RINGS = np.arange(0.0, 10.0, 0.5)
_ALONG_LINE = np.linspace(0.1, 1.0, 8)[:, None]


def place_labels(points: Array, sizes: Array, *, gap: float) -> Array:
    """Return the centers of N labels: each as near its point as possible, crowded points first.

    A center is possible if the label covers no other label, no point and no line from a label to its point, and its own
    line crosses no label. If none is, the label stays above its point.

    Args:
        points: ``(N, 2)``, in pixels.
        sizes: ``(N, 2)``, widths and heights of the labels, in pixels.
        gap: Free space around a label and around a point, in pixels.

    """
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    crowd = (distance < 3 * sizes.max()).sum(axis=1)
    centers = np.full_like(points, np.nan)
    occupied = points
    for i in np.argsort(-crowd, kind="stable"):
        placed = ~np.isnan(centers[:, 0])
        labels = centers[placed], sizes[placed]
        rings = _candidates(points[i], sizes[i], gap)
        # A generator: nearly every label fits in one of the first rings
        fitting = (
            ring[fits] for ring in rings if (fits := _fits(ring, points[i], sizes[i], labels, occupied, gap)).any()
        )
        centers[i] = next(fitting, rings[0])[0]
        occupied = np.concatenate([occupied, _line(points[i], centers[i])])
    return centers


def label_points(
    axes: Axes, points: Array, symbols: Sequence[str], inks: Sequence[tuple[float, float, float]], *, fontsize: float
) -> None:
    """Write each symbol beside its point; draw a line between them if they are far apart.

    Args:
        axes: Axes with all points drawn; everything else that takes space in the figure must exist already.
        points: ``(N, 2)``, in data coordinates.
        symbols: N symbols.
        inks: N colors.
        fontsize: Font size, in points.

    """
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes of a figure"
    figure.draw_without_rendering()  # pixel coordinates are known only after this
    pixels = axes.transData.transform(points)
    texts = [
        axes.text(x, y, symbol, fontsize=fontsize, color=color, ha="center", va="center", zorder=4)
        for (x, y), symbol, color in zip(points, symbols, inks, strict=True)
    ]
    extents = [text.get_window_extent() for text in texts]
    sizes = np.array([(box.width, box.height) for box in extents])
    scale = figure.dpi / 72
    centers = place_labels(pixels, sizes, gap=fontsize / 3.2 * scale)
    to_data = axes.transData.inverted().transform
    for text, point, center, size in zip(texts, pixels, centers, sizes, strict=True):
        text.set_position(tuple(to_data(center)))
        if np.hypot(*(center - point)) > 1.5 * fontsize * scale:
            x, y = to_data([point, line_end(point, center, size)]).T
            axes.plot(x, y, color=GRAY, linewidth=0.5, zorder=2)


def line_end(point: Array, center: Array, size: Array) -> Array:
    """Return the point where the line from a point to the center of its label meets the label's border."""
    offset = point - center
    share = (size / 2 / np.maximum(np.abs(offset), 1e-9)).min()
    end: Array = center + min(share, 1.0) * offset
    return end


def _candidates(point: Array, size: Array, gap: float) -> Array:
    """Return ``(rings, K, 2)`` centers around a point, nearest ring first; that ring's labels touch the point."""
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    reach = (size / 2 + 1.5 * gap) / np.maximum(np.abs(directions), 1e-9)
    touching = directions * reach.min(axis=1, keepdims=True)
    candidates: Array = point + touching[None] + _RINGS[:, None, None] * size[1] * directions[None]
    return candidates


def _fits(
    centers: Array, point: Array, size: Array, labels: tuple[Array, Array], occupied: Array, gap: float
) -> NDArray[np.bool_]:
    """Return ``(K,)``: whether the label of a point fits at each of the centers ``(K, 2)``."""
    others, their_sizes = labels
    covers_label = _inside(others - centers[:, None], (their_sizes + size) / 2 + gap / 2)
    covers_point = _inside(occupied - centers[:, None], size / 2 + gap)
    lines = _line(point, centers[:, None])
    crosses = _inside(lines[:, :, None] - others, their_sizes / 2).any(axis=-1)
    return ~(covers_label | covers_point | crosses)


def _line(point: Array, center: Array) -> Array:
    """Return points along the line from a point to its label, without the part inside the label."""
    line: Array = point + _ALONG_LINE * 0.6 * (center - point)
    return line


def _inside(offset: Array, reach: Array) -> NDArray[np.bool_]:
    """Return ``(...)``: whether any of the offsets ``(..., N, 2)`` lies within reach in both directions."""
    inside: NDArray[np.bool_] = np.any(np.all(np.abs(offset) < reach, axis=-1), axis=-1)
    return inside
