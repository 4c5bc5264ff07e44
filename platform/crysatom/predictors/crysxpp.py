"""CrysXPP's property predictor: CGCNN that learns which components of the atom vectors matter.

Das, Samanta, Goyal, Lee, Bhattacharjee & Ganguly, npj Comput. Mater. 8, 43 (2022). Its convolutions start from those
of a pretrained auto-encoder: :func:`crysatom.predictors.transfer.load_convolutions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.cgcnn import CGCNN
from crysatom.vectors.table import AtomVectors


class CrysXPP(CGCNN):
    """CGCNN after a feature selector: one factor per component of the atom vectors, with an L1 penalty.

    The released code omits the L1 term of the paper; this is ``mask_penalty=0``.
    """

    OPTIONS: ClassVar[Mapping[str, float]] = {"mask_penalty": 0.01}
    """``mask_penalty``: weight of the mean absolute factor in the loss."""

    def __init__(self, spec: PredictorSpec, vectors: AtomVectors) -> None:
        super().__init__(spec, vectors)
        self.mask = nn.Parameter(torch.ones(vectors.dim))

    def inputs(self, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the selected vectors of the distinct elements ``(P, K)``, and the row of each atom ``(N,)``."""
        different, kind = super().inputs(atomic_numbers)
        return different * self.mask, kind

    def penalty(self) -> Tensor:
        """Return the L1 term, a scalar."""
        return self.options["mask_penalty"] * self.mask.abs().mean()
