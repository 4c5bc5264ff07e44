"""What is summed up over the steps of an epoch, and what workers tell each other on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from crysatom import distributed
from crysatom.names import LOSS


@dataclass
class Totals:
    """Sums over an epoch, or as much of it as is done.

    Attributes:
        sums: Of each scalar term of the loss, over crystals, float64; kept on the device until asked for.
        crystals: How many.
        steps: Global batches.
        seconds: Time of this worker.
        waited: Part of it that this worker waited for batches.

    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    crystals: int = 0
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, terms: dict[str, Tensor], local_crystals: int, wish: int = 0) -> int:
        """Add a batch; return the sum of the workers' wishes, which travel with the numbers of their crystals."""
        numbers = [float(local_crystals), float(wish)]
        count = distributed.all_reduce_sum(torch.tensor(numbers, device=terms[LOSS].device))
        for name, value in terms.items():
            if value.ndim == 0:
                self.sums[name] = self.sums.get(name, 0) + value.detach().double() * count[0]
        crystals, wishes = count.tolist()
        self.crystals += int(crystals)
        self.steps += 1
        return int(wishes)

    def means(self, split: str) -> dict[str, float]:
        """Return ``<split>/<term>``, each the mean over crystals."""
        return {f"{split}/{name}": float(total) / max(self.crystals, 1) for name, total in self.sums.items()}

    def numbers(self) -> dict[str, Any]:
        """Return all but the sums, as JSON values."""
        return {name: getattr(self, name) for name in ("crystals", "steps", "seconds", "waited")}
