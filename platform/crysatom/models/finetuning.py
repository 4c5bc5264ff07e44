"""A trained predictor as the start of another training: all its weights, with its normalizer and its atom vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from crysatom.graphs.shards import file_sha256
from crysatom.models.files import MODEL_SAFETENSORS, ModelInfo, load_model, vectors_of
from crysatom.models.inference import model_folder
from crysatom.vectors.table import AtomVectors


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """What another training starts from; on the CPU, can be sent to workers.

    Attributes:
        info: What it is.
        state: Of its :class:`crysatom.training.regression.Regression`.
        digest: 16 hex digits of its weights.

    """

    info: ModelInfo
    state: Mapping[str, Tensor]
    digest: str

    @property
    def vectors(self) -> AtomVectors:
        """Its atom vectors as the predictor sees them, with the provenance of those that they were made of."""
        return dataclasses.replace(vectors_of(self.info, self.state), provenance=self.info.vectors)


def load_trained(folder: str | Path) -> TrainedModel:
    """Read a model from its folder, or from that of the run that left it.

    Raises:
        ValueError: If there is none, or a damaged one.

    """
    folder = model_folder(Path(folder))
    module, info = load_model(folder)
    digest = file_sha256(folder / MODEL_SAFETENSORS)[:16]
    return TrainedModel(info=info, state=module.state_dict(), digest=digest)
