"""Masked elements and contexts: formulas against loops, masking, learning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from crysatom.config import GraphSpec, PretrainConfig
from crysatom.names import CONTEXT, LOSS, MASKING, MAX_ATOMIC_NUMBER
from crysatom.ssl.node_level import NodeLevelObjective, context_loss, masked_element_loss, one_atom
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from tests.graph_crystals import batch_of, small, with_lattice
from tests.small_runs import one_thread, tiny  # noqa: F401

OBJECTIVES = {"masking": {MASKING}, "context": {CONTEXT}, "masking_context": {MASKING, CONTEXT}}


def model_of(objective: str, **options: Any) -> NodeLevelObjective:
    config = tiny(objective=objective, **options)
    model = build(config, element_features(config.encoder.node_features))
    assert isinstance(model, NodeLevelObjective)
    return model


@pytest.fixture(scope="module", name="batch")
def _batch() -> Batch:
    return batch_of(small(8, 10), GraphSpec())


def test_masked_elements_are_classified() -> None:
    logits = torch.randn(5, MAX_ATOMIC_NUMBER, dtype=torch.float64)
    numbers = torch.tensor([1, 8, 118, 26, 8])
    expected = 0.0
    for row, z in zip(logits.tolist(), numbers.tolist(), strict=True):
        expected += math.log(sum(math.exp(x) for x in row)) - row[z - 1]
    assert float(masked_element_loss(logits, numbers)) == pytest.approx(expected / 5, rel=1e-12)


def test_contexts_are_told_from_those_of_the_next_crystal() -> None:
    centers, contexts = torch.randn(2, 4, 3, dtype=torch.float64)
    expected = 0.0
    for i in range(4):
        own = 3**-0.5 * sum(h * c for h, c in zip(centers[i].tolist(), contexts[i].tolist(), strict=True))
        other = 3**-0.5 * sum(h * c for h, c in zip(centers[i].tolist(), contexts[(i + 1) % 4].tolist(), strict=True))
        expected -= math.log(1 / (1 + math.exp(-own))) + math.log(1 - 1 / (1 + math.exp(-other)))
    assert float(context_loss(centers, contexts)) == pytest.approx(expected / 8, rel=1e-12)


def test_a_single_crystal_has_no_negative() -> None:
    center, context = torch.randn(2, 1, 3, dtype=torch.float64)
    expected = math.log(1 + math.exp(-float((center * context).sum()) / 3**0.5))
    assert float(context_loss(center, context)) == pytest.approx(expected, rel=1e-12)


def test_one_atom_of_each_crystal(batch: Batch) -> None:
    chosen = one_atom(batch, batch.material_key)
    assert batch.batch[chosen].tolist() == list(range(batch.num_graphs))
    others = [one_atom(batch, batch.material_key + k) for k in range(1, 9)]
    assert any(not other.equal(chosen) for other in others)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_terms_add_up_and_every_parameter_learns(objective: str, batch: Batch) -> None:
    model = model_of(objective)
    terms = model(batch, 0)
    names = OBJECTIVES[objective]
    assert terms.keys() == {LOSS, "atoms", *names}
    torch.testing.assert_close(terms[LOSS], torch.stack([terms[name] for name in names]).sum())
    terms[LOSS].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_what_is_masked_cannot_be_seen(batch: Batch) -> None:
    """The masked pass does not change if masked atoms are other elements."""
    model = model_of("masking").eval()
    hidden = one_atom(batch, batch.material_key)
    unmasked, masked = model.encode(batch, hidden)
    other = batch.clone()
    other.atomic_numbers = torch.where(hidden, batch.atomic_numbers % 90 + 1, batch.atomic_numbers)
    changed, same = model.encode(other, hidden)
    torch.testing.assert_close(same, masked, rtol=0, atol=1e-6)
    assert not torch.allclose(changed, unmasked)
    assert torch.equal(unmasked, model.atom_vectors(batch))


def test_a_context_does_not_know_its_center(batch: Batch) -> None:
    model = model_of("context").eval()
    center = one_atom(batch, batch.material_key)
    expected = model.surroundings(batch, center)
    other = batch.clone()
    other.atomic_numbers = torch.where(center, batch.atomic_numbers % 90 + 1, batch.atomic_numbers)
    torch.testing.assert_close(model.surroundings(other, center), expected, rtol=0, atol=1e-6)
    assert expected.shape == (batch.num_graphs, 8)


@pytest.mark.parametrize("padded", [False, True])
def test_an_isolated_atom_has_an_empty_context(padded: bool) -> None:
    crystal = small(8, 3)[0]
    lonely = with_lattice(crystal, 60.0 * np.eye(3), crystal.frac_coords)
    batch = batch_of(
        [lonely, *small(8, 3)], GraphSpec(ties="truncate" if padded else "complete", pad_short_lists=padded)
    )
    model = model_of("context").eval()
    center = one_atom(batch, batch.material_key)
    assert (0 in batch.batch[batch.edge_index[1]]) == padded, "it has no neighbors but padding"
    assert model.surroundings(batch, center)[0].abs().max() == 0
    assert torch.isfinite(model(batch, 0)[LOSS])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_few_crystals_are_learned_by_heart(objective: str) -> None:
    """The same atoms are masked throughout; contexts of five different crystals can be distinguished."""
    batch = batch_of(small(8, 5), GraphSpec())
    model = model_of(objective, embedding_dim=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = float(model(batch, 0)[LOSS].detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(batch, 0)[LOSS]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * first


def test_masks_change_with_epoch_and_seed_only(batch: Batch) -> None:
    model = model_of("masking").eval()
    losses = [float(model(batch, epoch)[LOSS].detach()) for epoch in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    model.config = model.config.replace(seed=5)
    assert float(model(batch, 0)[LOSS].detach()) != losses[0]


def test_nothing_to_predict_is_refused() -> None:
    with pytest.raises(ValueError, match="objective 'masking' predicts masked atoms: set atom_mask_fraction above 0"):
        PretrainConfig.of(objective="masking", atom_mask_fraction=0.0)
    PretrainConfig.of(objective="context", atom_mask_fraction=0.0)
    with pytest.raises(ValueError, match=r"objective must be one of .*, got 'contexts'"):
        PretrainConfig.of(objective="contexts")
