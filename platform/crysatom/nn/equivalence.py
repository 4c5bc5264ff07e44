"""Find atoms that no message-passing network can distinguish, so that one is evaluated for all.

Most crystals are symmetric: of the 562,055 atoms of JARVIS-DFT 316,179 remain. In a message-passing network, the
vector of an atom depends on its element and on the messages along its edges, so two atoms get equal vectors if color
refinement gives them equal colors (Weisfeiler & Leman 1968; Xu et al., ICLR 2019, lemma 2). This includes
symmetry-equivalent atoms and the copies of a supercell. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.graphs.counting import count
from crysatom.nn.hashing import mix

ROUNDS_ON_GPU = 6
"""Rounds of refinement between two reads of the numbers of classes. Batches of 128 crystals of Materials Project are
stable after four or five; a further round is cheap, and a read makes the host wait for the GPU."""


@dataclass(frozen=True)
class Classes:
    """A partition of N atoms, or bonds, into U classes.

    Attributes:
        which: ``(N,)`` class of each member.
        first: ``(U,)`` first member of each class, ascending.
        size: ``(U,)`` number of members of each class.

    """

    which: Tensor
    first: Tensor
    size: Tensor

    @classmethod
    def by(cls, color: Tensor) -> Self:
        """Return the classes of equal colors ``(N,)``."""
        different, which = torch.unique(color, return_inverse=True)
        places = torch.arange(len(which), device=which.device)
        first = which.new_full((len(different),), len(which)).scatter_reduce(0, which, places, "amin")
        first, order = first.sort()
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=which.device)
        which = place[which]
        return cls(which, first, count(which, len(order)))


class EquivalentAtoms(Classes):
    """Classes of atoms that have equal neighbors at equal distances."""

    @classmethod
    def of(cls, batch: Batch, row: Tensor, *, across: bool = True) -> EquivalentAtoms:
        """Refine the elements until the classes are stable.

        A color is a 64-bit hash of an atom's color and of the *set* of its neighbors' colors and distances. With a
        million atoms, two different colors collide about once in forty million batches.

        Args:
            batch: Crystals.
            row: ``(E,)`` equal if the distances are equal.
            across: Let atoms of different crystals share a class.

        """
        color = mix(batch.atomic_numbers.long(), 0 if across else batch.batch)
        return cls._refined(
            color, lambda c: run_sums(mix(c[batch.edge_index[0]], row), batch.edge_ptr), _rounds(color.device)
        )

    @classmethod
    def by_edges(cls, atomic_numbers: Tensor, edge_index: Tensor, row: Tensor) -> EquivalentAtoms:
        """Refine elements ``(N,)`` by edges ``(2, E)`` of kinds ``(E,)``, in any order; row 0: the atom they leave."""
        color = mix(atomic_numbers.long(), 0)
        neighbor, center = edge_index
        return cls._refined(
            color, lambda c: torch.zeros_like(c).index_add(0, center, mix(c[neighbor], row)), _rounds(color.device)
        )

    @classmethod
    def _refined(cls, color: Tensor, arriving: Callable[[Tensor], Tensor], rounds: int) -> EquivalentAtoms:
        colors, counts = [color], [num_different(color)]
        while True:
            for _ in range(rounds):
                colors.append(mix(colors[-1], arriving(colors[-1])))
                counts.append(num_different(colors[-1]))
            sizes = torch.stack(counts).tolist()
            for stable, size, refined in zip(colors, sizes, sizes[1:], strict=False):
                if size == refined:
                    return cls.by(stable)
            colors, counts = colors[-1:], counts[-1:]


@dataclass(frozen=True)
class Multigraph:
    """Graph of n nodes and m directed edges, each of which represents several equal ones.

    Attributes:
        source: ``(m,)`` node that each edge leaves.
        target: ``(m,)`` node that each edge arrives at.
        nodes: ``(n,)`` number of nodes that each represents.
        edges: ``(m,)`` number of edges that each represents, over all equal targets.
        copies: ``(m,)`` number of edges that each represents at one target.

    """

    source: Tensor
    target: Tensor
    nodes: Tensor
    edges: Tensor
    copies: Tensor

    @classmethod
    def of(cls, nodes: Classes, edges: Classes, edge_index: Tensor) -> Multigraph:
        """Return one node and one edge of each class.

        Args:
            nodes: Classes of the nodes.
            edges: Classes of the edges; all edges of a class leave nodes of one class and arrive at nodes of one class.
            edge_index: ``(2, E)`` of all edges; row 0: the node they leave.

        """
        source, target = nodes.which[edge_index[:, edges.first]]
        return cls(source, target, nodes.size, edges.size, edges.size // nodes.size[target])


def run_sums(colors: Tensor, ptr: Tensor) -> Tensor:
    """Return the sums ``(N,)`` of runs of colors that begin at ``ptr`` ``(N + 1,)``: equal for equal sets."""
    return F.pad(colors.cumsum(0), (1, 0))[ptr].diff()  # overflow wraps around; differences stay correct


def _rounds(device: torch.device) -> int:
    return 1 if device.type == "cpu" else ROUNDS_ON_GPU


def num_different(color: Tensor) -> Tensor:
    """Return the number of different colors ``(N,)``, a scalar that stays on the device."""
    ordered = color.sort()[0]
    return (ordered[1:] != ordered[:-1]).sum() + min(len(color), 1)
