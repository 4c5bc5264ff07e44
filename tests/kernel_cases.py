"""Edges and tables on which all kernels of the gated sum are compared."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.kernels.terms import Norm, Terms

ATOMS, ROWS = 6, 9


def make_edges(degrees: list[list[int]], *, hot_row: bool = False) -> Edges:
    """Return random edges between atoms of the same view; several share a row.

    Args:
        degrees: Number of edges that arrive at each of the ``ATOMS`` atoms of each view.
        hot_row: All edges share one row.

    """
    generator = torch.Generator().manual_seed(5)
    degree = torch.tensor(degrees).flatten()
    num_edges, num_atoms = int(degree.sum()), len(degree)
    center = torch.arange(num_atoms).repeat_interleave(degree)
    return Edges(
        num_views=len(degrees),
        num_atoms=num_atoms,
        edge_ptr=F.pad(degree.cumsum(0), (1, 0)),
        center=center,
        neighbor=center // ATOMS * ATOMS + torch.randint(ATOMS, (num_edges,), generator=generator),
        row=torch.randint(3, 4 if hot_row else ROWS, (num_edges,), generator=generator),
        basis=torch.rand(ROWS, 4, generator=generator, dtype=torch.float64),
    )


def _weights(edges: Edges, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 5, (len(edges.row),), generator=generator).double()


_THREE_VIEWS = make_edges([[3, 1, 4, 2, 5, 2], [2, 1, 4, 2, 4, 2], [3, 1, 3, 2, 5, 1]])
_WEIGHTED = dataclasses.replace(_THREE_VIEWS, copies=_weights(_THREE_VIEWS, 1), count=_weights(_THREE_VIEWS, 2))

CASES = {
    "one view": make_edges([[3, 1, 4, 2, 5, 2]]),
    "three views": _THREE_VIEWS,
    "atoms without edges": make_edges([[0, 0, 4, 0, 5, 0], [0, 7, 0, 0, 0, 1]]),
    "a view without edges": make_edges([[3, 1, 4, 2, 5, 2], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]]),
    "no edges": make_edges([[0] * 6, [0] * 6]),
    "all edges at one atom": make_edges([[0, 0, 17, 0, 0, 0]]),
    "copies and count": _WEIGHTED,
    "apart": dataclasses.replace(_THREE_VIEWS, apart=True),
    "apart, copies and count": dataclasses.replace(_WEIGHTED, apart=True),
    "no edges, apart": dataclasses.replace(make_edges([[0] * 6]), apart=True),
}


def make_terms(
    edges: Edges, width: int, dtype: torch.dtype = torch.float64, *, scale: float = 1.0
) -> tuple[Terms, Norm]:
    """Return random terms with C = 2 ``width`` channels, rounded to float32, so that all types see the same numbers."""
    generator = torch.Generator().manual_seed(6)
    channels, atoms = 2 * width, edges.num_atoms

    def table(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, channels, generator=generator)).to(dtype)

    terms = Terms(table(atoms), table(atoms), table(len(edges.basis)))
    return terms, Norm(table(edges.num_views), table(edges.num_views), table())
