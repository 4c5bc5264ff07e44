"""Inline SVG of matplotlib figures: text stays text, and artists marked by ``hover`` get tooltips."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from crysatom.figures.style import HOVER

_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "crysatom", "text.parse_math": False}
"""Write text as text, not as paths or formulas; write the same SVG for the same figure."""

_WORDS = re.compile(rf'<g id="{HOVER}([^"]*)">')
_OTHER_ID = re.compile(r'<g id="[^"]*">')  # repeated in every figure and unused
_GEOMETRY = re.compile(r'(?<= )(?:d|x|y|transform)="[^"]*"')
_DIGITS = re.compile(r"\d+\.\d{3,}")
_FONTS = re.compile(r"'DejaVu Sans'[^;\"]*")


def inline(draw: Callable[[], Figure], label: str) -> Markup:
    """Return a figure as SVG that shrinks to its container but does not grow beyond its own width.

    Args:
        draw: Returns the figure.
        label: Text for screen readers.

    """
    written = io.StringIO()
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # missing glyphs (the browser has its own fonts) and long labels
        figure = draw()
        figure.savefig(written, format="svg", transparent=True)
    text = written.getvalue()
    body = text[text.index('<g id="figure_') : text.rindex("</svg>")]
    body = _OTHER_ID.sub("<g>", _WORDS.sub(r"<g><title>\1</title>", body))
    body = _GEOMETRY.sub(lambda found: _DIGITS.sub(lambda number: f"{float(number[0]):.2f}", found[0]), body)
    width, height = 72 * figure.get_size_inches()
    drawing = Markup(_FONTS.sub("system-ui, sans-serif", body))  # noqa: S704 - matplotlib escapes all text
    return Markup(
        '<svg class="figure" viewBox="0 0 {0:.1f} {1:.1f}" style="max-width:{0:.0f}pt" role="img" aria-label="{2}">'
        "{3}</svg>"
    ).format(width, height, label, drawing)
