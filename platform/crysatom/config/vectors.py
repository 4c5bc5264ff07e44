"""The configuration of vectors that are made from counts, and of those that know nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crysatom.config.base import Group, places
from crysatom.config.checks import require, require_each
from crysatom.config.groups import GraphSpec, Limits, NeighborRule, Output, Registration, Source


@dataclass(frozen=True, kw_only=True)
class VectorsConfig(Group):
    """Make element vectors by older methods, from the same crystals that a pretraining learns from."""

    source: Source = Source()

    method: Literal["skipatom", "atom2vec", "onehot", "random"] = "skipatom"
    """'skipatom': which elements are bonded; 'atom2vec': which compounds there are; 'onehot', 'random': nothing but
    which elements there are."""

    output: Output = Output()
    limits: Limits = Limits()
    neighbors: NeighborRule = NeighborRule()

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
    """Seed of random, and of the initial vectors and batches of skipatom."""

    num_workers: int = places(2)
    """0 counts in this process, without Ray; else shards are counted wherever the cluster has a CPU."""

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
