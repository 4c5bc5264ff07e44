"""Regression: normalization, references, losses in the right unit, predictions in the right order, early stop."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crysatom.config import DownstreamConfig
from crysatom.inputs.labels import Labeled
from crysatom.names import LOSS, MAE, TEST, TRAIN, VAL
from crysatom.training.context import Metrics, PlainContext
from crysatom.training.normalizer import Normalizer, composition_reference
from crysatom.training.regression import (
    Regression,
    RegressionOutcome,
    build_regression,
    labeled_data,
    predictions,
    train_predictor,
)
from tests.small_regressions import tiny, volumes
from tests.small_runs import CPU, comparable, one_thread  # noqa: F401


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volumes")


@pytest.fixture(scope="module", name="data")
def _data(folder: Path) -> Labeled:
    return volumes(folder, tiny())


def test_the_normalizer_is_that_of_the_training_targets(data: Labeled) -> None:
    train = data.targets.labels[data.split.train]
    assert data.task.normalizer == Normalizer(mean=train.mean(), std=train.std())
    assert data.task.normalizer.mean != pytest.approx(data.targets.labels.mean(), abs=1e-3)


def test_targets_that_are_all_equal_are_refused() -> None:
    with pytest.raises(ValueError, match="all 3 training crystals have the same target, 2; take more crystals"):
        Normalizer.of(np.full(3, 2.0))


def test_the_reference_finds_what_each_element_contributes() -> None:
    """Contributions that explain the targets exactly are recovered: Na -1, Cl 3, Fe 10."""
    numbers = np.array([11, 17, 11, 11, 17, 26, 26, 11], np.uint8)
    ptr = np.array([0, 2, 5, 6, 8])
    contribution = np.zeros(119)
    contribution[[11, 17, 26]] = [-1.0, 3.0, 10.0]
    targets = np.array([contribution[numbers[a:b]].mean() for a, b in itertools.pairwise(ptr)])
    found = composition_reference(numbers, ptr, targets)
    assert found[[11, 17, 26]] == pytest.approx([-1.0, 3.0, 10.0])
    assert found[8] == pytest.approx(targets.mean()), "an element that no training crystal has"


def test_the_reference_leaves_a_residual_that_is_smaller(folder: Path, data: Labeled) -> None:
    """Least squares: the smallest residual of a function linear in the composition."""
    with_reference = volumes(folder, tiny(composition_reference=True))
    assert with_reference.task.normalizer.std < 0.9 * data.task.normalizer.std
    assert with_reference.task.normalizer.mean == pytest.approx(0, abs=1e-9)


def model_of(config: DownstreamConfig, data: Labeled) -> Regression:
    return build_regression(config, data.task)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("criterion", ["mae", "mse", "huber"])
def test_loss_and_error_are_those_of_the_predictions(folder: Path, criterion: Any, reference: bool) -> None:
    config = tiny(criterion=criterion, composition_reference=reference)
    data = volumes(folder, config)
    model = model_of(config, data).eval()
    batch = next(iter(labeled_data(config, data.task, CPU)[TRAIN].epoch(0)))
    terms = model(batch, 0)
    error = (model.predict(batch) - batch.target).detach()
    assert batch.target.dtype == torch.float64
    assert float(terms[MAE]) == pytest.approx(float(error.abs().mean()))
    unit = (error / data.task.normalizer.std).abs()
    wanted = {"mae": unit, "mse": unit**2, "huber": torch.where(unit < 1, unit**2 / 2, unit - 0.5)}[criterion]
    assert float(terms[LOSS].detach()) == pytest.approx(float(wanted.mean()))


def test_the_penalty_of_a_predictor_is_part_of_the_loss(folder: Path) -> None:
    config = tiny(predictor="crysxpp", predictor_options={"mask_penalty": 0.5})
    data = volumes(folder, config)
    model = model_of(config, data).eval()
    batch = next(iter(labeled_data(config, data.task, CPU)[TRAIN].epoch(0)))
    terms = {name: float(value.detach()) for name, value in model(batch, 0).items()}
    penalty = float(model.predictor.penalty().detach())
    assert penalty > 0
    assert terms[LOSS] == pytest.approx(terms[MAE] / data.task.normalizer.std + penalty)


def test_a_reference_is_added_back(folder: Path) -> None:
    config = tiny(composition_reference=True)
    data = volumes(folder, config)
    batch = next(iter(labeled_data(config, data.task, CPU)[TRAIN].epoch(0)))
    model = model_of(config, data).eval()
    assert data.task.reference is not None
    numbers, crystal = (x.repeat_interleave(batch.multiplicity) for x in (batch.atomic_numbers, batch.batch))
    shares = [data.task.reference[numbers[crystal == k].numpy()].mean() for k in range(batch.num_graphs)]
    expected = model.predictor(batch).double() * data.task.normalizer.std + torch.tensor(shares)
    torch.testing.assert_close(model.predict(batch), expected + data.task.normalizer.mean)


def test_batches_hold_the_targets_of_their_crystals(data: Labeled) -> None:
    config = tiny()
    loader = labeled_data(config, data.task, CPU)[TRAIN]
    seen = []
    for batch in loader.epoch(3):
        assert batch.target.tolist() == data.targets.labels[batch.crystal.numpy()].tolist()
        assert torch.equal(batch.material_key, loader.tensors.material_keys[batch.crystal])
        seen += batch.crystal.tolist()
    assert sorted(seen) == data.split.train.tolist()


def test_predictions_do_not_depend_on_the_batches(data: Labeled) -> None:
    """The tolerance is for float32 products of other shapes."""
    config = tiny()
    model = model_of(config, data)
    loader = labeled_data(config, data.task, CPU)[TRAIN]
    crystals, at_once = predictions(model, loader)
    assert crystals.tolist() == data.split.train.tolist()
    loader.batch_size, loader.seed = 1, 5
    again, one_by_one = predictions(model, loader)
    assert again.tolist() == crystals.tolist()
    np.testing.assert_allclose(one_by_one, at_once, rtol=1e-5)


def train(config: DownstreamConfig, data: Labeled, folder: Path, on_report: Any = lambda _: None) -> RegressionOutcome:
    return train_predictor(config, data.task, PlainContext(folder, on_report))


def test_what_is_kept_is_the_epoch_with_the_least_validation_error(data: Labeled, tmp_path: Path) -> None:
    config = tiny(lr=0.1, schedule="constant", epochs=6)
    outcome = train(config, data, tmp_path)
    errors = [metrics[f"{VAL}/{MAE}"] for metrics in outcome.history]
    assert outcome.selected_epoch == int(np.argmin(errors)) < 5
    kept = np.abs(outcome.predictions[VAL] - data.targets.labels[data.split.val]).mean()
    assert kept == pytest.approx(min(errors))
    last = train(config.replace(selection="last"), data, tmp_path / "last")
    assert last.selected_epoch == 5
    assert np.abs(last.predictions[VAL] - data.targets.labels[data.split.val]).mean() == pytest.approx(errors[-1])


class InterruptedRunError(RuntimeError):
    """Raised by a test to stop a run."""


def interrupt_after(epoch: int) -> Any:
    def on_report(metrics: Metrics) -> None:
        if metrics["epoch"] == epoch:
            raise InterruptedRunError

    return on_report


def assert_same(one: RegressionOutcome, two: RegressionOutcome) -> None:
    """Compare outcomes bit for bit."""
    assert comparable(one.history) == comparable(two.history)
    assert one.selected_epoch == two.selected_epoch
    for part in (VAL, TEST):
        assert np.array_equal(one.predictions[part], two.predictions[part])
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)


RUNS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"criterion": "mse", "optimizer": "adam", "schedule": "step", "milestones": (2,), "tail": "short"},
    "trained vectors, average": {"train_vectors": True, "ema_decay": 0.5, "schedule": "cosine"},
    "crysxpp, clipped": {"predictor": "crysxpp", "predictor_options": {"mask_penalty": 0.1}, "gradient_clip": 0.5},
    "huber, reference": {"criterion": "huber", "composition_reference": True, "schedule": "constant"},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_a_resumed_run_equals_an_undisturbed_one(options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    config = tiny(**options)
    data = volumes(folder, config)
    undisturbed = train(config, data, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(config, data, tmp_path / "parts", interrupt_after(1))
    assert_same(train(config, data, tmp_path / "parts"), undisturbed)
    assert_same(train(config, data, tmp_path / "parts"), undisturbed)


def test_patience_ends_a_training_and_a_resumed_one_at_the_same_epoch(data: Labeled, tmp_path: Path) -> None:
    config = tiny(lr=0.1, schedule="constant", epochs=40, patience=3)
    undisturbed = train(config, data, tmp_path / "whole")
    epochs = len(undisturbed.history)
    assert epochs == undisturbed.selected_epoch + 1 + 3 < 40
    for stop in (undisturbed.selected_epoch, epochs - 2, epochs - 1):
        with pytest.raises(InterruptedRunError):
            train(config, data, tmp_path / str(stop), interrupt_after(stop))
        assert_same(train(config, data, tmp_path / str(stop)), undisturbed)


def test_seeds_and_options_change_the_result(folder: Path, tmp_path: Path) -> None:
    """Otherwise the tests above would compare equal runs."""
    options = [*RUNS.values(), {"seeds": (1,)}, {"optimizer": "adam", "weight_decay": 0.1}, {"weight_decay": 0.1}]
    found = set()
    for k, changed in enumerate(options):
        config = tiny(**changed)
        found.add(train(config, volumes(folder, config), tmp_path / str(k)).predictions[TEST].tobytes())
    assert len(found) == len(options)
