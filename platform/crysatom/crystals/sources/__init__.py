"""Where crystals come from: one reader per kind of source, chosen by prefix or file name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from crysatom.crystals.quarantine import Rejected
from crysatom.crystals.raw import Raw
from crysatom.crystals.sources.base import CIF_SUFFIXES, KNOWN_SOURCES, Source
from crysatom.crystals.sources.listed import is_poscar

__all__ = ["Source", "open_source", "read_source", "require_source"]

_PREFIXES = {
    "aflow": ("crysatom.crystals.sources.embedded", "open_aflow"),
    "jarvis": ("crysatom.crystals.sources.online", "open_jarvis"),
    "mp": ("crysatom.crystals.sources.online", "open_materials_project"),
}

_SUFFIXES = {
    ".parquet": ("crysatom.crystals.sources.parquet", "open_parquet"),
    ".json": ("crysatom.crystals.sources.records", "open_json"),
    ".json.gz": ("crysatom.crystals.sources.records", "open_json"),
    ".jsonl": ("crysatom.crystals.sources.records", "open_json_lines"),
    ".jsonl.gz": ("crysatom.crystals.sources.records", "open_json_lines"),
    **dict.fromkeys(CIF_SUFFIXES, ("crysatom.crystals.sources.folder", "open_cif")),
}

_POSCAR = ("crysatom.crystals.sources.folder", "open_poscar")
_FOLDER = ("crysatom.crystals.sources.folder", "open_folder")
_ANY_OTHER = ("crysatom.crystals.sources.ase_files", "open_ase")
_PICKLES = (".pkl", ".pickle", ".pckl", ".pkl.gz", ".p")


def open_source(source: str) -> Source:
    """Return the reader of a source; records are read only as they are asked for.

    Args:
        source: A prefix and a name (``aflow:prototypes``), a folder or a file.

    Raises:
        ValueError: If there is no such source, it is not readable at all, or it is a pickle.

    """
    require_source(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _load(_FOLDER)(str(path))
    if not path.exists():
        prefix, _, name = source.partition(":")
        return _load(_PREFIXES[prefix])(name)
    if path.name.lower().endswith(_PICKLES):
        raise ValueError(
            f"{source}: pickles are not read, since reading one runs whatever code is in it; save the "
            "structures as .json or .parquet"
        )
    kind = next((entry for suffix, entry in _SUFFIXES.items() if path.name.lower().endswith(suffix)), None)
    kind = kind or (_POSCAR if is_poscar(path) else _ANY_OTHER)
    return _load(kind)(str(path))


def require_source(source: str) -> None:
    """Tell by its name alone whether there can be such a source: before libraries are loaded or processes started.

    Raises:
        ValueError: If it is no file, no folder, and has no prefix of a source that is not a file.

    """
    prefix, colon, _ = source.partition(":")
    path = Path(source).expanduser()
    if not (path.is_dir() or path.is_file() or (colon and prefix in _PREFIXES)):
        raise ValueError(f"source {source!r} does not exist; known are {KNOWN_SOURCES}")


def read_source(source: str) -> Iterator[Raw | Rejected]:
    """Yield every record of a source, in its order: raw ones, and those that could not even be taken out.

    Raises:
        ValueError: As :func:`open_source`.

    """
    yield from open_source(source).records()


def _load(entry: tuple[str, str]) -> Callable[[str], Source]:
    module, function = entry
    opener: Callable[[str], Source] = getattr(import_module(module), function)
    return opener
