"""Sums over the steps of an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from crysatom import distributed
from crysatom.names import LOSS


@dataclass
class Totals:
    """Sums over an epoch, or over the part of it that is done.

    Attributes:
        sums: Each scalar term of the loss summed over crystals, float64; on the device until read.
        crystals: Number of crystals.
        steps: Number of global batches.
        seconds: Time on this worker.
        waited: Part of the time that this worker waited for batches.

    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    crystals: int = 0
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, terms: dict[str, Tensor], local_crystals: int, action: int = 0) -> int:
        """Add a batch; return the sum of the workers' actions, which is reduced together with the crystal counts."""
        crystals, actions = float(local_crystals), float(action)
        if distributed.world_size() > 1:  # alone, the numbers need not go to the device and back, which would wait
            counts = torch.tensor([crystals, actions], device=terms[LOSS].device)
            crystals, actions = distributed.all_reduce_sum(counts).tolist()
        for name, value in terms.items():
            if value.ndim == 0:
                self.sums[name] = self.sums.get(name, 0) + value.detach().double() * crystals
        self.crystals += int(crystals)
        self.steps += 1
        return int(actions)

    def means(self, split: str) -> dict[str, float]:
        """Return the mean over crystals of each term, as ``<split>/<term>``."""
        return {f"{split}/{name}": float(total) / max(self.crystals, 1) for name, total in self.sums.items()}

    def numbers(self) -> dict[str, Any]:
        """Return everything except the sums, as JSON values."""
        return {name: getattr(self, name) for name in ("crystals", "steps", "seconds", "waited")}
