"""A trained predictor as the start of another training, with its weights, normalizer and atom vectors."""

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
    """A trained model to start another training from; on the CPU, can be sent to workers.

    Attributes:
        info: Description of the model.
        state: State of its :class:`crysatom.training.regression.Regression`.
        digest: 16 hex digits of its weights.

    """

    info: ModelInfo
    state: Mapping[str, Tensor]
    digest: str

    @property
    def vectors(self) -> AtomVectors:
        """Its atom vectors as the predictor reads them, with the provenance of the original vectors."""
        return dataclasses.replace(vectors_of(self.info, self.state), provenance=self.info.vectors)


def load_trained(folder: str | Path) -> TrainedModel:
    """Read a model from its own folder, or from the folder of its run.

    Raises:
        ValueError: If there is no model, or it is damaged.

    """
    folder = model_folder(Path(folder))
    module, info = load_model(folder)
    digest = file_sha256(folder / MODEL_SAFETENSORS)[:16]
    return TrainedModel(info=info, state=module.state_dict(), digest=digest)
