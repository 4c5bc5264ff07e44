"""Contract of every predictor in the registry, with every kind of atom vectors.

Real crystals. Invariances in evaluation mode after some training steps, so that statistics and weights are not
those of initialization; float32, predictions of order one. Tolerance 1e-5 absolute, about ten times the rounding of
matrix products of other shapes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config.downstream import default, paper
from crysatom.config.predictors import SETTINGS
from crysatom.crystals.table import Crystal
from crysatom.graphs.batch import collate
from crysatom.graphs.shards import schema_of
from crysatom.names import LOSS, SYMBOLS
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.predictors.registry import PREDICTORS, build_predictor
from crysatom.training import checkpoints
from crysatom.training.averaging import MovingAverage
from crysatom.training.balance import measure
from crysatom.training.regression import spec_of
from crysatom.vectors.given import given_vectors
from crysatom.vectors.scale import scaled
from crysatom.vectors.table import AtomVectors
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

TOLERANCE = 1e-5

VECTORS: dict[str, Callable[[], AtomVectors]] = {
    "onehot": lambda: given_vectors("onehot"),
    "onehot92": lambda: given_vectors("onehot92"),
    "random": lambda: given_vectors("random:0:20"),
    "permuted": lambda: given_vectors("permuted:onehot92"),
    "scaled": lambda: scaled(given_vectors("onehot92"), "standardize"),
}


@pytest.fixture(scope="module", name="crystals")
def _crystals() -> list[Crystal]:
    """12 crystals of up to 8 atoms, of many lattices, and an isolated atom."""
    chosen = small(8, 11)
    return [*chosen, with_lattice(chosen[0], 40.0 * np.eye(3), chosen[0].frac_coords)]


def tiny(name: str, **changes: object) -> PredictorSpec:
    return PredictorSpec(
        **{"predictor": name, "width": 12, "num_layers": 2, "hidden_dim": 8, **changes}  # type: ignore[arg-type]
    )


def train(model: Predictor, crystals: list[Crystal], targets: Tensor, steps: int, until: float = 0.0) -> list[float]:
    """Train for some steps, or until the loss is lower than wanted; return the losses."""
    batch = batch_of(crystals, default(model.spec.predictor).graph)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(batch) - targets).square().mean()
        (loss + model.penalty()).backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < until:
            break
    return losses


def targets_of(crystals: list[Crystal]) -> Tensor:
    return torch.linspace(-1.5, 1.5, len(crystals))[torch.randperm(len(crystals))]


MODELS = [
    pytest.param((name, kind), id=f"{name}-{kind}", marks=[pytest.mark.slow] * (kind not in {"onehot", "scaled"}))
    for name in PREDICTORS
    for kind in VECTORS
]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, crystals: list[Crystal]) -> Predictor:
    name, kind = request.param
    torch.manual_seed(0)
    built = build_predictor(tiny(name), VECTORS[kind]())
    train(built, crystals, targets_of(crystals), 40)
    return built.eval()


@torch.no_grad()
def predict(model: Predictor, crystals: list[Crystal]) -> Tensor:
    prediction: Tensor = model(batch_of(crystals, default(model.spec.predictor).graph))
    return prediction


def difference(one: Tensor, two: Tensor) -> float:
    assert one.shape == two.shape
    return float((one - two).detach().abs().max())


DESCRIPTIONS: dict[str, Callable[[Crystal, np.random.Generator], Crystal]] = {
    "rotation": rotated,
    "translation": translated,
    "unwrapped coordinates": unwrapped,
    "another cell": in_another_cell,
    "permutation": lambda c, rng: reordered(c, rng.permutation(len(c.atomic_numbers))),
    "supercell": lambda c, _: supercell(c, (2, 1, 2)),
}


@pytest.mark.parametrize("describe", DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_the_description_of_a_crystal_does_not_matter(
    describe: Callable[[Crystal, np.random.Generator], Crystal], model: Predictor, crystals: list[Crystal]
) -> None:
    rng = np.random.default_rng(1)
    expected = predict(model, crystals)
    assert difference(predict(model, [describe(c, rng) for c in crystals]), expected) < TOLERANCE


def test_the_crystal_does(model: Predictor, crystals: list[Crystal]) -> None:
    """Otherwise the above would be trivial."""
    expected = predict(model, crystals)
    assert len(expected.unique()) == len(crystals)
    strained = predict(model, [with_lattice(c, c.lattice * 1.1, c.frac_coords) for c in crystals[:-1]])
    changed = (strained - expected[:-1]).abs() > 100 * TOLERANCE
    assert changed.double().mean() > 0.8, "by chance one prediction may be stationary"


def test_a_prediction_does_not_depend_on_the_batch(model: Predictor, crystals: list[Crystal]) -> None:
    together = predict(model, crystals)
    assert difference(torch.cat([predict(model, [c]) for c in crystals]), together) < TOLERANCE
    assert difference(predict(model, crystals[::-1]).flip(0), together) < TOLERANCE


def test_one_atom_vector_per_atom(model: Predictor, crystals: list[Crystal]) -> None:
    batch = batch_of(crystals, default(model.spec.predictor).graph)
    atoms = model.atoms(batch)
    assert atoms.shape == (len(batch.batch), model.spec.width)
    assert difference(model.readout(atoms, batch), model(batch)) == 0


def test_saved_and_loaded(model: Predictor, crystals: list[Crystal], tmp_path: Path) -> None:
    state = {"epoch": 1, "spec": model.spec.to_dict()}
    checkpoints.save(tmp_path, {"model": model.state_dict()}, state)
    groups, state = checkpoints.load(tmp_path)
    spec = PredictorSpec(**state["spec"])
    assert spec == model.spec
    # built with arbitrary vectors: those of the model are part of its saved weights
    size = model.table.vectors.shape
    other = AtomVectors(atomic_numbers=np.arange(1, size[0] + 1), vectors=np.ones(size, dtype=np.float32))
    fresh = build_predictor(spec, other)
    fresh.load_state_dict(groups["model"])
    assert difference(predict(fresh.eval(), crystals), predict(model, crystals)) == 0


def test_its_weights_can_be_averaged(model: Predictor, crystals: list[Crystal]) -> None:
    average = MovingAverage(model, 0.5)
    average.update()
    expected = predict(model, crystals)
    with average.applied():
        assert difference(predict(model, crystals), expected) < TOLERANCE


class Squared(torch.nn.Module):
    """Predictor with a loss, with the interface of the loop."""

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:  # noqa: ARG002
        return {LOSS: self.model(batch).square().mean()}


def test_its_speed_can_be_measured_without_a_trace(model: Predictor, crystals: list[Crystal]) -> None:
    batch = batch_of(crystals, default(model.spec.predictor).graph)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.zero_grad()
    assert measure(Squared(model), batch, 0, torch.device("cpu")).speed > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def has_no_effect(parameter: str) -> bool:
    """Return whether it is a bias before a norm in CGCNN, or a norm of unused edges in ALIGNN, with two layers."""
    return parameter.endswith("fc_full.bias") or parameter.startswith(
        ("bond_layers.1.norm_edges", "plain_layers.3.norm_edges")
    )


@pytest.mark.parametrize("trained", [False, True], ids=["frozen vectors", "trained vectors"])
@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("name", PREDICTORS)
def test_every_trainable_parameter_has_a_gradient(name: str, kind: str, trained: bool, crystals: list[Crystal]) -> None:
    table = VECTORS[kind]()
    model = build_predictor(tiny(name, train_vectors=trained, num_hidden=2), table)
    batch = batch_of(crystals, default(model.spec.predictor).graph)
    ((model(batch) - targets_of(crystals)).square().mean() + model.penalty()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.requires_grad != has_no_effect(parameter_name)
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name
    assert model.table.vectors.requires_grad == trained
    if trained:
        moved = set(table.atomic_numbers[model.table.vectors.grad.abs().sum(1).numpy() > 0])
        assert moved == set(batch.atomic_numbers.tolist()), "the vectors of the elements of the batch, and no others"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (k > 0)) for k, kind in enumerate(VECTORS)]
)
@pytest.mark.parametrize("name", PREDICTORS)
def test_eight_crystals_can_be_learned_by_heart(name: str, kind: str, crystals: list[Crystal]) -> None:
    model = build_predictor(tiny(name, width=16, hidden_dim=16), VECTORS[kind]())
    losses = train(model, crystals[:8], targets_of(crystals[:8]), 300, until=0.003)
    assert losses[0] > 0.5, "the variance of the targets is about 1"
    assert losses[-1] < 0.003, losses[::30]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", PREDICTORS)
def test_a_worker_may_have_no_crystals(name: str, training: bool, crystals: list[Crystal]) -> None:
    model = build_predictor(tiny(name), VECTORS["onehot"]()).train(training)
    nothing = model(collate(schema_of(default(name).graph).empty_table()))
    assert nothing.shape == (0,)
    nothing.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad), "DistributedDataParallel waits"
    assert torch.isfinite(predict(model.eval(), crystals)).all()


@pytest.mark.parametrize("name", PREDICTORS)
def test_an_element_without_a_vector_is_never_taken_for_zeros(name: str, crystals: list[Crystal]) -> None:
    full = VECTORS["onehot92"]()
    model = build_predictor(tiny(name), full)
    train(model, crystals, targets_of(crystals), 2)
    expected = predict(model.eval(), crystals)
    left_out = int(crystals[3].atomic_numbers[0])
    kept = full.atomic_numbers != left_out
    lacking = AtomVectors(atomic_numbers=full.atomic_numbers[kept], vectors=full.vectors[kept])
    without = build_predictor(model.spec, lacking).eval()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("table.")}
    without.load_state_dict(without.state_dict() | state)
    holds = torch.tensor([left_out in c.atomic_numbers for c in crystals])
    assert holds.any(), SYMBOLS[left_out - 1]
    assert not holds.all()
    with torch.no_grad():
        found = without(batch_of(crystals, default(model.spec.predictor).graph))
    assert found.isnan().equal(holds)
    assert difference(found[~holds], expected[~holds]) < TOLERANCE


def test_the_graphs_of_the_recipes() -> None:
    for name in ("cgcnn", "crysxpp", *SETTINGS):
        ours, published = (recipe(name).graph for recipe in (default, paper))
        assert (ours.ties, ours.pad_short_lists, ours.cutoff) == ("complete", False, 8.0)
        assert published != ours
        assert published.pad_short_lists == (name in {"cgcnn", "crysxpp"})
        assert (published.reverse_edges == "published") == (ours.reverse_edges == "add")


@pytest.mark.parametrize(
    ("name", "count"), [("cgcnn", 80_833), ("matformer", 2_782_849), ("alignn", 4_026_753), ("potnet", 1_751_809)]
)
def test_as_many_parameters_as_the_original(name: str, count: int) -> None:
    """Counted in the released models, with CGCNN's 92 features of elements; of Matformer those that it uses."""
    model = build_predictor(spec_of(default(name)), VECTORS["onehot92"]())
    assert sum(p.numel() for p in model.parameters()) == count


def test_unknown_names_are_answered_with_the_known() -> None:
    known = ", ".join(sorted(PREDICTORS))
    with pytest.raises(ValueError, match=f"unknown predictor 'cgcn'; choose among {known}"):
        build_predictor(PredictorSpec(predictor="cgcn"), VECTORS["onehot"]())
    with pytest.raises(ValueError, match=r"cgcnn has no option mask_penalty; its options: none"):
        build_predictor(PredictorSpec(options={"mask_penalty": 1}), VECTORS["onehot"]())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width of the predictor must be at least 1"),
        ({"cutoff": -1.0}, "cutoff of the predictor must be a positive length"),
        ({"basis_step": float("nan")}, "basis_step of the predictor must be a positive length"),
        ({"basis_step": 9.0}, "single Gaussian"),
    ],
)
def test_specifications_that_cannot_be_built(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PredictorSpec(), **changes)


def test_a_specification_is_json() -> None:
    spec = PredictorSpec(predictor="crysxpp", options={"mask_penalty": 0.5})
    assert PredictorSpec(**json.loads(json.dumps(spec.to_dict()))) == spec
