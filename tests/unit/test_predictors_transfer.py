"""Predictors initialized from a pretrained encoder, and CrysXPP's feature selector."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crysatom.config.downstream import default
from crysatom.names import LOSS
from crysatom.nn.bases import expand_different
from crysatom.nn.edges import Edges
from crysatom.predictors.base import Predictor, PredictorSpec
from crysatom.predictors.cgcnn import CGCNN
from crysatom.predictors.crysxpp import CrysXPP
from crysatom.predictors.registry import build_predictor
from crysatom.predictors.transfer import load_convolutions, start_from_encoder
from crysatom.ssl.objective import Objective
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from crysatom.vectors.given import given_vectors
from tests.graph_crystals import batch_of, small
from tests.small_runs import tiny


@pytest.fixture(scope="module", name="pretrained")
def _pretrained() -> Objective:
    """An auto-encoder after a few steps: weights and statistics are not those of initialization."""
    config = tiny(embedding_dim=8, num_layers=2)
    model = build(config, element_features(config.encoder.node_features))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = batch_of(small(8, 6), config.graph)
    for epoch in range(3):
        optimizer.zero_grad()
        model(batch, epoch)[LOSS].backward()
        optimizer.step()
    return model


def predictor(**changes: Any) -> CGCNN:
    spec = PredictorSpec(**{"predictor": "crysxpp", "width": 8, "num_layers": 2, "hidden_dim": 6, **changes})
    return CrysXPP(spec, given_vectors("onehot92"))


def test_convolutions_are_those_of_the_encoder(pretrained: Objective) -> None:
    model = predictor()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_convolutions(model, pretrained.encoder.state_dict())
    batch = batch_of(small(8, 6), default(model.spec.predictor).graph)
    edges, _ = Edges.of(batch, expand_different(batch.distance, model.centers))
    h = torch.randn(edges.num_atoms, 8)
    for ours, theirs in zip(model.eval().convs, pretrained.eval().encoder.convs, strict=True):
        assert ours(h, edges).equal(theirs(h, edges))
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {name for name in before if name.startswith("convs.")}


def test_the_pretrained_weights_stay_their_own(pretrained: Objective) -> None:
    weights = pretrained.encoder.state_dict()
    before = weights["convs.0.fc_full.weight"].clone()
    model = predictor()
    load_convolutions(model, weights)
    with torch.no_grad():
        model.convs[0].fc_full.weight.zero_()
    assert weights["convs.0.fc_full.weight"].equal(before)
    assert all(p.requires_grad != name.endswith("fc_full.bias") for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "has 2 convolutions of width 8, the predictor 3 of width 8; give --width 8 --num-layers 2"),
        ({"width": 16}, "has 2 convolutions of width 8, the predictor 2 of width 16; give --width 8 --num-layers 2"),
        ({"cutoff": 6.0}, r"convs.0.fc_full.weight has shape \(16, 57\), the predictor's \(16, 47\): use the cutoff"),
    ],
    ids=["layers", "width", "Gaussians"],
)
def test_encoders_that_do_not_fit(changes: dict[str, Any], message: str, pretrained: Objective) -> None:
    model = predictor(**changes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_convolutions(model, pretrained.encoder.state_dict())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items()), "nothing is loaded in part"


def elements() -> tuple[Tensor, Tensor]:
    features = element_features("elements")
    return torch.from_numpy(features.features), torch.from_numpy(features.atomic_numbers)


@pytest.mark.parametrize("name", ["cgcnn", "crysxpp"])
def test_on_the_same_features_a_predictor_starts_as_the_encoder(name: str, pretrained: Objective) -> None:
    model = build_predictor(PredictorSpec(predictor=name, width=8, num_layers=2), given_vectors("elements"))
    assert start_from_encoder(model, pretrained.encoder.state_dict(), *elements())
    batch = batch_of(small(8, 6), default(model.spec.predictor).graph)
    # float32: a linear map of rows in another order
    torch.testing.assert_close(model.eval().atoms(batch), pretrained.eval().atom_vectors(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("vectors", ["onehot92", "onehot", "permuted:elements"])
def test_on_other_vectors_the_embedding_stays_random(vectors: str, pretrained: Objective) -> None:
    model: Any = build_predictor(PredictorSpec(width=8, num_layers=2), given_vectors(vectors))
    before = model.embedding.weight.clone()
    assert not start_from_encoder(model, pretrained.encoder.state_dict(), *elements())
    assert model.embedding.weight.equal(before)


def test_a_predictor_without_such_convolutions_is_refused(pretrained: Objective) -> None:
    class Other(Predictor):
        def atoms(self, batch: Any) -> Tensor:
            return torch.zeros(len(batch.batch), 3)

        def readout(self, atoms: Tensor, batch: Any) -> Tensor:
            return atoms[: batch.num_graphs, 0]

    model = Other(PredictorSpec(predictor="other"), given_vectors("onehot"))
    with pytest.raises(ValueError, match=r"predictor other has no convolutions .*choose cgcnn or crysxpp"):
        start_from_encoder(model, pretrained.encoder.state_dict(), *elements())


def test_weights_that_are_none_of_an_encoder() -> None:
    foreign = {f"convs.{k}.bn2.weight": torch.ones(8) for k in range(2)}
    with pytest.raises(ValueError, match=r"are not CGCNN's: missing \['0.bn1.bias'"):
        load_convolutions(predictor(), foreign)


def test_the_feature_selector_scales_the_components() -> None:
    """Factors on the vectors are factors on the columns of the embedding."""
    model = predictor().eval()
    plain = CGCNN(PredictorSpec(width=8, num_layers=2, hidden_dim=6), given_vectors("onehot92")).eval()
    mask = torch.linspace(-1, 2, 92)
    with torch.no_grad():
        model.mask.copy_(mask)
    state = {k: v for k, v in model.state_dict().items() if k != "mask"}
    plain.load_state_dict(state | {"embedding.weight": state["embedding.weight"] * mask})
    batch = batch_of(small(8, 6), default(model.spec.predictor).graph)
    # float32, sums of 9 terms of order one: a few units in the last place
    torch.testing.assert_close(model(batch), plain(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [None, 0.0, 0.5])
def test_the_l1_term(weight: float | None) -> None:
    model = predictor(options={} if weight is None else {"mask_penalty": weight})
    with torch.no_grad():
        model.mask.copy_(torch.linspace(-1, 1, 92))
    mean = torch.linspace(-1, 1, 92).abs().mean()
    expected: Tensor = mean * (0.01 if weight is None else weight)
    torch.testing.assert_close(model.penalty(), expected)
    assert CGCNN(PredictorSpec(), given_vectors("onehot92")).penalty() == 0
