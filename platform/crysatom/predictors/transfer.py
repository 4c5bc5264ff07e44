"""Convolutions of a pretrained encoder as the start of a predictor's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from crysatom.predictors.cgcnn import CGCNN

CONVOLUTIONS = "convs."
ENCODER = "encoder."
UNUSED = "num_batches_tracked"
"""Written by torch's own batch norm, which the published models use; nothing depends on it."""


@torch.no_grad()
def load_convolutions(predictor: CGCNN, weights: Mapping[str, Tensor]) -> None:
    """Start the convolutions of a predictor from those of a pretrained encoder, as CrysXPP does.

    Weights and the statistics of the batch norms are taken over; the encoder's embedding and the decoders are not,
    since they belong to the encoder's own element features.

    Args:
        predictor: Changed in place. Needs the encoder's width, number of layers and Gaussians.
        weights: Entries ``encoder.convs.<layer>.<name>`` of the pretraining's objective, or
            ``convs.<layer>.<name>``; others are ignored.

    Raises:
        ValueError: If there are no such entries, or they do not fit the predictor.

    """
    found = {
        name.removeprefix(ENCODER).removeprefix(CONVOLUTIONS): value
        for name, value in weights.items()
        if name.removeprefix(ENCODER).startswith(CONVOLUTIONS) and not name.endswith(UNUSED)
    }
    if not found:
        raise ValueError(
            f"no convolutions among the pretrained weights: none of the {len(weights)} entries is named "
            f"{ENCODER}{CONVOLUTIONS}<layer>.<name>; give the weights of a pretraining run"
        )
    expected = predictor.convs.state_dict()
    _check_architecture(found, expected)
    for name, value in expected.items():
        value.copy_(found[name])


def _check_architecture(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes; say what to change."""
    layers, wanted = (len({name.partition(".")[0] for name in names}) for names in (found, expected))
    if layers != wanted:
        raise ValueError(
            f"the pretrained encoder has {layers} convolutions, the predictor {wanted}: set num_layers={layers}"
        )
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise ValueError(f"the pretrained convolutions are not CGCNN's: missing {missing}, unknown {extra}")
    width, wanted = (len(names["0.bn2.weight"]) for names in (found, expected))
    if width != wanted:
        raise ValueError(f"the pretrained encoder has width {width}, the predictor {wanted}: set width={width}")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise ValueError(
                f"the pretrained {CONVOLUTIONS}{name} has shape {tuple(found[name].shape)}, the predictor's "
                f"{tuple(value.shape)}: use the cutoff and basis_step of the pretraining"
            )
