"""A pretrained encoder as a folder of ``encoder.safetensors`` and ``encoder.json``, so that loading runs no code."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from crysatom.config import GraphSpec
from crysatom.config.files import read_text
from crysatom.ssl.encoder import Encoder
from crysatom.writing import write_bytes, write_text

ENCODER = "encoder"
"""Folder of a pretraining's encoder, in its results and in its MLflow artifacts."""

ENCODER_JSON = "encoder.json"
ENCODER_SAFETENSORS = "encoder.safetensors"
FORMAT_VERSION = 1

_FEATURES, _NUMBERS = "elements.features", "elements.atomic_numbers"


MISFITS = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError)
"""Exceptions raised when a network is built from sizes and tensors that do not match."""


def require_room(tensors: Mapping[str, Tensor], *sizes: int) -> None:
    """Check that the sizes of a network do not exceed what its tensors can hold.

    Raises:
        ValueError: If they do; building such a network could take any time and memory.

    """
    most = sum(tensor.numel() for tensor in tensors.values())
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= most:
            raise ValueError(f"a size is {str(size)[:40]}, but the tensors hold {most} numbers")
    if math.prod(sizes) > most:
        raise ValueError(f"sizes are {sizes}, but the tensors hold {most} numbers")


@dataclass(frozen=True, kw_only=True, eq=False)
class PretrainedEncoder:
    """A pretrained encoder with its element features; on the CPU, can be sent to workers.

    Attributes:
        width: D, length of an atom's vector.
        num_layers: Number of convolutions.
        learned_mask: Whether masked atoms have a learned vector.
        graph: How the training crystals were turned into graphs.
        features: ``(M, K)`` float32, input features of each element.
        atomic_numbers: ``(M,)`` int64, the elements of ``features``.
        weights: State dict of the :class:`Encoder`.

    """

    width: int
    num_layers: int
    learned_mask: bool
    graph: GraphSpec
    features: Tensor
    atomic_numbers: Tensor
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, encoder: Encoder, graph: GraphSpec, features: Tensor, atomic_numbers: Tensor) -> PretrainedEncoder:
        """Return a copy of an encoder on the CPU; see the attributes."""
        return cls(
            width=encoder.embedding.out_features,
            num_layers=len(encoder.convs),
            learned_mask=encoder.mask_vector is not None,
            graph=graph,
            features=features,
            atomic_numbers=atomic_numbers,
            weights={name: tensor.detach().cpu().clone() for name, tensor in encoder.state_dict().items()},
        )

    @cached_property
    def digest(self) -> str:
        """16 hex digits of everything that affects the output; does not depend on where it was read from."""
        content = hashlib.sha256(json.dumps(self.architecture, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            content.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return content.hexdigest()[:16]

    def build(self) -> Encoder:
        """Return the encoder, frozen and in evaluation mode."""
        encoder = Encoder(
            self.features,
            self.atomic_numbers,
            width=self.width,
            num_layers=self.num_layers,
            cutoff=self.graph.cutoff,
            learned_mask=self.learned_mask,
        )
        encoder.load_state_dict(dict(self.weights))
        return encoder.eval().requires_grad_(requires_grad=False)

    @property
    def architecture(self) -> dict[str, Any]:
        """Sizes of the network and its graph settings, as JSON values."""
        names = ("width", "num_layers", "learned_mask")
        return {**{name: getattr(self, name) for name in names}, "graph": self.graph.to_dict()}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights and element features, by their names in a file."""
        return {**self.weights, _FEATURES: self.features, _NUMBERS: self.atomic_numbers}


def save_encoder(folder: Path, encoder: PretrainedEncoder, training: Mapping[str, Any]) -> None:
    """Write an encoder into a folder; create the folder if needed.

    Args:
        folder: Folder to write to.
        encoder: Encoder to write.
        training: Facts about the pretraining, JSON values; for people, not read back.

    """
    from safetensors.torch import save as serialize  # here and below: training must not need the package

    folder.mkdir(parents=True, exist_ok=True)
    tensors = serialize({name: tensor.contiguous() for name, tensor in encoder.tensors.items()})
    write_bytes(folder / ENCODER_SAFETENSORS, tensors)
    content = {"format_version": FORMAT_VERSION, **encoder.architecture, "training": dict(training)}
    write_text(folder / ENCODER_JSON, json.dumps(content, indent=1))


def load_encoder(folder: str | Path) -> PretrainedEncoder:
    """Read an encoder that :func:`save_encoder` wrote.

    Args:
        folder: The encoder's own folder, or that of the pretraining run.

    Raises:
        ValueError: If there is no encoder, or it is damaged.

    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    given = Path(folder)
    folder = given / ENCODER if (given / ENCODER).is_dir() else given
    try:
        content = json.loads(read_text(folder / ENCODER_JSON))
        tensors = load_file(folder / ENCODER_SAFETENSORS)
    except OSError as error:
        raise ValueError(
            f"{given} holds no pretrained encoder ({ENCODER}/{ENCODER_JSON} and {ENCODER}/{ENCODER_SAFETENSORS}); "
            "give the folder of a finished pretraining run, or pretrain again if its version kept no encoders"
        ) from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{folder} holds a damaged encoder ({shorten(str(error), 300)}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{folder} holds a damaged encoder ({ENCODER_JSON} is no JSON object); copy it again")  # noqa: TRY004 - a user's file
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder} holds an encoder of format {shorten(str(content.get('format_version')), 40)}, this code reads "
            f"{FORMAT_VERSION}; use the version of crysatom that made it"
        )
    try:
        found = PretrainedEncoder(
            width=content["width"],
            num_layers=content["num_layers"],
            learned_mask=content["learned_mask"],
            graph=GraphSpec(**content["graph"]),
            features=tensors.pop(_FEATURES),
            atomic_numbers=tensors.pop(_NUMBERS),
            weights=tensors,
        )
        require_room(tensors, found.width, found.num_layers)
        with torch.random.fork_rng(devices=()):  # building draws initial weights; keep the caller's random state
            found.build()
    except MISFITS as error:
        cause = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder}: {ENCODER_JSON} and {ENCODER_SAFETENSORS} do not fit together ({cause})") from error
    return found
