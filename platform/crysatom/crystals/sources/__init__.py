"""Sources of crystals: one reader per kind of source, chosen by prefix or file name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from crysatom.crystals.quarantine import Rejected
from crysatom.crystals.record import Record
from crysatom.crystals.sources.base import Source
from crysatom.crystals.sources.registry import kind_of, known_sources

__all__ = ["Source", "open_source", "read_source", "require_source"]

_PICKLES = (".pkl", ".pickle", ".pckl", ".pkl.gz", ".p")


def open_source(source: str) -> Source:
    """Return the reader of a source; records are read lazily.

    Args:
        source: A prefix and a name (``aflow:prototypes``), a folder or a file.

    Raises:
        ValueError: If there is no such source, it cannot be read, or it is a pickle.

    """
    kind, argument = kind_of(source)
    path = Path(source).expanduser()
    if path.is_file() and path.name.lower().endswith(_PICKLES):
        raise ValueError(
            f"{source}: pickles are not read, since reading one runs whatever code is in it; save the "
            "structures as .json or .parquet"
        )
    opened = kind.open(argument)
    if opened is None:
        raise ValueError(
            f"{argument}: neither ASE nor anything else here reads this kind of file; known are {known_sources()}"
        )
    return opened


def require_source(source: str) -> None:
    """Check that a source exists by its name alone, before libraries are loaded or processes started.

    Raises:
        ValueError: If it is neither a file nor a folder, and has no known prefix.

    """
    kind_of(source)


def read_source(source: str) -> Iterator[Record | Rejected]:
    """Yield every record of a source, in order: raw records, and rejections of those that could not be extracted.

    Raises:
        ValueError: See :func:`open_source`.

    """
    yield from open_source(source).records()
