"""Groups of settings that several jobs share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from crysatom.config.base import Group, Role
from crysatom.config.checks import require, require_each, require_name
from crysatom.names import EMBEDDED_SOURCE, Balancing, LatticeEdges, Potentials, Precision, ReverseEdges, Schedule

MOST_ATOMS = 65_535
"""Largest allowed cell: atoms of a graph are numbered with 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Source(Group):
    """Crystals to read."""

    role: ClassVar[Role] = Role.INPUT

    data: str = EMBEDDED_SOURCE
    """Crystals: a folder of graph shards, a crystal table (.parquet), or any source that the ingest job reads."""


@dataclass(frozen=True, kw_only=True)
class Limits(Group):
    """Limits of crystals; others are quarantined."""

    role: ClassVar[Role] = Role.INPUT

    max_atoms: int = 500
    """Largest number of atoms in a cell. Graph shards made with a larger limit are refused."""

    min_distance: float = 0.5
    """Smallest distance between two atoms, in angstrom. Graph shards made with a smaller limit are refused."""

    def __post_init__(self) -> None:
        require(1 <= self.max_atoms <= MOST_ATOMS, f"max_atoms must lie in [1, {MOST_ATOMS}], got {self.max_atoms}")
        require(0 <= self.min_distance <= 5, f"min_distance must lie in [0, 5] angstrom, got {self.min_distance}")


@dataclass(frozen=True, kw_only=True)
class NeighborRule(Group):
    """Neighbors of an atom in the graph."""

    cutoff: float = 8.0
    """Largest distance to a neighbor, in angstrom."""

    num_neighbors: int = 12
    """Number of nearest neighbors of each atom."""

    ties: Literal["complete", "truncate"] = "complete"
    """Equidistant neighbors at the end of the list: 'complete' keeps the whole shell (independent of site order, cell
    choice and rotation); 'truncate' keeps the first in site order, as CGCNN's code does."""

    tie_tolerance: float = 1e-3
    """Distances that differ from the last neighbor's by less than this, in angstrom, belong to its shell."""

    pad_short_lists: bool = False
    """Pad the list of an atom with too few neighbors by edges of length cutoff + 1 to the crystal's first atom, as
    CGCNN's and CrysAtom's code does. Off: the atom has fewer edges."""

    def __post_init__(self) -> None:
        require(0 < self.cutoff <= 50, f"cutoff must lie in (0, 50] angstrom, got {self.cutoff}")
        require(1 <= self.num_neighbors <= 500, f"num_neighbors must lie in [1, 500], got {self.num_neighbors}")
        require(
            0 <= self.tie_tolerance <= 0.1, f"tie_tolerance must lie in [0, 0.1] angstrom, got {self.tie_tolerance}"
        )


@dataclass(frozen=True, kw_only=True)
class GraphSpec(NeighborRule):
    """Content of a graph. Shards with equal specifications hold equal graphs."""

    reverse_edges: ReverseEdges = "none"
    """Reverse edges: 'add' keeps an edge in both directions if either atom is a nearest neighbor of the other;
    'published' also keeps edges between an atom and its own images twice, as ALIGNN's code does."""

    lattice_edges: LatticeEdges = "none"
    """Edges from each atom along lattice vectors, in both directions: 'primitive': the seven shortest vectors of the
    primitive lattice, one per class modulo 2 (independent of the cell); 'cell': a, b, c, b + c, a + c, a + b of the
    given cell, as Matformer's code does."""

    directions: bool = False
    """Keep the vector of each edge, for predictors that use angles."""

    potentials: Potentials = "none"
    """Keep a lattice sum of potentials for each pair of atoms, for PotNet: 'exact', or 'published' with the published
    decay constant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not (self.pad_short_lists and (self.reverse_edges != "none" or self.directions)),
            "pad_short_lists adds artificial edges: disable it with reverse_edges or directions",
        )

    @classmethod
    def from_rule(cls, rule: NeighborRule) -> Self:
        """Return the graph that has only edges to neighbors."""
        return cls(**rule.flat())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without newer fields that have their default.

        Manifests and models from before a field was added thus equal those with its default.
        """
        return {name: value for name, value in dataclasses.asdict(self).items() if value != _YOUNGER.get(name)}


_YOUNGER = {"reverse_edges": "none", "lattice_edges": "none", "directions": False, "potentials": "none"}


@dataclass(frozen=True, kw_only=True)
class Output(Group):
    """Output folder."""

    role: ClassVar[Role] = Role.PLACE

    out: str = "runs"
    """Parent folder of the run's folder."""

    name: str = ""
    """Name of the run and its folder; empty: made from its kind and the digests of settings and data."""

    def __post_init__(self) -> None:
        if self.name:
            require_name("name", self.name)


