"""Tables of text for people: Markdown and LaTeX. Numbers go into CSV, with all their digits."""

from __future__ import annotations

import pandas as pd

_LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\^{}"}


def markdown(frame: pd.DataFrame) -> str:
    """Return a table of texts in Markdown, its index as the first column."""
    header = [str(frame.index.name or ""), *map(str, frame.columns)]
    rows = [header, ["---"] * len(header), *([str(i), *map(str, row)] for i, row in _rows(frame))]
    return "\n".join(f"| {' | '.join(map(markdown_text, row))} |" for row in rows) + "\n"


def latex(frame: pd.DataFrame, caption: str) -> str:
    """Return a table of texts in LaTeX (package booktabs), its index as the first column."""
    header = " & ".join(latex_text(text) for text in [str(frame.index.name or ""), *map(str, frame.columns)])
    lines = [" & ".join(latex_text(str(text)) for text in (i, *row)) for i, row in _rows(frame)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\begin{{tabular}}{{l{'c' * len(frame.columns)}}}",
            r"\toprule",
            rf"{header} \\",
            r"\midrule",
            *(rf"{line} \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _rows(frame: pd.DataFrame) -> list[tuple[object, list[object]]]:
    return list(zip(frame.index, frame.to_numpy().tolist(), strict=True))


def markdown_text(text: str) -> str:
    """Return a text as a cell of a table in Markdown: on one line, without bars and without HTML."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", r"\|")


def latex_text(text: str) -> str:
    """Return a text on one line as LaTeX prints it: none of it is a command."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
