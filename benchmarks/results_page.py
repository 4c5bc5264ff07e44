"""Write tables of studies below the text of a page: ``python benchmarks/results_page.py docs/results.md FOLDER ...``.

What stands above the marker in the page is written by hand and kept.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MARKER = "<!-- Below: written by benchmarks/results_page.py from the folders of studies. -->"


OF_THE_MACHINE = r" --(out|tracking-uri)=\S+| --finished( (?!--)\S+)+"
"""Flags of a study's command that say where its author kept things, not what was computed."""


def main(page: Path, folders: list[Path]) -> None:
    """Replace what is below the marker by the tables of the studies, each with its command."""
    text, marker, _ = page.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        sys.exit(f"error: {page} has no line {MARKER!r}; add it where the tables are to begin")
    tables = [re.sub(OF_THE_MACHINE, "", (folder / "table.md").read_text(encoding="utf-8")) for folder in folders]
    page.write_text(
        "\n\n".join([f"{text}{MARKER}", *(f"#{table.rstrip()}" for table in tables)]) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
