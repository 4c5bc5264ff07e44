"""Moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of a model's parameters and running statistics (Polyak & Juditsky 1992).

    Args:
        model: Averaged over its updates.
        decay: Weight of the past; 0 keeps no average, and the methods then leave the model as it is.

    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors = {k: v.clone() for k, v in model.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        for name, value in self.model.state_dict().items() if self.decay else ():
            if value.is_floating_point():  # an index is no quantity
                self.tensors[name].lerp_(value, 1 - self.decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average into the model."""
        if self.decay:
            self.model.load_state_dict(self.tensors)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for a while."""
        present = {k: v.clone() for k, v in self.model.state_dict().items()} if self.decay else {}
        self.apply()
        yield
        if present:
            self.model.load_state_dict(present)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the average from a checkpoint."""
        for name in self.tensors:
            self.tensors[name].copy_(tensors[name])
