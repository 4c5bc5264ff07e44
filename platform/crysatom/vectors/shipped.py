"""Tables that this package ships: a folder of ``box/`` each, with ``vectors.safetensors`` and a card.

``tools/box.py`` adds a table. Other files are made from it by :func:`~crysatom.vectors.files.write_vectors`.
"""

from __future__ import annotations

from pathlib import Path

from crysatom.vectors.files import VECTORS_SAFETENSORS, read_vectors
from crysatom.vectors.table import AtomVectors

BOX = Path(__file__).parent / "box"


def shipped_names() -> tuple[str, ...]:
    """Return the names of the shipped tables, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in BOX.glob(f"*/{VECTORS_SAFETENSORS}")))


def shipped_vectors(name: str) -> AtomVectors:
    """Return a shipped table; its provenance has data, license, command, commit and evidence.

    Args:
        name: One of :func:`shipped_names`.

    """
    return read_vectors(BOX / name)
