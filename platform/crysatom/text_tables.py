"""Text tables in Markdown and LaTeX. For CSV with numbers in full precision see crystals/csv_files.py.

pandas needs tabulate for Markdown and jinja2 for LaTeX, and does not remove HTML or line breaks from cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

_RULES = {"l": "---", "c": ":---:", "r": "---:"}
_LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\^{}"}
_EXPONENT = re.compile(r"\^(-?\d+)")


class Raw(str):
    """Cell in the markup of its table, written unescaped."""

    __slots__ = ()


def cells(frame: pd.DataFrame) -> tuple[list[object], list[list[object]]]:
    """Return header and rows of a table, with its index as the first column."""
    header = ["" if frame.index.name is None else frame.index.name, *frame.columns]
    return header, [[i, *row] for i, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)]


def markdown(header: Sequence[object], rows: Iterable[Sequence[object]], align: str = "") -> str:
    """Return a table in Markdown, with a newline after each row.

    Args:
        header: Names of the columns.
        rows: Cells: any text, escaped unless :class:`Raw`.
        align: ``l``, ``c`` or ``r`` for each column; default: all ``l``.

    """
    rules = [Raw(_RULES[letter]) for letter in align or "l" * len(header)]
    texts = (map(markdown_text, map(_text, row)) for row in (header, rules, *rows))
    return "".join("|" + "".join(f" {text} |" if text else " |" for text in row) + "\n" for row in texts)


def latex(header: Sequence[object], rows: Iterable[Sequence[object]], align: str = "", caption: str = "") -> str:
    """Return a ``tabular`` for LaTeX's package booktabs; with a caption, a ``table``.

    Args:
        header: Names of the columns.
        rows: Cells: any text, escaped unless :class:`Raw`.
        align: ``l``, ``c`` or ``r`` for each column; default: the first ``l``, all others ``c``.
        caption: Any text, escaped.

    """
    top, *lines = (" & ".join(map(latex_text, map(_text, row))) + r" \\" for row in (header, *rows))
    letters = align or "l" + "c" * (len(header) - 1)
    table = [
        rf"\begin{{tabular}}{{{letters}}}",
        r"\toprule",
        top,
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if caption:
        table = [r"\begin{table}", rf"\caption{{{latex_text(caption)}}}", *table, r"\end{table}"]
    return "\n".join([*table, ""])


def markdown_text(text: str) -> str:
    """Escape a text for a cell of a Markdown table: one line, without bars and HTML."""
    return text if isinstance(text, Raw) else _one_line(text).replace("<", "&lt;").replace("|", r"\|")


def latex_text(text: str) -> str:
    """Escape a text for LaTeX, on one line: it contains no commands, and ``^3`` is an exponent."""
    if isinstance(text, Raw):
        return text
    before, *rest = _EXPONENT.split(_one_line(text))  # text, exponent, text, ...
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return _escaped(before) + "".join(f"$^{e if len(e) == 1 else f'{{{e}}}'}${_escaped(after)}" for e, after in pairs)


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _text(cell: object) -> str:
    return cell if isinstance(cell, str) else str(cell)


def _one_line(text: str) -> str:
    return " ".join(text.split())
