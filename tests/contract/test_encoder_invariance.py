"""Invariance of the encoder on real crystals: results depend on the crystal, not on its description.

Evaluation mode, after some training steps (so that statistics and weights are not those of initialization).

Tolerance 1e-5 absolute in float32, for vectors with largest entries of 2 to 4: about ten times the rounding of matrix
products of other shapes. Distances are on a grid, so the observed difference is exactly zero for rotations,
translations, cells and supercells, 1e-6 for other orders of sites, and 3e-6 for other batches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from crysatom.crystals.table import Crystal
from crysatom.names import CONNECTIVITY, FEATURES, LOSS, SSL, SSLLoss
from crysatom.ssl.objective import Objective
from crysatom.training import checkpoints
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from crysatom.vectors.extract import ElementMoments
from tests.graph_crystals import (
    batch_of,
    in_another_cell,
    reordered,
    rotated,
    small,
    supercell,
    translated,
    unwrapped,
    with_lattice,
)
from tests.small_runs import one_thread, tiny  # noqa: F401

TOLERANCE = 1e-5


@pytest.fixture(scope="module", name="crystals")
def _crystals() -> list[Crystal]:
    """40 crystals of up to 8 atoms, of many lattices and prototypes, and an isolated atom."""
    chosen = small(8, 39)
    return [*chosen, with_lattice(chosen[0], 40.0 * np.eye(3), chosen[0].frac_coords)]


@pytest.fixture(scope="module", name="model")
def _model(crystals: list[Crystal]) -> Objective:
    config = tiny(embedding_dim=24, num_layers=3, projection_dim=8)
    model = build(config, element_features(config.encoder.node_features))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = batch_of(crystals, config.graph)
    for epoch in range(20):
        optimizer.zero_grad()
        model(batch, epoch)[LOSS].backward()
        optimizer.step()
    return model.eval()


def atom_vectors(model: Objective, crystals: list[Crystal]) -> list[Tensor]:
    batch = batch_of(crystals, model.config.graph)
    return list(model.atom_vectors(batch).split(batch.ptr.diff().tolist()))


SAME_SITES: dict[str, Callable[[Crystal, np.random.Generator], Crystal]] = {
    "rotation": rotated,
    "translation": translated,
    "unwrapped coordinates": unwrapped,
    "another cell": in_another_cell,
}


def largest_difference(one: list[Tensor], two: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("describe", SAME_SITES.values(), ids=SAME_SITES.keys())
def test_another_description_has_the_same_atom_vectors(
    describe: Callable[[Crystal, np.random.Generator], Crystal], model: Objective, crystals: list[Crystal]
) -> None:
    rng = np.random.default_rng(1)
    expected = atom_vectors(model, crystals)
    assert max(float(v.abs().max()) for v in expected) > 0.5
    assert largest_difference(atom_vectors(model, [describe(c, rng) for c in crystals]), expected) < TOLERANCE


def test_vectors_follow_the_order_of_sites(model: Objective, crystals: list[Crystal]) -> None:
    rng = np.random.default_rng(2)
    orders = [rng.permutation(len(c.atomic_numbers)) for c in crystals]
    shuffled = [reordered(c, order) for c, order in zip(crystals, orders, strict=True)]
    expected = [v[torch.from_numpy(o)] for v, o in zip(atom_vectors(model, crystals), orders, strict=True)]
    assert largest_difference(atom_vectors(model, shuffled), expected) < TOLERANCE


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 1, 3), (2, 2, 2)], ids=str)
def test_a_supercell_repeats_the_vectors_of_its_cell(
    repeats: tuple[int, int, int], model: Objective, crystals: list[Crystal]
) -> None:
    copies = int(np.prod(repeats))
    expected = [v.repeat_interleave(copies, 0) for v in atom_vectors(model, crystals)]
    assert largest_difference(atom_vectors(model, [supercell(c, repeats) for c in crystals]), expected) < TOLERANCE


def test_element_vectors_do_not_depend_on_descriptions(model: Objective, crystals: list[Crystal]) -> None:
    rng = np.random.default_rng(3)

    def extracted(some: list[Crystal]) -> np.ndarray:
        batch = batch_of(some, model.config.graph)
        moments = ElementMoments.empty(model.config.encoder.embedding_dim)
        return moments.update(model.atom_vectors(batch), batch.atomic_numbers).to_vectors({}).vectors

    expected = extracted(crystals)
    # A supercell of every crystal, so that relative weights are unchanged.
    others = [rotated(in_another_cell(supercell(c, (2, 1, 1)), rng), rng) for c in reversed(crystals)]
    assert np.abs(extracted(others) - expected).max() < TOLERANCE


def test_different_crystals_have_different_vectors(model: Objective, crystals: list[Crystal]) -> None:
    """Otherwise all of the above would be trivial."""
    strained = [with_lattice(c, c.lattice * 1.01, c.frac_coords) for c in crystals[:-1]]
    before, after = atom_vectors(model, crystals[:-1]), atom_vectors(model, strained)
    changes = [float((a - b).abs().max()) for a, b in zip(before, after, strict=True)]
    assert min(changes) > 100 * TOLERANCE


def test_a_crystals_vectors_do_not_depend_on_its_batch(model: Objective, crystals: list[Crystal]) -> None:
    together = atom_vectors(model, crystals)
    alone = [atom_vectors(model, [c])[0] for c in crystals]
    backwards = atom_vectors(model, crystals[::-1])[::-1]
    assert largest_difference(alone, together) < TOLERANCE
    assert largest_difference(backwards, together) < TOLERANCE


def test_a_model_survives_saving_and_loading(model: Objective, crystals: list[Crystal], tmp_path: Path) -> None:
    checkpoints.save(tmp_path, {"model": model.state_dict()}, {"epoch": 1})
    groups, state = checkpoints.load(tmp_path)
    assert state == {"epoch": 1}
    fresh = build(model.config, element_features(model.config.encoder.node_features))
    fresh.load_state_dict(groups["model"])
    assert largest_difference(atom_vectors(fresh.eval(), crystals), atom_vectors(model, crystals)) == 0


OBJECTIVES = {
    "default": {},
    **{name: {"ssl_loss": name} for name in get_args(SSLLoss)},
    "published masks": {"masked_atoms": "zero", "masked_edges": "rerouted", "normalize_projection": True},
}


@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_every_trainable_parameter_has_a_gradient(options: dict, crystals: list[Crystal]) -> None:
    config = tiny(**options)
    model = build(config, element_features(config.encoder.node_features))
    model(batch_of(crystals, config.graph), 0)[LOSS].backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.endswith("fc_full.bias")
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


def test_eight_crystals_can_be_learned_by_heart(crystals: list[Crystal]) -> None:
    config = tiny(embedding_dim=32, lr=0.02)
    model = build(config, element_features(config.encoder.node_features))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimization.lr, weight_decay=0)
    batch = batch_of(crystals[:8], config.graph)
    losses = []
    for epoch in range(60):
        terms = model(batch, epoch)
        optimizer.zero_grad()
        terms[LOSS].backward()
        optimizer.step()
        losses.append({name: terms[name].item() for name in (CONNECTIVITY, FEATURES, SSL)})
    for name, factor in ((CONNECTIVITY, 2.5), (FEATURES, 4), (SSL, 4)):
        assert losses[-1][name] < losses[0][name] / factor, (name, losses[0][name], losses[-1][name])
