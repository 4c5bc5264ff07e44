"""Loss and gradient on any number of workers, with different crystals each, equal those of one process.

float64 and gloo; DistributedDataParallel as in training. Tolerance: 1e-9 relative to the largest entry,
a thousand times the effect of reordering sums of at most 1e4 float64 terms, a thousandth of the requirement.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from crysatom import distributed
from crysatom.config import PretrainConfig, paper
from crysatom.names import LOSS
from crysatom.nn.equivalence import EquivalentAtoms
from crysatom.ssl.losses import LOSSES
from crysatom.ssl.node_level import NodeLevelObjective
from crysatom.ssl.objective import Objective
from tests.gloo import run_workers
from tests.synthetic import random_batch, take, with_copies

TOLERANCE = 1e-9
SMALL = {"embedding_dim": 7, "num_layers": 2, "projection_dim": 6, "batch_size": 12}
SPLITS = {"even over 2": [6, 6], "uneven over 2": [9, 3], "uneven over 3": [7, 1, 4], "one idle of 3": [7, 5, 0]}


def model_and_batch(config: dict[str, Any]) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(1)
    features = (torch.rand(100, 20) < 0.2).float()
    objective = NodeLevelObjective if "objective" in config else Objective
    model = objective(PretrainConfig.of(**config), features, torch.arange(1, 101)).double()
    return model, with_copies(random_batch(12, dtype=torch.float64, max_atoms=5))


def evaluate(config: dict[str, Any], split: list[int] | None) -> dict[str, Tensor]:
    """Return losses, parameter gradients and running statistics after one step's backward pass."""
    model, batch = model_and_batch(config)
    wrapped: torch.nn.Module = model
    if split is not None:
        start = sum(split[: distributed.rank()])
        batch = take(batch, start, start + split[distributed.rank()])
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    terms = wrapped(batch, 3)
    terms[LOSS].backward()
    gradients = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.requires_grad}
    statistics = {name: b for name, b in model.named_buffers() if "running" in name}
    return {name: value.detach() for name, value in terms.items() if value.ndim == 0} | gradients | statistics


def published() -> dict[str, Any]:
    config = paper()
    names = ("masked_atoms", "masked_edges", "normalize_projection", "barlow_divisor", "connectivity_mean")
    return {name: config.flat()[name] for name in names}


CONFIGS = {
    **{name: {"ssl_loss": name} for name in LOSSES},
    "reconstruction only": {"ssl_loss": "none"},
    "pairs": {"ssl_loss": "none", "connectivity_mean": "pairs"},
    "published": published(),
    "elements and bonds": {"element_weight": 0.5, "bond_weight": 0.25, "mask_unit": "element"},
    "elements alone": {"ssl_loss": "none", "element_weight": 1.0},
    "masking": {"objective": "masking"},
    "masking of elements": {"objective": "masking", "mask_unit": "element"},
    "context": {"objective": "context"},
    "masking and context": {"objective": "masking_context", "masked_atoms": "zero"},
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS.keys())
def test_workers_equal_one_process(options: dict[str, Any], split: list[int]) -> None:
    config = {**SMALL, **options}
    reference = evaluate(config, None)
    for answer in run_workers(evaluate, len(split), config, split):
        assert answer.keys() == reference.keys()
        for name, value in reference.items():
            difference = (torch.as_tensor(answer[name]) - value).abs().max()
            assert difference <= TOLERANCE * max(1e-3, float(value.abs().max())), (name, float(difference))


def test_the_reference_has_a_gradient_for_every_parameter() -> None:
    for options in CONFIGS.values():
        for name, value in evaluate({**SMALL, **options}, None).items():
            assert torch.isfinite(value).all()
            assert value.abs().max() > 0, name


def test_the_crystals_have_equivalent_atoms() -> None:
    batch = model_and_batch({**SMALL})[1]
    atoms = EquivalentAtoms.of(batch, torch.unique(batch.distance, return_inverse=True)[1])
    assert set(atoms.size.tolist()) == {2}
