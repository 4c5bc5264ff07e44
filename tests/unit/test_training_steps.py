"""Internals of a step and of an epoch's end: gradients, averages, masks of held-out crystals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crysatom.names import HELD_OUT, LOSS
from crysatom.training.context import Metrics
from crysatom.training.loop import HELD_OUT_EPOCH
from tests.small_runs import data_of, make_shards, one_thread, tiny  # noqa: F401
from tests.unit.test_training_loop import loop_with


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e9], ids=["off", "always", "never reached"])
def test_a_step_is_taken_by_the_gradient_clipped_to_its_norm(clip: float, shards: Path, tmp_path: Path) -> None:
    """Adam hides the norm of gradients: without clipping, steps are nearly the same."""
    config = tiny(gradient_clip=clip, epochs=2)
    loop = loop_with(config, data_of(config, shards), tmp_path)
    raw: dict[nn.Parameter, Tensor] = {}
    norms: list[float] = []

    def look(*_: Any) -> None:
        norm = float(torch.stack([gradient.norm() for gradient in raw.values()]).norm())
        norms.append(norm)
        share = min(1.0, clip / norm) if clip else 1.0
        for parameter, gradient in raw.items():
            # clip_grad_norm_ adds 1e-6 to the norm
            torch.testing.assert_close(parameter.grad, gradient * share, rtol=2e-6 / norm + 1e-6, atol=1e-12)

    for parameter in loop.trainable:
        parameter.register_hook(
            partial(raw.__setitem__, parameter)
        )  # the gradient of this step alone, before it is clipped in place
    loop.optimizer.register_step_pre_hook(look)
    loop.run()
    assert len(norms) == 2 * loop.train.num_steps()
    assert min(norms) > 1e-2, "each is above the lowest limit"


@pytest.mark.parametrize("selection", ["last", "held_out"])
def test_what_is_evaluated_kept_and_left_is_the_moving_average(selection: str, shards: Path, tmp_path: Path) -> None:
    """Compare with the formula of the average over weights after each step; tolerance: float32, a dozen steps."""
    config = tiny(ema_decay=0.7, epochs=4, selection=selection, lr=0.3, schedule="constant")
    data = data_of(config, shards)
    average: dict[str, Tensor] = {}
    learned: dict[str, Tensor] = {}
    averages: list[dict[str, Tensor]] = []
    losses: list[tuple[float, float]] = []

    def floating() -> dict[str, Tensor]:
        return {k: v.double() for k, v in loop.model.state_dict().items() if v.is_floating_point()}

    def step(*_: Any) -> None:
        learned.update(floating())
        for name, value in learned.items():
            average[name] = 0.7 * average[name] + 0.3 * value

    def begin(module: nn.Module, _: Any) -> None:
        if module.training:
            torch.testing.assert_close(floating(), learned, rtol=0, atol=0, msg="training goes on where it was")

    def watch(metrics: Metrics) -> bool:
        averages.append(dict(average))
        torch.testing.assert_close(floating(), average, rtol=1e-4, atol=1e-5)
        losses.append((metrics[f"{HELD_OUT}/{LOSS}"], loop._evaluate(data.held_out)[f"{HELD_OUT}/{LOSS}"]))
        return False

    loop = loop_with(config, data, tmp_path, after_step=step, watch=watch)
    average |= floating()
    learned |= average
    loop.model.register_forward_pre_hook(begin)
    history = loop.run()
    assert len(averages) == len(history) == 4
    assert all(reported == again for reported, again in losses), "what is reported is of the weights that are kept"
    torch.testing.assert_close(floating(), averages[loop.selected_epoch], rtol=1e-4, atol=1e-5)
    if selection == "held_out":
        assert loop.selected_epoch < 3, "with this rate an early epoch is the best"


def test_epochs_decide_masks_in_training_and_not_of_held_out_crystals(shards: Path, tmp_path: Path) -> None:
    config = tiny(epochs=3)
    loop = loop_with(config, data_of(config, shards), tmp_path)
    seen: list[tuple[bool, int, tuple[int, ...]]] = []

    def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        batch, epoch = arguments
        seen.append((module.training, epoch, tuple(batch.material_key.tolist())))

    loop.model.register_forward_pre_hook(look)
    loop.run()
    steps = loop.train.num_steps()
    assert [epoch for training, epoch, _ in seen if training] == [0] * steps + [1] * steps + [2] * steps
    held_out = [(epoch, keys) for training, epoch, keys in seen if not training]
    assert len(held_out) % 3 == 0
    each = len(held_out) // 3
    assert held_out == held_out[:each] * 3, "the same crystals in the same batches"
    assert {epoch for epoch, _ in held_out} == {HELD_OUT_EPOCH}
    assert HELD_OUT_EPOCH not in range(config.optimization.epochs), "no masks that are learned from"
