"""Graph shards on disk: Parquet files of flat list columns, one row per crystal, and their manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crysatom.config import GraphSpec
from crysatom.config.checks import require_name
from crysatom.config.files import read_text
from crysatom.crystals.plain_columns import require_plain
from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.graph import GraphArrays, offsets
from crysatom.names import (
    ATOMIC_NUMBERS,
    DEGREE,
    DISTANCE,
    IMAGE,
    MATERIAL_ID,
    MATERIAL_KEY,
    NEIGHBOR,
    POTENTIAL,
    VECTOR,
)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.parquet"

SCHEMA = pa.schema(
    [
        pa.field(MATERIAL_ID, pa.string(), nullable=False),
        pa.field(MATERIAL_KEY, pa.int64(), nullable=False),
        pa.field(ATOMIC_NUMBERS, pa.list_(pa.uint8()), nullable=False),
        pa.field(DEGREE, pa.list_(pa.uint16()), nullable=False, metadata={"layout": "edges of each atom"}),
        pa.field(NEIGHBOR, pa.list_(pa.uint16()), nullable=False, metadata={"layout": "index within the crystal"}),
        pa.field(IMAGE, pa.list_(pa.int8()), nullable=False, metadata={"layout": "3 per edge, cell of the neighbor"}),
        pa.field(DISTANCE, pa.list_(pa.float32()), nullable=False, metadata={"unit": "angstrom"}),
    ]
)
"""Edges are sorted by center atom, then by distance."""

_VECTOR = pa.field(
    VECTOR,
    pa.list_(pa.float32()),
    nullable=False,
    metadata={"unit": "angstrom", "layout": "3 per edge, to the neighbor"},
)
_POTENTIAL = pa.field(
    POTENTIAL, pa.list_(pa.float32()), nullable=False, metadata={"layout": "atoms x atoms, row by row; NaN: no pair"}
)


_FULL = pa.schema([*SCHEMA, _VECTOR, _POTENTIAL])


def schema_of(spec: GraphSpec) -> pa.Schema:
    """Return the schema of shards: the columns of all graphs and those that the specification adds."""
    extra = [_VECTOR] * spec.directions + [_POTENTIAL] * (spec.potentials != "none")
    return pa.schema([*SCHEMA, *extra])


TRAINING_COLUMNS = (MATERIAL_ID, MATERIAL_KEY, ATOMIC_NUMBERS, DEGREE, NEIGHBOR, DISTANCE)
"""Columns that :func:`load` reads by default."""

Array = NDArray[Any]


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a folder of graph shards.

    Raises:
        ValueError: If there is none, it is damaged, or its format version differs.

    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {MANIFEST}: no finished graph shards; make them with jobs/featurize.py --out {folder}"
        )
    try:
        manifest: dict[str, Any] = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); run jobs/featurize.py again") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} is no JSON object; run jobs/featurize.py again")  # noqa: TRY004 - a user's file
    if manifest.get("format_version") != FORMAT_VERSION:
        found = " ".join(str(manifest.get("format_version")).split())[:40]
        raise ValueError(
            f"{path} has format version {found}, this code reads {FORMAT_VERSION}; run jobs/featurize.py again"
        )
    return manifest


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_files(folder: str | Path, *, verify: bool = False) -> list[Path]:
    """Return the shards of a folder in order, checked against its manifest.

    Args:
        folder: Folder of graph shards.
        verify: Check the content of each file, not only its size.

    Raises:
        ValueError: If a file is missing, differs from the manifest, or holds more than numbers and text.

    """
    files = []
    shards = read_manifest(folder).get("shards")
    if not isinstance(shards, list) or not all(map(_is_shard, shards)):
        raise ValueError(
            f"{Path(folder) / MANIFEST} does not list shards by file, bytes and sha256; copy it again, or run "
            "jobs/featurize.py to a new folder"
        )
    for shard in shards:
        require_name(f"a file in {Path(folder) / MANIFEST}", shard["file"])
        path = Path(folder) / shard["file"]
        if not path.is_file():
            raise ValueError(
                f"{path} is missing, but {MANIFEST} lists it; copy it again, or run jobs/featurize.py into a new folder"
            )
        if path.stat().st_size != shard["bytes"] or (verify and file_sha256(path) != shard["sha256"]):
            raise ValueError(
                f"{path} is not the file {MANIFEST} describes; copy it again, or run jobs/featurize.py to a new folder"
            )
        with _readable(path):
            require_plain(pq.read_schema(path), path)
        files.append(path)
    return files


def _is_shard(entry: Any) -> bool:
    """Return whether an entry of the manifest describes a file."""
    return isinstance(entry, dict) and isinstance(entry.get("file"), str) and {"bytes", "sha256"} <= entry.keys()


@contextmanager
def _readable(folder: str | Path) -> Iterator[None]:
    """Raise a helpful ValueError if a shard cannot be read or does not hold graphs."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{folder} holds a damaged shard ({cause}); copy it again, or run jobs/featurize.py to a new folder"
        ) from error


