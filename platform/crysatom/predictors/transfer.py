"""Initialize a predictor's convolutions from a pretrained encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from crysatom.predictors.base import Predictor
from crysatom.predictors.cgcnn import CGCNN

CONVOLUTIONS = "convs."


def start_from_encoder(
    predictor: Predictor, weights: Mapping[str, Tensor], features: Tensor, atomic_numbers: Tensor
) -> bool:
    """Initialize a predictor from a pretrained encoder: its convolutions and, if possible, its embedding.

    The embedding belongs to the encoder's own element features. It is copied if these are the predictor's atom
    vectors, so that training starts from the encoder's own output; otherwise it stays random, as in CrysXPP.

    Args:
        predictor: Changed in place.
        weights: Weights of the encoder, see :func:`load_convolutions`.
        features: ``(M, K)``, element features of the encoder.
        atomic_numbers: ``(M,)``, elements of these features.

    Returns:
        Whether the embedding was copied.

    Raises:
        ValueError: If the predictor has no such convolutions, or the weights do not fit.

    """
    if not isinstance(predictor, CGCNN):
        raise ValueError(  # noqa: TRY004 - a user's choice of flags
            f"predictor {predictor.spec.predictor} has no convolutions that a pretrained encoder could start; "
            "choose cgcnn or crysxpp for --init-encoder, or use the encoder by --vectors or --distill"
        )
    load_convolutions(predictor, weights)
    same = _reads(predictor, features, atomic_numbers)
    if same:
        with torch.no_grad():
            predictor.embedding.weight.copy_(weights["embedding.weight"])
            predictor.embedding.bias.zero_()
    return same


def _reads(predictor: CGCNN, features: Tensor, atomic_numbers: Tensor) -> bool:
    """Return whether the predictor's atom vectors are these features of these elements."""
    row, vectors = predictor.table.row, predictor.table.vectors
    known = row[atomic_numbers] < len(vectors)
    if int(known.sum()) < len(vectors) or vectors.shape[1] != features.shape[1]:
        return False
    return torch.equal(vectors[row[atomic_numbers[known]]], features[known].to(vectors.dtype))


@torch.no_grad()
def load_convolutions(predictor: CGCNN, weights: Mapping[str, Tensor]) -> None:
    """Initialize the convolutions of a predictor from those of a pretrained encoder, as CrysXPP does.

    Weights and batch norm statistics are copied; the encoder's embedding and the decoders are not, since they belong to
    the encoder's own element features.

    Args:
        predictor: Changed in place. It must have the encoder's width, number of layers and Gaussians.
        weights: Entries ``convs.<layer>.<name>``; others are ignored.

    Raises:
        ValueError: If they do not fit the predictor.

    """
    found = {name.removeprefix(CONVOLUTIONS): value for name, value in weights.items() if name.startswith(CONVOLUTIONS)}
    expected = predictor.convs.state_dict()
    _check_architecture(found, expected)
    for name, value in expected.items():
        value.copy_(found[name])


def _check_architecture(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes; raise with the change that is needed."""
    (layers, width), (my_layers, my_width) = (
        (len({name.partition(".")[0] for name in names}), len(names.get("0.bn2.weight", ())))
        for names in (found, expected)
    )
    if (layers, width) != (my_layers, my_width):
        raise ValueError(
            f"the encoder has {layers} convolutions of width {width}, the predictor {my_layers} of width {my_width}; "
            f"give --width {width} --num-layers {layers}"
        )
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise ValueError(f"the pretrained convolutions are not CGCNN's: missing {missing}, unknown {extra}")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise ValueError(
                f"the pretrained {CONVOLUTIONS}{name} has shape {tuple(found[name].shape)}, the predictor's "
                f"{tuple(value.shape)}: use the cutoff and basis_step of the pretraining"
            )
