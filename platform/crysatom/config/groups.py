"""The groups of settings that several jobs share, each defined once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from crysatom.config.base import Group, Role
from crysatom.config.checks import require, require_each, require_name
from crysatom.names import EMBEDDED_SOURCE, Balancing, LatticeEdges, Potentials, ReverseEdges, Schedule

MOST_ATOMS = 65_535
"""Largest cell: atoms of a graph are numbered in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Source(Group):
    """Crystals to read."""

    role: ClassVar[Role] = Role.INPUT

    data: str = EMBEDDED_SOURCE
    """Folder of graph shards, crystal table (.parquet), or any source that the ingest job reads."""


@dataclass(frozen=True, kw_only=True)
class Limits(Group):
    """Crystals to quarantine."""

    role: ClassVar[Role] = Role.INPUT

    max_atoms: int = 500
    """Larger cells are quarantined. Graph shards that may hold larger ones are refused."""

    min_distance: float = 0.5
    """Crystals with two atoms closer than this are quarantined, in angstrom. Graph shards made with a smaller
    limit are refused."""

    def __post_init__(self) -> None:
        require(1 <= self.max_atoms <= MOST_ATOMS, f"max_atoms must lie in [1, {MOST_ATOMS}], got {self.max_atoms}")
        require(0 <= self.min_distance <= 5, f"min_distance must lie in [0, 5] angstrom, got {self.min_distance}")


@dataclass(frozen=True, kw_only=True)
class NeighborRule(Group):
    """Neighbors of an atom in the graph."""

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

    def __post_init__(self) -> None:
        require(0 < self.cutoff <= 50, f"cutoff must lie in (0, 50] angstrom, got {self.cutoff}")
        require(1 <= self.num_neighbors <= 500, f"num_neighbors must lie in [1, 500], got {self.num_neighbors}")
        require(
            0 <= self.tie_tolerance <= 0.1, f"tie_tolerance must lie in [0, 0.1] angstrom, got {self.tie_tolerance}"
        )


@dataclass(frozen=True, kw_only=True)
class GraphSpec(NeighborRule):
    """Content of a graph. Two shards with equal specifications hold equal graphs."""

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
        super().__post_init__()
        require(
            not (self.pad_short_lists and (self.reverse_edges != "none" or self.directions)),
            "pad_short_lists makes edges that lead nowhere: with reverse_edges or directions leave it off",
        )

    @classmethod
    def from_rule(cls, rule: NeighborRule) -> Self:
        """Return the graph that has edges to neighbors and nothing else."""
        return cls(**rule.flat())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without the younger ones that have their defaults.

        Manifests and models older than a field thereby equal those that have its default.
        """
        return {name: value for name, value in dataclasses.asdict(self).items() if value != _YOUNGER.get(name)}


_YOUNGER = {"reverse_edges": "none", "lattice_edges": "none", "directions": False, "potentials": "none"}


@dataclass(frozen=True, kw_only=True)
class Output(Group):
    """Folder of the run."""

    role: ClassVar[Role] = Role.PLACE

    out: str = "runs"
    """Folder under which the run's own folder is made."""

    name: str = ""
    """Name of the run and its folder; empty: made of what the run is and of digests of settings and data."""

    def __post_init__(self) -> None:
        if self.name:
            require_name("name", self.name)


