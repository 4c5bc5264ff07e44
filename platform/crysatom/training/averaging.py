"""Moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of a model's parameters and running statistics (Polyak & Juditsky 1992).

    Args:
        model: Model whose weights are averaged.
        decay: Weight of the past; 0 disables the average, and all methods leave the model unchanged.

    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors = {k: v.clone() for k, v in model.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Add the model's current weights to the average."""
        for name, value in self.model.state_dict().items() if self.decay else ():
            if value.is_floating_point():  # integer buffers are indices
                self.tensors[name].lerp_(value, 1 - self.decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Copy the average into the model."""
        if self.decay:
            self.model.load_state_dict(self.tensors)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the average as the model's weights inside the block."""
        present = {k: v.clone() for k, v in self.model.state_dict().items()} if self.decay else {}
        self.apply()
        yield
        if present:
            self.model.load_state_dict(present)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the average from a checkpoint."""
        for name in self.tensors:
            self.tensors[name].copy_(tensors[name])
