"""Base of all predictors: specification, inputs and outputs, and table of atom vectors."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.config import GraphSpec
from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.vectors.table import AtomVectors


@dataclass(frozen=True, kw_only=True)
class PredictorSpec:
    """Complete architecture of a predictor except the atom vectors; JSON values only.

    Raises:
        ValueError: If a value is out of range.

    """

    predictor: str = "cgcnn"
    """Name in ``crysatom.predictors.registry``."""

    width: int = 64
    """Dimension of an atom's vector in the convolutions."""

    num_layers: int = 3
    """Number of convolutions."""

    hidden_dim: int = 128
    """Width of the layers after the pooling."""

    num_hidden: int = 1
    """Number of layers between the pooling and the output."""

    cutoff: float = GraphSpec.cutoff
    """Largest distance that Gaussians describe, in angstrom; the cutoff of the graphs."""

    basis_step: float = 0.2
    """Spacing and width of the Gaussians, in angstrom."""

    train_vectors: bool = False
    """Train the atom vectors too; off: frozen, as published."""

    outputs: int = 1
    """1: a number; more: log-probabilities of this many classes."""

    options: Mapping[str, float] = field(default_factory=dict)
    """Options of this predictor alone, see its ``OPTIONS``; missing ones have the defaults there."""

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "hidden_dim", "num_hidden", "outputs"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} of the predictor must be at least 1, got {value}")
        for name in ("cutoff", "basis_step"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} of the predictor must be a positive length in angstrom, got {value}")
        if self.basis_step > self.cutoff:
            raise ValueError(
                f"basis_step {self.basis_step} angstrom exceeds the cutoff {self.cutoff} angstrom: distances would "
                "be described by a single Gaussian; choose a smaller step"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; ``PredictorSpec(**values)`` equals this specification."""
        return {**dataclasses.asdict(self), "options": dict(self.options)}


class AtomTable(nn.Module):
    """Table of vectors by element, frozen or trained.

    They are part of the saved weights either way, so that weights never meet the vectors of other elements.

    Args:
        table: M elements, K dimensions.
        trained: Whether the vectors are parameters.

    """

    row: Tensor
    vectors: Tensor

    def __init__(self, table: AtomVectors, *, trained: bool) -> None:
        super().__init__()
        count = len(table.atomic_numbers)
        row = torch.full((MAX_ATOMIC_NUMBER + 1,), count)
        row[torch.from_numpy(table.atomic_numbers)] = torch.arange(count)
        self.register_buffer("row", row)
        vectors = torch.from_numpy(table.vectors).clone()
        if trained:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)

    def forward(self, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of the distinct elements ``(P, K)``, and the row of each atom ``(N,)``.

        Callers must reject elements without a vector before (``vectors.coverage.require_elements``). Here such an
        element has the vector NaN, and so has the prediction: never silently zero. Elements without an atom are
        not returned, since zero times NaN is NaN in every gradient.

        Args:
            atomic_numbers: ``(N,)``.

        """
        present, kind = torch.unique(atomic_numbers, return_inverse=True)
        unknown = self.vectors.new_full((1, self.vectors.shape[1]), math.nan)
        return torch.cat([self.vectors, unknown])[self.row[present]], kind


class Predictor(nn.Module, ABC):
    """Predict one property of crystals from their graphs and a table of atom vectors.

    The output is normalized: the training knows the mean and the spread of its targets, the predictor does not. In
    evaluation mode, the prediction of a crystal depends on no other crystal. In training mode, all statistics are over
    all workers (:mod:`crysatom.distributed`).

    Subclasses are constructed with ``(spec, vectors)``.

    Args:
        spec: Architecture.
        vectors: Table of atom vectors.

    Raises:
        ValueError: If the specification has an unknown option.

    """

    OPTIONS: ClassVar[Mapping[str, float]] = {}
    """Options of this predictor alone, with their defaults."""

    def __init__(self, spec: PredictorSpec, vectors: AtomVectors) -> None:
        super().__init__()
        unknown = sorted(set(spec.options) - set(self.OPTIONS))
        if unknown:
            raise ValueError(
                f"predictor {spec.predictor} has no option {', '.join(unknown)}; "
                f"its options: {', '.join(sorted(self.OPTIONS)) or 'none'}"
            )
        self.spec = spec
        self.options = {**self.OPTIONS, **spec.options}
        self.table = AtomTable(vectors, trained=spec.train_vectors)

    @abstractmethod
    def atoms(self, batch: Batch) -> Tensor:
        """Return the atom vectors before pooling, ``(N, D)``."""

    @abstractmethod
    def readout(self, atoms: Tensor, batch: Batch) -> Tensor:
        """Return the normalized prediction ``(B,)`` from atom vectors ``(N, D)``; for C classes ``(B, C)``."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the normalized prediction of B crystals, ``(B,)``; for C classes log-probabilities ``(B, C)``."""
        return self.readout(self.atoms(batch), batch)

    def penalty(self) -> Tensor:
        """Return the penalty added to the training loss, a scalar; 0 unless a predictor overrides it."""
        return torch.zeros((), device=self.table.row.device)
