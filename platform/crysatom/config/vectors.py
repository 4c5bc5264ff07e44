"""Configuration of vectors from counts, and of control vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from crysatom.config.base import Group, places
from crysatom.config.checks import require, require_each
from crysatom.config.groups import GraphSpec, Limits, NeighborRule, Output, Registration, Source

Block = Literal["substitution", "geometry"]


@dataclass(frozen=True, kw_only=True)
class VectorsConfig(Group):
    """Make element vectors by counting, or by older methods, from the same crystals as a pretraining."""

    source: Source = Source()

    method: Literal["structure", "skipatom", "atom2vec", "onehot", "random"] = "skipatom"
    """Method: 'structure': from surroundings in which elements replace each other, and from bond lengths and volumes;
    'skipatom': from bonded elements; 'atom2vec': from compounds; 'onehot', 'random': controls that know only which
    elements there are."""

    output: Output = Output()
    limits: Limits = Limits()
    neighbors: NeighborRule = NeighborRule()

    dim: int = 0
    """Length of a vector: the leading components of structure and atom2vec. 0: all components of these two, 118 for
    onehot, else 200."""

    blocks: tuple[Block, ...] = ("substitution", "geometry")
    """structure: what vectors are made of: 'substitution': which elements replace each other; 'geometry': bond lengths,
    coordination and volumes; or both."""

    max_expansion: float = 2.5
    """structure: leave out crystals with more than this times the volume that the others predict from their
    composition, such as cells with vacuum; 0: keep all."""

    bond_tolerance: float = 0.15
    """structure, skipatom: neighbors within (1 + this) times an atom's nearest distance count as bonded."""

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
        require(
            bool(self.blocks) and len(set(self.blocks)) == len(self.blocks),
            f"blocks must be one or both of {', '.join(get_args(Block))}, got {' '.join(self.blocks) or 'none'}",
        )
        require(
            self.max_expansion == 0 or self.max_expansion > 1,
            f"max_expansion must be 0 or larger than 1, got {self.max_expansion:g}",
        )
        require(self.dim == 0 or self.method != "onehot", "onehot vectors have 118 dimensions; leave --dim out")

    @property
    def graph(self) -> GraphSpec:
        """Content of the graphs."""
        return GraphSpec.from_rule(self.neighbors)
