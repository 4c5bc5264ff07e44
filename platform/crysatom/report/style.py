"""How all figures look: sizes for a journal page, colors that color-blind readers can tell apart."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#666666"
"""Of Okabe and Ito's set (Wong, Nature Methods 8, 441 (2011))."""

COLUMN_INCHES, PAGE_INCHES = 3.5, 7.2
"""Width of one column and of a page."""

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
"""Color and marker of each family of elements; colors after Paul Tol's muted scheme, and the marker
says it again for those who see them differently."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that lays itself out; it belongs to no window."""
    return Figure(figsize=(width, height), layout="constrained")


def ink(color: str) -> tuple[float, float, float]:
    """Return a color mixed with black, dark enough to read as small text on white."""
    red, green, blue = to_rgb(color)
    return 0.6 * red, 0.6 * green, 0.6 * blue


def clean(axes: Axes) -> None:
    """Leave out what carries no information: the upper and right frame; set small ticks and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