@dataclass(frozen=True, kw_only=True)
class ResumableOutput(Output):
    """Output folder, which may hold an unfinished run."""

    resume: bool = False
    """Continue a stopped run of this configuration from its last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Store(Group):
    """MLflow store."""

    role: ClassVar[Role] = Role.PLACE

    tracking_uri: str = ""
    """MLflow store (URI); empty: MLFLOW_TRACKING_URI, or mlflow.db in the working directory."""


@dataclass(frozen=True, kw_only=True)
class Tracking(Store):
    """MLflow store and experiment."""

    experiment: str = ""
    """MLflow experiment; empty: one per data set."""


@dataclass(frozen=True, kw_only=True)
class Registration(Tracking):
    """MLflow store and experiment, and the registered model for the result."""

    register: str = ""
    """Registered model to add the result to, as a new version; empty: do not register it."""


@dataclass(frozen=True, kw_only=True)
class Workers(Group):
    """Processes of the job."""

    role: ClassVar[Role] = Role.PLACE

    num_workers: int = 1
    """Number of workers on the Ray cluster; 0: run in this process, without Ray."""

    use_gpu: bool = False
    """Use one GPU per worker."""

    threads_per_worker: int = 1
    """CPU threads per worker without a GPU."""

    def __post_init__(self) -> None:
        require_each(self, ("num_workers",), lambda value: value >= 0, "not be negative")
        require_each(self, ("threads_per_worker",), lambda value: value >= 1, "be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainingWorkers(Workers):
    """Data-parallel workers of a training."""

    max_workers: int = 0
    """Largest number of workers of an elastic training, which uses as many as the cluster can hold, at least
    num_workers; also given as --num-workers MIN:MAX. 0: always num_workers."""

    max_failures: int = 3
    """Number of worker failures before the run fails."""

    balance: Balancing = "auto"
    """Shares of a batch: 'equal': equal numbers of crystals; 'speed': proportional to each worker's measured speed,
    within its memory; 'auto': 'speed' if the workers' machines differ. The gradient is the same."""

    max_edges: int = 0
    """Most edges that a worker computes at a time: its share of a larger batch is divided into micro-batches of whole
    crystals, with the loss and gradient of the whole batch, so that it fits into GPU memory. A crystal with more edges
    is computed alone. 0: no limit."""

    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; 0: only at the end of each epoch."""

    hang_timeout: float = 300.0
    """Seconds without progress before a worker counts as hung and is replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("max_workers", "max_failures", "max_edges", "checkpoint_minutes")
        require_each(self, names, lambda value: value >= 0, "not be negative")
        require_each(self, ("hang_timeout",), lambda value: value > 0, "be positive")
        require(
            self.max_workers == 0 or self.max_workers >= self.num_workers >= 1,
            f"--num-workers MIN:MAX needs 1 <= MIN <= MAX, got {self.num_workers}:{self.max_workers}",
        )

    @property
    def most(self) -> int:
        """Largest possible number of workers."""
        return max(self.num_workers, self.max_workers)


@dataclass(frozen=True, kw_only=True)
class Optimization(Group):
    """Epochs, batches and steps of a training."""

    epochs: int
    """Passes over the training crystals."""

    batch_size: int
    """Crystals in a global batch, over all workers."""

    tail: Literal["spread", "short"] = "spread"
    """Crystals that do not fill a batch: 'spread' over the other batches, or in a 'short' last batch (published)."""

    lr: float = 3e-3
    """Largest learning rate."""

    schedule: Schedule
    """Schedule of the learning rate. 'one_cycle': up for 30 % of the steps, then down; 'cosine': linear warm-up over 5
    % of the steps, then cosine decay to zero; 'step': to a tenth at each milestone; 'linear': down to a fiftieth;
    'constant'."""

    adam_eps: float = 1e-6
    """Adam's epsilon; gradients below it count as noise. With 1e-8 (Adam's default, published), rounding errors of
    weights with zero gradient grow to full steps, and runs on one and two workers diverge."""

    weight_decay: float = 0.0
    """Weight decay of the optimizer."""

    gradient_clip: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""

    ema_decay: float = 0.0
    """Decay of the moving average of the weights, which is evaluated and kept; 0: no average. Its window of
    1/(1 - decay) steps must be short against the training."""

    precision: Precision = "float32"
    """Precision of the matrix products of layers: 'float32' or 'bf16'; all else is float32. 'bf16' is for GPUs and for
    CPUs with AMX-BF16 or AVX512-BF16; on others it saves no time."""

    def __post_init__(self) -> None:
        require_each(self, ("epochs", "batch_size"), lambda value: value >= 1, "be at least 1")
        require_each(self, ("lr", "adam_eps"), lambda value: value > 0, "be positive")
        require_each(self, ("gradient_clip", "weight_decay"), lambda value: value >= 0, "not be negative")
        require_each(self, ("precision",), get_args(Precision).__contains__, f"be one of {get_args(Precision)}")
        require_each(self, ("ema_decay",), lambda value: 0 <= value < 1, "lie in [0, 1)")


def require_full_batches(optimization: Optimization, workers: TrainingWorkers) -> None:
    """Check that a batch has at least one crystal per worker.

    Raises:
        ValueError: If it has fewer.

    """
    require(
        optimization.batch_size >= workers.most,
        f"batch_size {optimization.batch_size} is smaller than num_workers {workers.most}",
    )
