"""Style of all figures: sizes for a journal page, and colors that color-blind readers can distinguish."""

from __future__ import annotations

from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#666666"
"""Colors of Okabe and Ito (Wong, Nature Methods 8, 441 (2011))."""

HOVER = "hover: "
"""Prefix of the ``gid`` of an artist with a tooltip (:func:`hover`)."""

COLUMN_INCHES, PAGE_INCHES = 3.5, 7.2
"""Width of one column and of a page of a journal."""

FAMILY_STYLES: dict[str, tuple[str, str]] = {
    "alkali metal": ("#882255", "o"),
    "alkaline earth": ("#CC6677", "s"),
    "transition metal": ("#4477AA", "o"),
    "lanthanide": ("#44AA99", "^"),
    "actinide": ("#117733", "v"),
    "post-transition metal": ("#88CCEE", "D"),
    "metalloid": ("#999933", "P"),
    "nonmetal": ("#000000", "o"),
    "halogen": ("#DDAA33", "X"),
    "noble gas": ("#888888", "*"),
}
"""Color (after Paul Tol's muted scheme) and marker of each family of elements; the marker alone suffices."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with constrained layout, without a window; width and height in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def hover(artist: Artist, text: str) -> None:
    """Give an artist a tooltip in the report's page; PNG files ignore it."""
    artist.set_gid(f"{HOVER}{text}")


def is_wide(values: NDArray[Any]) -> bool:
    """Return whether values are positive and vary by more than a factor of ten, so that they get a logarithmic axis."""
    return len(values) > 0 and bool(values.min() > 0 and values.max() > 10 * values.min())


def set_scale(axes: Axes, values: NDArray[Any]) -> None:
    """Make the vertical axis logarithmic if the values are wide."""
    if is_wide(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def ink(color: str) -> tuple[float, float, float]:
    """Return a color darkened for small text on white."""
    red, green, blue = to_rgb(color)
    return 0.6 * red, 0.6 * green, 0.6 * blue


def clean(axes: Axes) -> None:
    """Remove the upper and right frame; set small ticks and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