@dataclass(frozen=True)
class RowGroup:
    """About 1,000 crystals of a shard that are read together.

    Attributes:
        path: Path of the shard.
        number: Index of the row group in the shard.
        num_bytes: Size in memory, as the file's metadata states it.

    """

    path: Path
    number: int
    num_bytes: int

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Return the given columns.

        Raises:
            ValueError: If the shard is damaged.

        """
        with _readable(self.path.parent), pq.ParquetFile(self.path) as file:
            return file.read_row_group(self.number, columns=list(columns))


def row_groups(folder: str | Path, *, verify: bool = False) -> list[RowGroup]:
    """Return the row groups of a folder's shards, in order.

    Args:
        folder: Folder of graph shards.
        verify: Compare the content of each file with the manifest first.

    Raises:
        ValueError: If the folder is incomplete or damaged.

    """
    groups = []
    for path in shard_files(folder, verify=verify):
        with _readable(folder):
            about = pq.read_metadata(path)
        groups += [RowGroup(path, k, about.row_group(k).total_byte_size) for k in range(about.num_row_groups)]
    return groups


def iter_tables(
    folder: str | Path, columns: Sequence[str] = SCHEMA.names, *, verify: bool = False
) -> Iterator[pa.Table]:
    """Yield the shards one row group at a time, in order; arguments and errors are those of :func:`row_groups`."""
    for group in row_groups(folder, verify=verify):
        yield group.read(columns)


def is_held_out(material_keys: Array, fraction: float) -> Array:
    """Mark the crystals held out of pretraining by a hash of their id: the same in every data set and run.

    Defined here, not with the loaders: processes that only read shards do not need torch.

    Args:
        material_keys: ``(B,)`` int64, the heads of the SHA-256 of the ids.
        fraction: Approximate fraction of crystals to hold out.

    """
    uniform = (material_keys.astype(np.uint64) >> np.uint64(11)).astype(np.float64) / 2.0**53
    marked: Array = uniform < fraction
    return marked


def load(folder: str | Path, columns: Sequence[str] = TRAINING_COLUMNS, *, verify: bool = False) -> GraphArrays:
    """Read all shards of a folder into flat arrays, column by column, with vectors and potentials if present.

    Args:
        folder: Folder of graph shards.
        columns: At least :data:`TRAINING_COLUMNS`; add ``image`` to read images too.
        verify: Check the content of each file against the manifest first.

    Raises:
        ValueError: If the folder is incomplete or damaged, or a column is missing.

    """
    missing = set(TRAINING_COLUMNS) - set(columns)
    if missing:
        raise ValueError(
            f"graphs need the columns {', '.join(TRAINING_COLUMNS)}; missing: {', '.join(sorted(missing))}"
        )
    files = shard_files(folder, verify=verify)
    with _readable(folder):
        graphs = _load(files, columns)
    _require_whole(graphs, folder)
    return graphs


def _load(files: list[Path], columns: Sequence[str]) -> GraphArrays:
    held = frozenset(pq.read_schema(files[0]).names) if files else frozenset()
    identity = _read(files, (MATERIAL_ID, MATERIAL_KEY))
    atoms = _read(files, (ATOMIC_NUMBERS, DEGREE))
    return GraphArrays(
        material_ids=identity[MATERIAL_ID].to_numpy(),
        material_keys=np.array(identity[MATERIAL_KEY].to_numpy()),
        atom_ptr=offsets(list_lengths(atoms[ATOMIC_NUMBERS])),
        edge_ptr=offsets(flat_values(atoms[DEGREE])),
        atomic_numbers=np.array(flat_values(atoms[ATOMIC_NUMBERS])),
        neighbor=_flat(files, NEIGHBOR),
        distance=_flat(files, DISTANCE),
        image=_flat(files, IMAGE).reshape(-1, 3) if IMAGE in columns else None,
        vector=_flat(files, VECTOR).reshape(-1, 3) if VECTOR in held else None,
        potential=_flat(files, POTENTIAL) if POTENTIAL in held else None,
    )


def _require_whole(graphs: GraphArrays, folder: str | Path) -> None:
    """Raise unless the lengths of the arrays agree and every neighbor is an atom of its crystal."""
    edges = graphs.edge_ptr[-1]
    whole = len(graphs.atomic_numbers) == graphs.atom_ptr[-1] == len(graphs.edge_ptr) - 1
    whole = whole and edges == len(graphs.neighbor) == len(graphs.distance)
    whole = whole and all(len(a) == edges for a in (graphs.image, graphs.vector) if a is not None)
    if whole:
        atoms = np.diff(graphs.atom_ptr)
        of_crystal = np.repeat(atoms, np.diff(graphs.edge_ptr[graphs.atom_ptr]))
        whole = bool((graphs.neighbor < of_crystal).all() and (atoms > 0).all())
    if not whole:
        raise ValueError(
            f"{folder} holds graphs that do not fit together (atoms, edges, neighbors); copy it again, or run "
            "jobs/featurize.py to a new folder"
        )


def load_atoms(folder: str | Path) -> tuple[Array, Array, Array]:
    """Read the atoms of all crystals, without their edges.

    Returns:
        ``(B,)`` ids, ``(B + 1,)`` first atom of each crystal, ``(N,)`` uint8 atomic numbers; B crystals in the order
        of :func:`load`.

    Raises:
        ValueError: If the folder is incomplete or damaged.

    """
    files = shard_files(folder)
    with _readable(folder):
        table = _read(files, (MATERIAL_ID, ATOMIC_NUMBERS))
    numbers = table[ATOMIC_NUMBERS]
    return table[MATERIAL_ID].to_numpy(), offsets(list_lengths(numbers)), np.array(flat_values(numbers))


def _read(files: list[Path], columns: Sequence[str]) -> pa.Table:
    tables = (pq.read_table(path, columns=list(columns), partitioning=None) for path in files)
    return pa.concat_tables([_FULL.empty_table().select(list(columns)), *tables])


def _flat(files: list[Path], column: str) -> Array:
    """Return one list column of all files, concatenated and writable."""
    parts = [flat_values(_read([path], (column,))[column]) for path in files]
    return np.concatenate([np.zeros(0, _FULL.field(column).type.value_type.to_pandas_dtype()), *parts])
