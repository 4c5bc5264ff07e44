"""Two-dimensional maps of atom vectors by principal components, t-SNE and UMAP, colored by group, block or period."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from crysatom.figures.label_placement import label_points
from crysatom.figures.style import PAGE_INCHES, clean, ink, new_figure
from crysatom.vectors.elements import element_table
from crysatom.vectors.geometry import principal_components
from crysatom.vectors.table import AtomVectors

Array = NDArray[Any]

INSTALL = 'pip install "crysatom[report]"'

Fact = Literal["group", "block", "period"]

BLOCK_STYLES = {"s": ("#D55E00", "o"), "p": ("#0072B2", "s"), "d": ("#009E73", "^"), "f": ("#CC79A7", "D")}
"""Color (Okabe and Ito) and marker of each block; all maps use the markers."""

NO_GROUP = "#aaaaaa"
"""Color of the f block."""

PERPLEXITY = 10
MAP_NEIGHBORS = 10
"""Parameters of t-SNE and UMAP. The usual 30 and 15 are too large for some 80 elements: nothing local is left."""


class Panel(NamedTuple):
    """One map: ``(M, 2)`` positions of the elements, and labels of the axes."""

    positions: Array
    x: str
    y: str


def component_panels(table: AtomVectors) -> list[Panel]:
    """Return maps of components 1 and 2 and, if they exist, 3 and 4."""
    scores, explained = principal_components(table.vectors, 4)
    labels = [f"Component {i} ({100 * share:.0f}% of variance)" for i, share in enumerate(explained, start=1)]
    starts = range(0, scores.shape[1] - 1, 2)
    return [Panel(scores[:, i : i + 2], labels[i], labels[i + 1]) for i in starts]


def neighbor_panels(table: AtomVectors, seed: int) -> list[Panel]:
    """Return maps by t-SNE (van der Maaten, Hinton, JMLR 9, 2579 (2008)) and UMAP (McInnes et al., arXiv 1802.03426).

    In both, sizes of clusters and distances between them mean nothing.

    Raises:
        ValueError: If scikit-learn or umap-learn is not installed.

    """
    require_map_packages()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        warnings.filterwarnings("ignore", "n_jobs value", UserWarning)  # a fixed seed implies one thread, as intended
        from sklearn.manifold import TSNE
        from umap import UMAP

        count = len(table.symbols)
        tsne = TSNE(perplexity=min(PERPLEXITY, (count - 1) / 3), init="pca", random_state=seed)
        umap = UMAP(n_neighbors=min(MAP_NEIGHBORS, count - 1), random_state=seed)
        positions = [np.asarray(how.fit_transform(table.vectors), dtype=np.float64) for how in (tsne, umap)]
    return [Panel(place, f"{name} 1", f"{name} 2") for name, place in zip(("t-SNE", "UMAP"), positions, strict=True)]


def require_map_packages() -> None:
    """Check that the packages of t-SNE and UMAP are installed, before any work is done.

    Raises:
        ValueError: If scikit-learn or umap-learn is not installed.

    """
    import importlib.util

    missing = [name for name in ("sklearn", "umap") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"t-SNE and UMAP need scikit-learn and umap-learn: {INSTALL}; --maps components does without")


def draw_maps(title: str, panels: Sequence[Panel], table: AtomVectors, fact: Fact) -> Figure:
    """Draw maps side by side, with the symbol at each element.

    Args:
        title: Title above the maps.
        panels: One or two maps.
        table: Vectors of the elements.
        fact: Property that sets the color; the marker shows the block.

    """
    figure = new_figure(PAGE_INCHES, 4.6)
    figure.suptitle(title, fontsize=9)
    styles = [_style(int(z), fact) for z in table.atomic_numbers]
    for i, panel in enumerate(panels):
        _draw(figure.add_subplot(1, len(panels), i + 1), panel, styles)
    handles = _legend(fact, table)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 10),
        fontsize=7,
        frameon=False,
        handletextpad=0.1,
        columnspacing=0.9,
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the axes must not move after labels are placed
    for axes, panel in zip(figure.axes, panels, strict=True):
        label_points(axes, panel.positions, table.symbols, [ink(color) for color, _ in styles], fontsize=6)
    return figure


def _draw(axes: Axes, panel: Panel, styles: Sequence[tuple[str, str]]) -> None:
    for style in sorted(set(styles)):
        x, y = panel.positions[[i for i, other in enumerate(styles) if other == style]].T
        axes.scatter(x, y, s=14, c=style[0], marker=style[1], lw=0.3, edgecolors="white", zorder=3)
    clean(axes)
    axes.tick_params(labelsize=7)
    axes.margins(0.06)
    axes.set_xlabel(panel.x, fontsize=8)
    axes.set_ylabel(panel.y, fontsize=8)


def _style(atomic_number: int, fact: Fact) -> tuple[str, str]:
    facts = element_table()[atomic_number]
    color, marker = BLOCK_STYLES[facts["block"]]
    return (color if fact == "block" else _shade(facts[fact], fact)), marker


def _shade(value: str, fact: Fact) -> str:
    """Return the color of a group or period from a sequential map, without its palest end, which is lost on white."""
    if not value:
        return NO_GROUP
    place = (int(value) - 1) / {"group": 17, "period": 6}[fact]
    name = {"group": "turbo", "period": "viridis"}[fact]
    return to_hex(to_rgb(mpl.colormaps[name](0.03 + 0.9 * place)[:3]))


def _legend(fact: Fact, table: AtomVectors) -> list[Line2D]:
    facts = [element_table()[int(z)] for z in table.atomic_numbers]
    if fact == "block":
        shown = [(f"{block} block", *BLOCK_STYLES[block]) for block in BLOCK_STYLES]
        return [_handle(*entry) for entry in shown]
    values = sorted({int(f[fact]) for f in facts if f[fact]})
    shown = [(f"{fact} {value}", _shade(str(value), fact), "o") for value in values]
    if not all(f[fact] for f in facts):
        shown.append(("f block", NO_GROUP, BLOCK_STYLES["f"][1]))
    return [_handle(*entry) for entry in shown]


def _handle(label: str, color: str, marker: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=color, markeredgecolor="white", markersize=5, label=label)
