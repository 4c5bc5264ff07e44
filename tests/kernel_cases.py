"""Edges and tables on which all kernels of the gated sum are compared."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.kernels.terms import Norm, Terms


def make_edges(degrees: list[list[int]], rows: int = 9) -> Edges:
    """Return random edges between atoms of the same view; several share a row.

    Args:
        degrees: Number of edges that arrive at each atom of each view.
        rows: R.

    """
    generator = torch.Generator().manual_seed(5)
    degree = torch.tensor(degrees).flatten()
    num_edges, num_atoms, atoms = int(degree.sum()), len(degree), len(degrees[0])
    center = torch.arange(num_atoms).repeat_interleave(degree)
    return Edges(
        num_views=len(degrees),
        num_atoms=num_atoms,
        edge_ptr=F.pad(degree.cumsum(0), (1, 0)),
        center=center,
        neighbor=center // atoms * atoms + torch.randint(atoms, (num_edges,), generator=generator),
        row=torch.randint(rows, (num_edges,), generator=generator),
        basis=torch.rand(rows, 4, generator=generator, dtype=torch.float64),
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


class Case(NamedTuple):
    """Arguments of all kernels."""

    edges: Edges
    terms: Terms
    norm: Norm
    grad: Tensor

    @classmethod
    def of(cls, edges: Edges, width: int, dtype: torch.dtype = torch.float32, *, scale: float = 1.0) -> Self:
        """Return a case whose terms have this type; everything else is float32."""
        terms, norm = make_terms(edges, width, torch.float32, scale=scale)
        grad = torch.randn(len(edges.row) if edges.apart else edges.num_atoms, width)
        return cls(edges, Terms(*(x.to(dtype) for x in terms)), norm, grad)

    def to(self, target: torch.device | torch.dtype) -> Self:
        """Return this case on another device, or all of it but the edges in another type."""
        edges = self.edges
        if isinstance(target, torch.device):
            values: dict[str, Any] = {f.name: getattr(edges, f.name) for f in dataclasses.fields(edges)}
            moved: dict[str, Any] = {name: v.to(target) if isinstance(v, Tensor) else v for name, v in values.items()}
            edges = Edges(**moved)
        terms, norm = Terms(*(x.to(target) for x in self.terms)), Norm(*(x.to(target) for x in self.norm))
        return type(self)(edges, terms, norm, self.grad.to(target))

    def evaluate(self, kernels: ModuleType) -> dict[str, Tensor]:
        """Return all results of a module of kernels."""
        edges, terms, norm, grad = self
        return {
            "messages": kernels.message_sums(terms, norm, edges),
            **{f"dy {name}": x for name, x in kernels.message_grads(terms, norm, grad, edges)._asdict().items()},
            **{f"u {name}": x for name, x in kernels.moments(terms, norm.mean, edges)._asdict().items()},
        }
