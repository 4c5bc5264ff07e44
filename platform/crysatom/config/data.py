"""How crystals are read and become graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crysatom.names import EMBEDDED_SOURCE, LatticeEdges, Potentials, ReverseEdges

MAX_NAME_BYTES = 200
"""Of names that become files; 255 is the limit of most file systems, and endings are added."""

MOST_ATOMS = 65_535
"""In a cell: atoms of a graph are numbered in 16 bits."""


def require(condition: bool, message: str) -> None:
    """Raise unless a setting is as it must be.

    Raises:
        ValueError: With the message.

    """
    if not condition:
        raise ValueError(message)


def require_each(config: Any, names: Sequence[str], accepted: Callable[[Any], bool], must: str) -> None:
    """Raise unless each of some settings is as it must be.

    Raises:
        ValueError: Naming the first that is not.

    """
    for name in names:
        value = getattr(config, name)
        require(accepted(value), f"{name} must {must}, got {value}")


def require_name(what: str, name: str) -> None:
    """Raise unless a word can be the name of one file or folder, wherever it comes from.

    It may not lead out of the folder it is meant for (``../x``, ``/x``), be hidden, or be longer than file systems
    allow once endings are added.

    Raises:
        ValueError: Naming the word.

    """
    plain = name.isprintable() and not name.startswith((".", " ")) and not set("/\\") & set(name)
    require(
        bool(name) and plain and len(name.encode(errors="replace")) <= MAX_NAME_BYTES,
        f"{what} must be the name of one folder or file, without '/' or '\\', control characters or a '.' in front, of "
        f"at most {MAX_NAME_BYTES} bytes, got {_shortened(name)!r}",
    )


def require_run_name(name: str) -> None:
    """Raise unless a run may be called so; empty: it is given a name.

    Raises:
        ValueError: If it may not.

    """
    if name:
        require_name("name", name)


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


def require_workers(config: Any) -> None:
    """Raise unless a training can be done by as many workers as asked for.

    Raises:
        ValueError: Naming the setting that cannot be.

    """
    names = ("num_workers", "max_workers", "max_failures", "checkpoint_minutes")
    require_each(config, names, lambda value: value >= 0, "not be negative")
    require_each(config, ("hang_timeout",), lambda value: value > 0, "be positive")
    require(
        config.max_workers == 0 or config.max_workers >= config.num_workers >= 1,
        f"--num-workers MIN:MAX needs 1 <= MIN <= MAX, got {config.num_workers}:{config.max_workers}",
    )
    most = max(config.num_workers, config.max_workers)
    require(config.batch_size >= most, f"batch_size {config.batch_size} is smaller than num_workers {most}")


def require_limits(max_atoms: int, min_distance: float) -> None:
    """Raise unless limits of crystals can be kept.

    Raises:
        ValueError: Naming the one that cannot.

    """
    require(1 <= max_atoms <= MOST_ATOMS, f"max_atoms must lie in [1, {MOST_ATOMS}], got {max_atoms}")
    require(0 <= min_distance <= 5, f"min_distance must lie in [0, 5] angstrom, got {min_distance}")


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """How a crystal becomes a graph; two shards with equal specs hold equal graphs."""

    cutoff: float = 8.0
    """Neighbors farther than this are never connected, in angstrom."""

    num_neighbors: int = 12
    """Nearest neighbors each atom is connected to."""

    ties: Literal["complete", "truncate"] = "complete"
    """At the last place: 'complete' keeps the whole shell of equidistant neighbors (independent of site
    order, cell choice and rotation); 'truncate' keeps the first in site order, as CGCNN's code does."""

    tie_tolerance: float = 1e-3
    """Distances closer than this to that of the last neighbor belong to its shell, in angstrom."""

    pad_short_lists: bool = False
    """Fill the list of an atom with too few neighbors with edges of length cutoff + 1 to the crystal's
    first atom, as CGCNN's and CrysAtom's code does. Off: the atom simply has fewer edges."""

    reverse_edges: ReverseEdges = "none"
    """Edges in the other direction: 'add' keeps an edge both ways if either atom counts the other among its nearest;
    'published' does so, too, but has those between an atom and its own images twice, as ALIGNN's code does."""

    lattice_edges: LatticeEdges = "none"
    """Edges from each atom along lattice vectors, both ways: 'primitive' takes the seven shortest, one of each class
    modulo 2, of the primitive lattice (independent of the cell); 'cell' takes a, b, c, b + c, a + c, a + b of the given
    cell, as Matformer's code does."""

    directions: bool = False
    """Keep the vector of each edge, for predictors that read angles."""

    potentials: Potentials = "none"
    """Keep a lattice sum of potentials for each pair of atoms, for PotNet: 'exact', or 'published', with the decay
    constant of the published routine."""

    def __post_init__(self) -> None:
        require(0 < self.cutoff <= 50, f"cutoff must lie in (0, 50] angstrom, got {self.cutoff}")
        require(1 <= self.num_neighbors <= 500, f"num_neighbors must lie in [1, 500], got {self.num_neighbors}")
        require(
            0 <= self.tie_tolerance <= 0.1, f"tie_tolerance must lie in [0, 0.1] angstrom, got {self.tie_tolerance}"
        )
        require(
            not (self.pad_short_lists and (self.reverse_edges != "none" or self.directions)),
            "pad_short_lists makes edges that lead nowhere: with reverse_edges or directions leave it off",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without the younger ones that have their defaults.

        Graphs and models that were made before a field was there are thereby those of today's defaults.
        """
        return {name: value for name, value in dataclasses.asdict(self).items() if value != _YOUNGER.get(name)}


_YOUNGER = {"reverse_edges": "none", "lattice_edges": "none", "directions": False, "potentials": "none"}


def graph_of(config: Any) -> GraphSpec:
    """Return the part of a job's configuration that decides the content of a graph; fields it lacks have defaults."""
    names = (f.name for f in dataclasses.fields(GraphSpec))
    return GraphSpec(**{name: getattr(config, name) for name in names if hasattr(config, name)})


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Read crystals from a source, check each one, write a crystal table and a quarantine."""

    source: str = EMBEDDED_SOURCE
    """aflow:prototypes | folder of CIFs (with optional id_prop.csv) | .parquet | .json/.jsonl(.gz) |
    anything ASE reads (.xyz, .db, ...) | jarvis:dft_3d | mp:QUERY."""

    out: str
    """Folder for crystals.parquet and quarantine.parquet."""

    max_atoms: int = 500
    """Larger cells are quarantined."""

    min_distance: float = 0.5
    """Crystals with two atoms closer than this are quarantined, in angstrom."""

    overwrite: bool = False
    """Replace an existing table in the output folder."""

    def __post_init__(self) -> None:
        require_limits(self.max_atoms, self.min_distance)


@dataclass(frozen=True, kw_only=True)
class FeaturizeConfig:
    """Turn a crystal table into graph shards."""

    data: str
    """Crystal table (.parquet), or any source that the ingest job reads."""

    out: str
    """Folder for the shards, manifest.json and quarantine.parquet."""

    cutoff: float = GraphSpec.cutoff
    num_neighbors: int = GraphSpec.num_neighbors
    ties: Literal["complete", "truncate"] = GraphSpec.ties
    tie_tolerance: float = GraphSpec.tie_tolerance
    pad_short_lists: bool = GraphSpec.pad_short_lists
    reverse_edges: ReverseEdges = GraphSpec.reverse_edges
    lattice_edges: LatticeEdges = GraphSpec.lattice_edges
    directions: bool = GraphSpec.directions
    potentials: Potentials = GraphSpec.potentials

    crystals_per_shard: int = 4096
    """Crystals in one Parquet file."""

    max_atoms: int = 500
    """Larger cells are quarantined."""

    min_distance: float = 0.5
    """Crystals with two atoms closer than this are quarantined, in angstrom."""

    resume: bool = False
    """Continue a run that was killed; finished shards are kept, the result has the same bytes."""

    def __post_init__(self) -> None:
        require(self.crystals_per_shard >= 1, f"crystals_per_shard must be positive, got {self.crystals_per_shard}")
        require_limits(self.max_atoms, self.min_distance)
        _ = self.graph

    @property
    def graph(self) -> GraphSpec:
        """The part of the configuration that decides the content of a graph."""
        return graph_of(self)
