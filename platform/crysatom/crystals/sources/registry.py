"""The table of source kinds: how each is recognized, and which function opens it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from crysatom.crystals.sources.base import CIF_SUFFIXES, Source
from crysatom.crystals.sources.listed import is_poscar


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of source: files or folders, or what is named by a prefix (``mp:SiO2``).

    Attributes:
        name: Its name in ``docs/ingest.md``. That of a prefix kind starts with the prefix and a colon.
        opener: ``module:function``, a module of this folder. The function takes the path, or what follows the prefix,
            and returns a :class:`Source`; None if it does not know the content. The module is imported on first use:
            it may need a package that others do not.
        accepts: Tells whether a file or folder is of this kind; None for a prefix kind.
        known: Text for error messages that list what can be read; empty if another kind's text covers it.

    """

    name: str
    opener: str
    accepts: Callable[[Path], bool] | None = None
    known: str = ""

    def argument(self, source: str) -> str | None:
        """Return the argument of the opener; None if the source is not of this kind."""
        path = Path(source).expanduser()
        if self.accepts is None:
            prefix, colon, rest = source.partition(":")
            return rest if colon and prefix == self.name.partition(":")[0] and not path.exists() else None
        return str(path) if (path.is_file() or path.is_dir()) and self.accepts(path) else None

    def open(self, argument: str) -> Source | None:
        """Open a source; None if the opener does not know the content."""
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
"""The first kind that accepts a source opens it. The last one accepts any file."""


def kind_of(source: str) -> tuple[Kind, str]:
    """Return the kind of a source and the argument of its opener, without opening anything.

    Raises:
        ValueError: If it is no file, no folder, and has no known prefix.

    """
    for kind in KINDS:
        if (argument := kind.argument(source)) is not None:
            return kind, argument
    raise ValueError(f"source {source!r} does not exist; known are {known_sources()}")


def known_sources() -> str:
    """Return the list of what can be read, for error messages."""
    *others, last = [kind.known for kind in KINDS if kind.known]
    return f"{', '.join(others)}, or {last}"
