"""Write tables of studies into a page: ``python benchmarks/results_page.py docs/results.md FOLDER ...``.

Replaces the text below the marker and keeps the text above, which is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path

MARKER = "<!-- Below: written by benchmarks/results_page.py from the folders of studies. -->"
WIDTH = 120

OF_THE_MACHINE = r" --(out|tracking-uri)=\S+| --finished( (?!--)\S+)+"
"""Flags of a study's command that name folders of a machine and do not change results."""


def main(page: Path, folders: list[Path]) -> None:
    """Replace the text below the marker by the tables of the studies, each with its command."""
    text, marker, _ = page.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        sys.exit(f"error: {page} has no line {MARKER!r}; add it above the tables")
    tables = [_section((folder / "table.md").read_text(encoding="utf-8")) for folder in folders]
    page.write_text("\n\n".join([f"{text}{MARKER}", *tables]) + "\n", encoding="utf-8")


def _section(table: str) -> str:
    """Return a study's table.md, one heading level down, with long lines wrapped."""
    return "\n".join(map(_wrapped, f"#{re.sub(OF_THE_MACHINE, '', table).rstrip()}".splitlines()))


def _wrapped(line: str) -> str:
    if line.startswith(("|", "#")):
        return line
    if not line.startswith("    "):
        return textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False)
    words = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace(" ", "\0"), line.strip())
    lines = textwrap.wrap(words, WIDTH - len("        ") - len(" \\"), break_long_words=False, break_on_hyphens=False)
    return "    " + " \\\n        ".join(lines).replace("\0", " ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("page", type=Path, help="page with the marker")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of finished studies")
    given = parser.parse_args()
    main(given.page, given.folders)
