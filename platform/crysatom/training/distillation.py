"""Distillation from a frozen pretrained encoder, as in CrysGNN.

Das, Samanta, Goyal, Lee, Bhattacharjee & Ganguly, AAAI 2023, arXiv 2301.05852. In the released code the teacher stays
in training mode. Here it is in evaluation mode, so its output for a crystal does not depend on other crystals.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.distributed import all_reduce_sum
from crysatom.nn.pooling import pool
from crysatom.ssl.encoder import Encoder


def distillation_loss(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    r"""Return the distance between the directions of two sets of atom vectors, over the crystals of all workers.

    .. math:: \frac{1}{B} \sum_b \frac{1}{n_b D} \sum_{u \in b}
              \Bigl\| \frac{s_u}{\|s_u\|} - \frac{t_u}{\|t_u\|} \Bigr\|^2

    The mean over crystals of the mean squared error between unit rows, as in CrysGNN's code.

    Args:
        student: ``(N, D)``.
        teacher: ``(N, D)``.
        batch: The B crystals that the N atoms belong to.

    """
    squares = (F.normalize(student) - F.normalize(teacher)).square().mean(1, keepdim=True)
    crystals = pool(squares.double(), batch)[:, 0]
    sums = all_reduce_sum(torch.stack([crystals.sum(), crystals.new_tensor(len(crystals))]))
    return sums[0] / sums[1]


class Distillation(nn.Module):
    """Pulls a student's atom vectors towards those of a teacher.

    The teacher is not a submodule: it is not trained, saved or averaged, and stays in evaluation mode.

    Args:
        teacher: Frozen encoder.
        width: Length of the student's atom vectors. If the teacher's differ in length, a linear map takes the student's
            to that length; it is trained with the student and then dropped.
        weight: Weight w of the distillation in the training loss, (1 - w) property + w distillation.

    """

    def __init__(self, teacher: Encoder, width: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self._teacher = (teacher,)  # torch does not register modules inside a tuple
        teacher_width = teacher.embedding.out_features
        self.map = nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width, bias=False)

    @property
    def teacher(self) -> Encoder:
        """The frozen encoder."""
        return self._teacher[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the teacher too when the device or type changes."""
        # torch does the same for submodules
        self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]  # noqa: SLF001
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, atoms: Tensor, batch: Batch) -> Tensor:
        """Return the distillation loss of the student's atom vectors ``(N, width)``, a scalar."""
        with torch.no_grad():
            wanted = self.teacher.unmasked(batch, self.teacher.basis(batch.distance))
        return distillation_loss(self.map(atoms), wanted, batch)
