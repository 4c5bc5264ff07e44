"""The configuration of vectors that are made from counts, and of those that know nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crysatom.config.data import (
    FeaturizeConfig,
    GraphSpec,
    graph_of,
    require,
    require_each,
    require_limits,
    require_run_name,
)
from crysatom.names import EMBEDDED_SOURCE


@dataclass(frozen=True, kw_only=True)
class VectorsConfig:
    """Make element vectors by older methods, from the same crystals that a pretraining learns from."""

    data: str = EMBEDDED_SOURCE
    """Folder of graph shards, crystal table (.parquet), or any source that the ingest job reads."""

    method: Literal["skipatom", "atom2vec", "onehot", "random"] = "skipatom"
    """'skipatom': which elements are bonded; 'atom2vec': which compounds there are; 'onehot', 'random': nothing but
    which elements there are."""

    out: str = "runs"
    """Folder under which the run's own folder is made."""

    name: str = ""
    """Name of the run and its folder; empty: the method and the digests of the settings and of the data."""

    max_atoms: int = FeaturizeConfig.max_atoms
    """Larger cells are quarantined. Graph shards that may hold larger ones are refused."""

    min_distance: float = FeaturizeConfig.min_distance
    """Crystals with two atoms closer than this are quarantined, in angstrom. Graph shards made with a smaller
    limit are refused."""

    # -- graph
    cutoff: float = GraphSpec.cutoff
    num_neighbors: int = GraphSpec.num_neighbors
    ties: Literal["complete", "truncate"] = GraphSpec.ties
    tie_tolerance: float = GraphSpec.tie_tolerance
    pad_short_lists: bool = GraphSpec.pad_short_lists

    # -- method
    dim: int = 0
    """Length of a vector; 0: 200, and for atom2vec, which has no more dimensions than there are elements, that number.
    onehot has its 118."""

    bond_tolerance: float = 0.15
    """skipatom: neighbors up to 1 + this times as far as an atom's nearest are bonded to it."""

    steps: int = 300
    """skipatom: steps of Adam."""

    batch_size: int = 0
    """skipatom: bonded pairs that are drawn from the counts for each step; 0: each step takes all of them. Published:
    1024, with --steps 150000."""

    lr: float = 0.01
    """skipatom: its rate."""

    induce_below: int = 0
    """skipatom: vectors of elements with fewer bonded neighbors than this in all crystals lean on those of elements
    like them, as in the published induced vectors; 0: none does."""

    seed: int = 0
    """Of random, and of the beginning and the batches of skipatom."""

    # -- where
    num_workers: int = 2
    """0 counts in this process, without Ray; else shards are counted wherever the cluster has a CPU."""

    tracking_uri: str = ""
    """MLflow; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working directory."""

    experiment: str = "crysatom-pretrain"
    """Experiment in MLflow."""

    register: str = ""
    """Registered model that the vectors become a version of; empty: none."""

    def __post_init__(self) -> None:
        require_run_name(self.name)
        require_limits(self.max_atoms, self.min_distance)
        require_each(
            self, ("dim", "batch_size", "induce_below", "num_workers", "seed"), lambda v: v >= 0, "not be negative"
        )
        require_each(self, ("steps",), lambda v: v >= 1, "be at least 1")
        require_each(self, ("bond_tolerance", "lr"), lambda v: 0 < v < 1, "lie between 0 and 1")
        require(self.dim == 0 or self.method != "onehot", "onehot vectors have 118 dimensions; leave --dim out")
        _ = self.graph

    @property
    def graph(self) -> GraphSpec:
        """The part of the configuration that decides the content of a graph."""
        return graph_of(self)

    @property
    def resume(self) -> bool:
        """A run that was stopped is begun anew: it takes minutes."""
        return False
