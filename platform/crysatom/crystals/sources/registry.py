"""The kinds of source, each with the function that opens it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from crysatom.crystals.sources.base import CIF_SUFFIXES, Source
from crysatom.crystals.sources.listed import is_poscar


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of source: of a file or folder if it says which, else of something that has no path.

    Attributes:
        name: As it is written in ``docs/ingest.md``; of what has no path it begins with its prefix and a colon.
        opener: Module in this folder, and its function from a path, or from what follows the prefix, to a
            :class:`Source`. The module is imported when the first source of the kind is opened: one may need a package
            that others do not.
        accepts: Whether a file or folder is of this kind; None: the source is no file or folder.
        known: How messages name the kind; empty: another kind names it.

    """

    name: str
    opener: str
    accepts: Callable[[Path], bool] | None = None
    known: str = ""

    def argument(self, source: str) -> str | None:
        """Return what the opener is called with, or None if the source is not of this kind."""
        path = Path(source).expanduser()
        if self.accepts is None:
            prefix, colon, rest = source.partition(":")
            return rest if colon and prefix == self.name.partition(":")[0] and not path.exists() else None
        return str(path) if (path.is_file() or path.is_dir()) and self.accepts(path) else None

    def open(self, argument: str) -> Source | None:
        """Open a source; None: its content is of no kind that the opener reads."""
        module, _, function = self.opener.partition(":")
        opener: Callable[[str], Source | None] = getattr(import_module(f"{__package__}.{module}"), function)
        return opener(argument)


def ending(*suffixes: str) -> Callable[[Path], bool]:
    """Accept paths by the ends of their names, in any case."""
    return lambda path: path.name.lower().endswith(suffixes)


KINDS: tuple[Kind, ...] = (
    Kind(name="aflow:prototypes", opener="embedded:open_aflow", known="aflow:prototypes"),
    Kind(name="jarvis:DATASET", opener="online:open_jarvis", known="jarvis:DATASET"),
    Kind(name="mp:QUERY", opener="online:open_materials_project", known="mp:QUERY"),
    Kind(name="folder", opener="folder:open_folder", accepts=Path.is_dir, known="a folder of CIFs"),
    Kind(
        name=".parquet",
        opener="parquet:open_parquet",
        accepts=ending(".parquet"),
        known="a crystal table (.parquet)",
    ),
    Kind(
        name=".json",
        opener="records:open_json",
        accepts=ending(".json", ".json.gz"),
        known="pymatgen structures (.json, .jsonl, also .gz)",
    ),
    Kind(name=".jsonl", opener="records:open_json_lines", accepts=ending(".jsonl", ".jsonl.gz")),
    Kind(
        name=".cif",
        opener="folder:open_cif",
        accepts=ending(*CIF_SUFFIXES),
        known="a .cif or .mcif (also .gz, .bz2, .xz)",
    ),
    Kind(name="POSCAR", opener="folder:open_poscar", accepts=is_poscar),
    Kind(
        name=".xyz",
        opener="ase_files:open_ase",
        accepts=Path.is_file,
        known="a file that ASE reads (.xyz, .db, .traj, POSCAR, ...)",
    ),
)
"""In order of precedence: a source is opened by the first kind that accepts it. The last one takes any file."""


def kind_of(source: str) -> tuple[Kind, str]:
    """Return the kind of a source, by its name alone, and what its opener is called with.

    Raises:
        ValueError: If it is no file, no folder, and has no prefix of a source that is not a file.

    """
    for kind in KINDS:
        if (argument := kind.argument(source)) is not None:
            return kind, argument
    raise ValueError(f"source {source!r} does not exist; known are {known_sources()}")


def known_sources() -> str:
    """Return the kinds of source, for messages."""
    *others, last = [kind.known for kind in KINDS if kind.known]
    return f"{', '.join(others)}, or {last}"
