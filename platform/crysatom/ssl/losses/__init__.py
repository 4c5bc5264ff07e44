"""Self-supervised losses between two views, each exact over all workers; one formula per file.

Each NAME in :data:`crysatom.names.SSLLoss` is the function NAME of ``NAME.py`` in this folder. It takes the projections
``z_a`` and ``z_b``, ``(n, d)`` each, of the n crystals this worker holds and returns the loss of the global batch. If
it has options, ``options(config, batch)`` in the same file returns them as keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args

from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.names import SSLLoss

Options = Callable[[PretrainConfig, Batch], Mapping[str, Any]]


@dataclass(frozen=True)
class Loss:
    """Self-supervised loss with the interface of the objective.

    Attributes:
        formula: Pure function of the two views and its options.
        options: Returns the options from the configuration and this worker's batch.

    """

    formula: Callable[..., Tensor]
    options: Options

    def __call__(self, z_a: Tensor, z_b: Tensor, config: PretrainConfig, batch: Batch) -> Tensor:
        """Return the loss of the global batch, a scalar, from the views ``(n, d)`` of this worker's crystals."""
        return self.formula(z_a, z_b, **self.options(config, batch))


def _no_options(config: PretrainConfig, batch: Batch) -> Mapping[str, Any]:  # noqa: ARG001
    return {}


def _load(name: str) -> Loss:
    module = import_module(f"{__name__}.{name}")
    return Loss(getattr(module, name), getattr(module, "options", _no_options))


LOSSES: dict[str, Loss] = {name: _load(name) for name in get_args(SSLLoss) if name != "none"}
"""Every loss that ``--ssl-loss`` accepts, by name; ``none`` trains without one."""
