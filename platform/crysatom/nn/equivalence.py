"""Atoms that no network of messages can tell apart, so that one of them is evaluated for all.

Most crystals are symmetric: of the 562,055 atoms of JARVIS-DFT 316,179 remain. What a
message-passing network makes of an atom depends on its element and on what arrives along its edges, so two atoms
get equal vectors if color refinement gives them equal colors (Weisfeiler & Leman 1968; Xu et al., ICLR 2019,
lemma 2). This includes symmetry-equivalent atoms and the copies of a supercell. Nothing is approximated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.nn.hashing import mix


@dataclass(frozen=True)
class EquivalentAtoms:
    """A partition of N atoms into U classes; atoms of a class have equal neighbors at equal distances.

    Attributes:
        which: ``(N,)`` class of each atom.
        first: ``(U,)`` first atom of each class, ascending.
        size: ``(U,)`` atoms in each class.

    """

    which: Tensor
    first: Tensor
    size: Tensor

    @classmethod
    def of(cls, batch: Batch, row: Tensor, *, across: bool = True) -> EquivalentAtoms:
        """Refine the elements until the classes are stable.

        A color is a 64-bit hash of an atom's color and of the *set* of its neighbors' colors and distances. Two
        different ones among a million atoms would collide once in some forty million batches.

        Args:
            batch: Crystals.
            row: ``(E,)`` equal where distances are.
            across: Atoms of different crystals may share a class.

        """
        color = mix(batch.atomic_numbers.long(), 0 if across else batch.batch)
        different, which = torch.unique(color, return_inverse=True)
        while True:
            neighbors = mix(color[batch.edge_index[0]], row).cumsum(0)  # wraps around: differences stay right
            total = F.pad(neighbors, (1, 0))[batch.edge_ptr].diff()
            color = mix(color, total)
            num_classes = len(different)
            different, refined = torch.unique(color, return_inverse=True)
            if len(different) == num_classes:
                return cls._ordered(which, num_classes)
            which = refined

    @classmethod
    def _ordered(cls, which: Tensor, num_classes: int) -> EquivalentAtoms:
        atoms = torch.arange(len(which), device=which.device)
        first = which.new_full((num_classes,), len(which)).scatter_reduce(0, which, atoms, "amin")
        first, order = first.sort()
        place = torch.empty_like(order)
        place[order] = torch.arange(num_classes, device=which.device)
        which = place[which]
        return cls(which, first, torch.bincount(which, minlength=num_classes))
