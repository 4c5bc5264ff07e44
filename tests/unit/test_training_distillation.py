"""Distillation: its formula, an unchanged teacher, and a model that is saved without it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crysatom.inputs.labels import Labeled
from crysatom.names import DISTILLATION, LOSS, MAE, TRAIN, VAL
from crysatom.predictors.cgcnn import CGCNN
from crysatom.training.context import PlainContext
from crysatom.training.distillation import Distillation, distillation_loss
from crysatom.training.regression import Regression, build_regression, labeled_data, train_predictor
from tests.small_regressions import tiny, volumes
from tests.small_runs import CPU, comparable, one_thread  # noqa: F401
from tests.synthetic import random_batch
from tests.unit.test_training_encoder_files import encoder_of

WIDTHS = pytest.mark.parametrize("teacher_width", [8, 5], ids=["as wide", "through a map"])


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Labeled:
    return volumes(tmp_path_factory.mktemp("volumes"), tiny())


def distilled(data: Labeled, teacher_width: int = 8) -> Any:
    return dataclasses.replace(data.task, teacher=encoder_of(embedding_dim=teacher_width, seed=3))


def batch_from(data: Labeled) -> Any:
    return next(iter(labeled_data(tiny(), data.task, CPU)[TRAIN].epoch(0)))


def teachers_vectors(model: Regression, batch: Any) -> Tensor:
    assert model.distillation is not None
    teacher = model.distillation.teacher
    return teacher.unmasked(batch, teacher.basis(batch.distance))


def by_hand(student: Tensor, teacher: Tensor, sizes: list[int]) -> float:
    """The mean over crystals of the mean squared error between unit rows, in float64 loops."""
    crystals, first = [], 0
    for size in sizes:
        errors = []
        for s, t in zip(student[first : first + size].tolist(), teacher[first : first + size].tolist(), strict=True):
            length_s, length_t = (sum(x * x for x in row) ** 0.5 for row in (s, t))
            errors += [(x / length_s - y / length_t) ** 2 for x, y in zip(s, t, strict=True)]
        crystals.append(sum(errors) / len(errors))
        first += size
    return sum(crystals) / len(crystals)


def test_the_loss_is_a_mean_over_crystals() -> None:
    batch = random_batch(6, dtype=torch.float64)
    student, teacher = torch.randn(2, batch.num_nodes, 5, dtype=torch.float64)
    expected = by_hand(student, teacher, batch.ptr.diff().tolist())
    assert float(distillation_loss(student, teacher, batch)) == pytest.approx(expected, rel=1e-12)
    assert float(distillation_loss(3 * teacher, teacher, batch)) == pytest.approx(0, abs=1e-30), "only directions count"


@WIDTHS
def test_it_has_its_share_of_the_training_loss_only(data: Labeled, teacher_width: int) -> None:
    config = tiny(distill_weight=0.3)
    model, plain = (build_regression(config, task) for task in (distilled(data, teacher_width), data.task))
    assert model.distillation is not None
    batch = batch_from(data)
    terms, alone = model(batch, 0), plain(batch, 0)
    plain.train()
    each = torch.arange(batch.num_nodes).repeat_interleave(batch.multiplicity)  # all atoms of the crystals
    vectors = model.distillation.map(model.predictor.atoms(batch)).double()[each]
    sizes = torch.bincount(batch.batch[each]).tolist()
    expected = by_hand(vectors, teachers_vectors(model, batch).double()[each], sizes)
    assert float(terms[DISTILLATION].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(terms[LOSS].detach()) == pytest.approx(0.7 * float(alone[LOSS].detach()) + 0.3 * expected, rel=1e-5)
    assert terms[MAE] == alone[MAE], "the predictor starts as it would without"
    assert model.eval()(batch, 0).keys() == {LOSS, MAE}


@WIDTHS
def test_the_teacher_stays_as_it_is(data: Labeled, teacher_width: int) -> None:
    task = distilled(data, teacher_width)
    model = build_regression(tiny(), task).train()
    assert model.distillation is not None
    teacher, batch = model.distillation.teacher, batch_from(data)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(batch, 0)[LOSS].backward()
        optimizer.step()
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    assert not any("teacher" in name for name in model.state_dict())
    assert {id(p) for p in teacher.parameters()}.isdisjoint(id(p) for p in model.parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, name


def test_the_teacher_goes_where_the_model_goes(data: Labeled) -> None:
    model = build_regression(tiny(), distilled(data)).double()
    assert model.distillation is not None
    assert model.distillation.teacher.embedding.weight.dtype == torch.float64
    assert model.distillation.teacher.centers.dtype == torch.float64


@WIDTHS
def test_directions_are_learned(data: Labeled, teacher_width: int) -> None:
    """A student trained only on distillation approaches the teacher on a few crystals."""
    model = build_regression(tiny(distill_weight=0.99), distilled(data, teacher_width)).train()
    batch = batch_from(data)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    history = []
    for _ in range(120):
        optimizer.zero_grad()
        terms = model(batch, 0)
        terms[LOSS].backward()
        optimizer.step()
        history.append(float(terms[DISTILLATION].detach()))
    assert history[-1] < 0.2 * history[0]


@WIDTHS
def test_the_model_that_is_kept_is_without_it(data: Labeled, teacher_width: int, tmp_path: Path) -> None:
    config = tiny()
    plain = train_predictor(config, data.task, PlainContext(tmp_path / "plain"))
    outcome = train_predictor(config, distilled(data, teacher_width), PlainContext(tmp_path / "distilled"))
    assert outcome.state.keys() == plain.state.keys()
    assert outcome.num_parameters == plain.num_parameters
    assert any(not outcome.state[name].equal(plain.state[name]) for name in plain.state)
    assert all(f"{TRAIN}/{DISTILLATION}" in epoch for epoch in outcome.history)
    assert not any(f"{VAL}/{DISTILLATION}" in epoch for epoch in outcome.history)


def test_a_stopped_training_goes_on_as_if_it_had_not_been(data: Labeled, tmp_path: Path) -> None:
    config, task = tiny(), distilled(data, 5)
    whole = train_predictor(config, task, PlainContext(tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    def stop(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_predictor(config, task, PlainContext(tmp_path / "stopped", stop))
    again = train_predictor(config, task, PlainContext(tmp_path / "stopped"))
    assert comparable(again.history) == comparable(whole.history)
    assert all(value.equal(whole.state[name]) for name, value in again.state.items())


def test_a_map_is_made_where_widths_differ() -> None:
    assert isinstance(Distillation(encoder_of().build(), 8, 0.5).map, torch.nn.Identity)
    assert Distillation(encoder_of().build(), 3, 0.5).map.weight.shape == (8, 3)


def test_a_predictor_starts_from_an_encoder(data: Labeled) -> None:
    config = tiny()
    encoder = encoder_of(embedding_dim=8, num_layers=2, seed=3)
    plain, started = (build_regression(config, dataclasses.replace(data.task, init=init)) for init in (None, encoder))
    batch = batch_from(data)
    with torch.no_grad():
        assert not torch.allclose(started.eval().predict(batch), plain.eval().predict(batch))
    assert isinstance(started.predictor, CGCNN)
    changed = {name for name, value in started.state_dict().items() if not value.equal(plain.state_dict()[name])}
    assert changed
    assert all(name.startswith("predictor.convs.") for name in changed), "the rest is drawn as without"
