"""Read checkpoints of CGCNN's code: those that its authors published, and those of its users.

Such a file is a pickle, which could run any code. It is read by torch's restricted unpickler, which builds
tensors, numbers, texts and containers and nothing else. One of the published files needs three more names for its
best validation error, a NumPy scalar. They resolve to :class:`_Ignored`, not to NumPy's functions of these names, so
reading still calls nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from crysatom.config import GraphSpec
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.cgcnn import CGCNN
from crysatom.predictors.crysxpp import CrysXPP
from crysatom.vectors.table import AtomVectors

GRAPH = GraphSpec(cutoff=8.0, num_neighbors=12, ties="truncate", pad_short_lists=True)
"""Graph specification that the published models were trained with."""

BASIS_STEP = 0.2
"""Spacing of their Gaussians, in angstrom."""

TABLE = "table."
UNUSED = "num_batches_tracked"

UNITS = {
    "formation_energy_per_atom": "eV/atom",
    "final_energy_per_atom": "eV/atom",
    "band_gap": "eV",
    "efermi": "eV",
    "bulk_moduli": "log10(GPa)",
    "shear_moduli": "log10(GPa)",
}
"""Units of targets that only the published files name, from README.md of pre-trained/ in txie-93/cgcnn. It gives the
Fermi energy in eV/atom, though it is a level, and does not state the base of the logarithm."""

Task = Literal["regression", "classification"]


class _Ignored:
    """Placeholder for a NumPy scalar of the file: accepts any arguments and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_IGNORED = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode")


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedCGCNN:
    """Model of the published code.

    Attributes:
        spec: Architecture, inferred from the shapes of the weights.
        num_features: K, number of input features of an element; 92 in the published models.
        weights: Weights by the names of :class:`CGCNN`.
        mean: Added to a prediction after multiplication by ``std``; in the unit of the property.
        std: See ``mean``.
        task: Whether it predicts a number, or the probability of the second class (published: metal).
        target: Name of the training target in the file; empty if there is none.
        epoch: Epoch at which it was saved.
        best: Best validation error, in the unit of the property; None if the file holds no plain number.

    """

    spec: PredictorSpec
    num_features: int
    weights: dict[str, Tensor]
    mean: float
    std: float
    task: Task
    target: str
    epoch: int
    best: float | None

    @property
    def unit(self) -> str:
        """Unit of the target, or ``probability``; empty if it is unknown or the target is a pure number."""
        return "probability" if self.task == "classification" else UNITS.get(self.target, "")

    def build(self, vectors: AtomVectors) -> CGCNN:
        """Return the predictor, in evaluation mode.

        Args:
            vectors: Element features of its training: ``vectors.published.cgcnn_bits()`` for the published models.

        Raises:
            ValueError: If the vectors have another dimension.

        """
        if vectors.dim != self.num_features:
            raise ValueError(
                f"this model reads {self.num_features} features per element, these vectors have {vectors.dim}; "
                "a published model needs CGCNN's own 92 bits (onehot92), another one the atom_init.json it was "
                "trained with"
            )
        return _filled(self.spec, self.weights, vectors)

    def values(self, outputs: Tensor) -> Tensor:
        """Convert the predictor's outputs to the values that the published code writes, ``(B,)``."""
        if self.task == "classification":
            return outputs[:, 1].exp()
        return outputs * self.std + self.mean


def read_published(path: str | Path) -> PublishedCGCNN:
    """Read a ``.pth.tar`` of CGCNN's code, or of CrysXPP's, which has the same format.

    Raises:
        ValueError: If the file cannot be read without running code from it, or is not such a checkpoint.

    """
    content = _load(Path(path))
    try:
        weights = _weights(content["state_dict"])
        mean, std = (float(content["normalizer"][key]) for key in ("mean", "std"))
        epoch, best, arguments = content["epoch"], content["best_mae_error"], content["args"]
        spec = _specification(weights)
        task = str(arguments.get("task", "regression"))
        options = list(arguments.get("data_options", ()))
    except KeyError as error:
        raise ValueError(_not_ours(path, f"it has no entry {error}")) from error
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(_not_ours(path, str(error))) from error
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(_not_ours(path, f"it normalizes by mean {mean} and standard deviation {std}"))
    if {"regression": 1, "classification": 2}.get(task) != spec.outputs:
        raise ValueError(_not_ours(path, f"its task is {task!r}, and it has {spec.outputs} outputs"))
    return PublishedCGCNN(
        spec=spec,
        num_features=weights["embedding.weight"].shape[1],
        weights=weights,
        mean=mean,
        std=std,
        task="classification" if task == "classification" else "regression",
        target=_target(options),
        epoch=int(epoch),
        best=float(best) if isinstance(best, (int, float)) else None,
    )


def _target(options: list[Any]) -> str:
    """Return the training target; only files whose data options are (file, task, target) contain it."""
    return str(options[2]) if len(options) > 2 and options[1] in get_args(Task) else ""


def _not_ours(path: str | Path, reason: str) -> str:
    return f"{path} is not a checkpoint of CGCNN's code: {reason}; give a .pth.tar that its main.py saved"


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a .pth.tar of CGCNN's code")
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in _IGNORED]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch does not document what it raises for broken or hostile files
        # torch's own message advises to disable the restriction; its cause says what was found
        cause = error.__context__ or error
        reason = str(cause).partition("\n")[0].partition(". ")[0] or type(cause).__name__
        raise ValueError(
            f"{path} cannot be read as weights, and nothing in it was run: {reason.rstrip('.')}; "
            "a checkpoint of CGCNN's code holds tensors, numbers and texts only"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(_not_ours(path, f"it holds a {type(content).__name__}"))  # noqa: TRY004 - a user's file
    return content


def _weights(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the predictor, in float32."""
    weights = {str(name): value for name, value in entries.items() if not str(name).endswith(UNUSED)}
    for name, value in weights.items():
        if not (isinstance(value, Tensor) and value.is_floating_point() and torch.isfinite(value).all()):
            raise ValueError(f"{name} is not a tensor of finite numbers")
    return {name: value.detach().float() for name, value in weights.items()}


def _specification(weights: dict[str, Tensor]) -> PredictorSpec:
    """Infer the architecture from the shapes, and check all of them against it."""
    width, num_features = weights["embedding.weight"].shape
    hidden_dim = len(weights["conv_to_fc.weight"])
    count = {
        kind: len({name.split(".")[1] for name in weights if name.startswith(f"{kind}.")}) for kind in ("convs", "fcs")
    }
    spec = PredictorSpec(
        predictor="crysxpp" if "mask" in weights else "cgcnn",
        width=width,
        num_layers=count["convs"],
        hidden_dim=hidden_dim,
        num_hidden=1 + count["fcs"],
        cutoff=GRAPH.cutoff,
        basis_step=BASIS_STEP,
        outputs=len(weights["fc_out.weight"]),
    )
    hydrogen = np.ones(1, dtype=np.int64)
    _filled(spec, weights, AtomVectors(atomic_numbers=hydrogen, vectors=np.zeros((1, num_features), dtype=np.float32)))
    return spec


def _filled(spec: PredictorSpec, weights: dict[str, Tensor], vectors: AtomVectors) -> CGCNN:
    """Return a predictor with these weights, in evaluation mode."""
    model = (CrysXPP if spec.predictor == "crysxpp" else CGCNN)(spec, vectors)
    own = {name: value for name, value in model.state_dict().items() if name.startswith(TABLE)}
    model.load_state_dict({**weights, **own})
    return model.eval()