@dataclass(frozen=True, kw_only=True)
class ResumableOutput(Output):
    """Folder of the run, which may hold a part of it already."""

    resume: bool = False
    """Continue a run of this configuration that was stopped, from its last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Store(Group):
    """MLflow store."""

    role: ClassVar[Role] = Role.PLACE

    tracking_uri: str = ""
    """MLflow store; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working directory."""


@dataclass(frozen=True, kw_only=True)
class Tracking(Store):
    """Place of the run in MLflow."""

    experiment: str = ""
    """Experiment in MLflow; empty: one per data set."""


@dataclass(frozen=True, kw_only=True)
class Registration(Tracking):
    """Place of the run in MLflow, and registered model that it adds a version to."""

    register: str = ""
    """Registered model that the result becomes a version of; empty: it is not registered."""


@dataclass(frozen=True, kw_only=True)
class Workers(Group):
    """Processes of the job."""

    role: ClassVar[Role] = Role.PLACE

    num_workers: int = 1
    """Workers on the Ray cluster; 0 runs in this process, without Ray."""

    use_gpu: bool = False
    """Give each worker a GPU."""

    threads_per_worker: int = 1
    """CPU threads of a worker without GPU."""

    def __post_init__(self) -> None:
        require_each(self, ("num_workers",), lambda value: value >= 0, "not be negative")
        require_each(self, ("threads_per_worker",), lambda value: value >= 1, "be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainingWorkers(Workers):
    """Data-parallel workers of a training."""

    max_workers: int = 0
    """Elastic: as many workers as the cluster has room for, from num_workers up to this; written --num-workers MIN:MAX.
    0: num_workers, always."""

    max_failures: int = 3
    """Lost workers after which the run fails."""

    balance: Balancing = "auto"
    """Shares of a batch: 'equal' numbers of crystals; 'speed': in proportion to each worker's measured speed, as far
    as its memory goes; 'auto': by speed if the workers' machines differ. The gradient is the same."""

    checkpoint_minutes: float = 10.0
    """Time between checkpoints within an epoch; 0: only at its end."""

    hang_timeout: float = 300.0
    """Seconds without progress after which a worker counts as hung, and is replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("max_workers", "max_failures", "checkpoint_minutes")
        require_each(self, names, lambda value: value >= 0, "not be negative")
        require_each(self, ("hang_timeout",), lambda value: value > 0, "be positive")
        require(
            self.max_workers == 0 or self.max_workers >= self.num_workers >= 1,
            f"--num-workers MIN:MAX needs 1 <= MIN <= MAX, got {self.num_workers}:{self.max_workers}",
        )

    @property
    def most(self) -> int:
        """Largest number of workers that the training may have."""
        return max(self.num_workers, self.max_workers)


@dataclass(frozen=True, kw_only=True)
class Optimization(Group):
    """Epochs, batches and steps of a training."""

    epochs: int = 20
    """Passes over the training crystals."""

    batch_size: int = 128
    """Crystals in a global batch, over all workers."""

    tail: Literal["spread", "short"] = "spread"
    """Crystals that do not fill a batch: spread over the others, or a short last batch (published)."""

    lr: float = 3e-3
    """Largest learning rate."""

    schedule: Schedule = "cosine"
    """'one_cycle': up for 30 % of the steps, then down; 'cosine': linear warm-up over 5 % of the steps, then cosine
    decay to zero; 'step': to a tenth at each milestone; 'linear': straight down to a fiftieth; 'constant'."""

    adam_eps: float = 1e-6
    """Below this a gradient is noise. With Adam's own 1e-8 (published) the rounding of weights whose gradient is
    zero grows to full steps, and runs on one and two workers drift apart."""

    weight_decay: float = 0.0
    """Weight decay of the optimizer."""

    gradient_clip: float = 0.0
    """Largest norm of the gradient; 0: not clipped."""

    ema_decay: float = 0.0
    """Decay of the moving average of the weights that is evaluated and kept; 0: the weights themselves."""

    def __post_init__(self) -> None:
        require_each(self, ("epochs", "batch_size"), lambda value: value >= 1, "be at least 1")
        require_each(self, ("lr", "adam_eps"), lambda value: value > 0, "be positive")
        require_each(self, ("gradient_clip", "weight_decay"), lambda value: value >= 0, "not be negative")
        require_each(self, ("ema_decay",), lambda value: 0 <= value < 1, "lie in [0, 1)")


def require_full_batches(optimization: Optimization, workers: TrainingWorkers) -> None:
    """Check that a batch has a crystal for each worker.

    Raises:
        ValueError: If it has not.

    """
    require(
        optimization.batch_size >= workers.most,
        f"batch_size {optimization.batch_size} is smaller than num_workers {workers.most}",
    )
