"""Masks of an objective, and the crystals of its running statistics."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.ssl.node_level import NodeLevelObjective
from crysatom.ssl.objective import Objective
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from tests.graph_crystals import batch_of, small
from tests.small_runs import one_thread, tiny  # noqa: F401
from tests.unit.test_ssl_views import uniform_batch

CRYSTALS, ATOMS, EDGES = 8, 40, 12
SEEDS, EPOCHS = (0, 1, 7), (-1, 0, 1, 2)


def model_of(**options: Any) -> Objective | NodeLevelObjective:
    config = tiny(**options)
    return build(config, element_features(config.encoder.node_features))


def masks_of(model: Objective | NodeLevelObjective, batch: Batch, **changes: Any) -> list[Tensor]:
    """Return all masks of an epoch with changed settings, ``(CRYSTALS, ...)`` each."""
    epoch = changes.pop("epoch", 0)
    model.config = model.config.replace(**changes)
    first, second = model.masks(batch, epoch)
    masks = [*first, *second] if isinstance(first, list) else [first, second]
    return [mask.view(batch.num_graphs, -1) for mask in masks]


OBJECTIVES: dict[str, dict[str, Any]] = {"views": {}, "masked atoms and centers": {"objective": "masking_context"}}


@pytest.fixture(name="model", params=OBJECTIVES.values(), ids=OBJECTIVES.keys())
def _model(request: pytest.FixtureRequest) -> Objective | NodeLevelObjective:
    return model_of(**request.param)


@pytest.fixture(name="alike")
def _alike() -> Batch:
    """Crystals that differ only in their keys: differences between masks are random."""
    return uniform_batch([ATOMS] * CRYSTALS, EDGES)


def test_masks_are_others_by_seed_epoch_and_view(model: Objective | NodeLevelObjective, alike: Batch) -> None:
    """Two masks are equal by chance once in 40^8 draws."""
    drawn = [
        mask
        for seed, epoch in itertools.product(SEEDS, EPOCHS)
        for mask in masks_of(model, alike, seed=seed, epoch=epoch)
    ]
    assert len(drawn) == len(SEEDS) * len(EPOCHS) * len(masks_of(model, alike))
    for one, two in itertools.combinations(drawn, 2):
        assert one.shape != two.shape or not torch.equal(one, two)


def test_masks_are_others_for_each_crystal_and_the_same_wherever_it_is(
    model: Objective | NodeLevelObjective, alike: Batch
) -> None:
    order = torch.arange(CRYSTALS).flip(0)
    turned = alike.clone()
    turned.material_key = alike.material_key[order]
    for mask, moved in zip(masks_of(model, alike, epoch=1), masks_of(model, turned, epoch=1), strict=True):
        assert len(mask.unique(dim=0)) == CRYSTALS
        assert torch.equal(moved, mask[order])


def test_as_much_is_masked_as_was_asked_for(alike: Batch) -> None:
    shares = {"atom_mask_fraction": 0.2, "edge_mask_fraction": 0.5}
    *atoms, edges, others = masks_of(model_of(**shares), alike)
    assert [mask.sum(1).tolist() for mask in atoms] == [[ATOMS // 5] * CRYSTALS] * 2
    assert [mask.sum(1).tolist() for mask in (edges, others)] == [[ATOMS * EDGES // 2] * CRYSTALS] * 2
    hidden, center = masks_of(model_of(objective="masking_context", **shares), alike)
    assert (hidden.sum(1).tolist(), center.sum(1).tolist()) == ([ATOMS // 5] * CRYSTALS, [1] * CRYSTALS)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.named_buffers() if "running" in name}


@pytest.mark.parametrize(
    "options",
    [{"ssl_loss": "barlow_twins"}, {"ssl_loss": "none"}, {"objective": "masking"}, {"objective": "masking_context"}],
    ids=str,
)
def test_running_statistics_follow_crystals_as_they_are(options: dict[str, Any]) -> None:
    """They are those of a pass without masks, and evaluation does not change them."""
    model = model_of(atom_mask_fraction=0.5, edge_mask_fraction=0.5 if "ssl_loss" in options else 0.1, **options)
    batch = batch_of(small(8, 10), model.config.graph)
    reference, before = copy.deepcopy(model.encoder), statistics(model.encoder)
    reference.unmasked(batch, reference.basis(batch.distance))
    model(batch, 0)
    followed = statistics(model.encoder)
    assert all(not torch.equal(followed[name], before[name]) for name in before)
    torch.testing.assert_close(followed, statistics(reference), rtol=1e-6, atol=1e-7)
    model.eval()
    model(batch, 1)
    model.atom_vectors(batch)
    torch.testing.assert_close(statistics(model.encoder), followed, rtol=0, atol=0)
