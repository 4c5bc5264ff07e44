"""Configuration of vectors from counts, and of control vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crysatom.config.base import Group, places
from crysatom.config.checks import require, require_each
from crysatom.config.groups import GraphSpec, Limits, NeighborRule, Output, Registration, Source


@dataclass(frozen=True, kw_only=True)
class VectorsConfig(Group):
    """Make element vectors by older methods, from the same crystals as a pretraining."""

    source: Source = Source()

    method: Literal["skipatom", "atom2vec", "onehot", "random"] = "skipatom"
    """Method: 'skipatom': from bonded elements; 'atom2vec': from compounds; 'onehot', 'random': controls that know only
    which elements there are."""

    output: Output = Output()
    limits: Limits = Limits()
    neighbors: NeighborRule = NeighborRule()

    dim: int = 0
    """Length of a vector; 0: 200, limited to the number of elements for atom2vec, and 118 for onehot."""

    bond_tolerance: float = 0.15
    """skipatom: neighbors within (1 + this) times an atom's nearest distance count as bonded."""

    steps: int = 300
    """skipatom: number of Adam steps."""

    batch_size: int = 0
    """skipatom: bonded pairs drawn per step; 0: all pairs in each step. Published: 1024, with --steps 150000."""

    lr: float = 0.01
    """skipatom: learning rate."""

    induce_below: int = 0
    """skipatom: elements with fewer bonded neighbors than this in all crystals get vectors drawn towards those of
    similar elements, as the published induced vectors; 0: disabled."""

    seed: int = 0
    """Seed of 'random', and of the initial vectors and batches of skipatom."""

    num_workers: int = places(2)
    """Number of workers; 0: count in this process, without Ray; else count on all CPUs of the cluster."""

    tracking: Registration = Registration(experiment="crysatom-pretrain")

    def __post_init__(self) -> None:
        require_each(
            self, ("dim", "batch_size", "induce_below", "num_workers", "seed"), lambda v: v >= 0, "not be negative"
        )
        require_each(self, ("steps",), lambda v: v >= 1, "be at least 1")
        require_each(self, ("bond_tolerance", "lr"), lambda v: 0 < v < 1, "lie between 0 and 1")
        require(self.dim == 0 or self.method != "onehot", "onehot vectors have 118 dimensions; leave --dim out")

    @property
    def graph(self) -> GraphSpec:
        """Content of the graphs."""
        return GraphSpec.from_rule(self.neighbors)
