"""Parts of the loop: schedules, batches, the held-out set, averaging."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crysatom.graphs.graph import material_keys
from crysatom.graphs.shards import is_held_out
from crysatom.training.averaging import MovingAverage
from crysatom.training.loaders import Loader, global_batches
from crysatom.training.pretrain import build
from crysatom.training.regression import build_regression, labeled_data
from crysatom.training.schedules import learning_rate
from crysatom.vectors.elements import element_features
from tests import small_regressions
from tests.small_runs import CPU, data_of, make_shards, one_thread, tiny  # noqa: F401


def test_a_constant_rate_is_constant() -> None:
    assert {learning_rate(0.03, step, 100, "constant") for step in range(100)} == {0.03}


def test_the_cosine_rises_for_a_twentieth_and_then_falls_to_zero() -> None:
    rates = [learning_rate(2.0, step, 200, "cosine") for step in range(200)]
    assert rates[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert rates[10] == 2.0
    assert rates[105] == pytest.approx(1.0)  # half way down
    assert rates[-1] == pytest.approx(1 - math.cos(math.pi / 190))
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_steps_fall_to_a_tenth_at_each_milestone() -> None:
    rates = [learning_rate(0.5, step, 10, "step", [3, 7]) for step in range(10)]
    assert rates == pytest.approx([0.5] * 3 + [0.05] * 4 + [0.005] * 3)


def test_one_cycle_rises_for_three_tenths_and_then_falls_to_next_to_nothing() -> None:
    rates = [learning_rate(0.02, step, 1000, "one_cycle") for step in range(1000)]
    assert rates[0] == pytest.approx(0.02 / 25)
    assert rates[150] == pytest.approx(0.02 * (1 + 1 / 25) / 2)
    assert rates[300] == max(rates) == pytest.approx(0.02)
    assert rates[650] == pytest.approx(0.02 / 2, rel=1e-4)
    assert rates[:301] == sorted(rates[:301])
    assert rates[300:] == sorted(rates[300:], reverse=True)
    # one step before the end of half a cosine of 700
    assert rates[-1] == pytest.approx(0.02 / 250_000 + 0.02 * (1 - math.cos(math.pi / 700)) / 2, rel=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_short_runs_have_usable_rates(total: int, schedule: Any) -> None:
    rates = [learning_rate(1.0, step, total, schedule) for step in range(total)]
    assert rates[0] == pytest.approx(1.0 if schedule == "cosine" else 1 / 25)
    assert all(0 < rate <= 1 for rate in rates)


CRYSTALS = np.arange(1000, 1103)


@pytest.mark.parametrize("tail", ["spread", "short"])
@pytest.mark.parametrize("batch_size", [2, 7, 50, 103, 500])
def test_every_crystal_is_in_one_batch_of_an_epoch(tail: str, batch_size: int) -> None:
    batches = global_batches(CRYSTALS, batch_size, tail, seed=1, epoch=2)
    assert sorted(np.concatenate(batches).tolist()) == CRYSTALS.tolist()
    sizes = [len(batch) for batch in batches]
    if tail == "short":
        assert all(size == batch_size for size in sizes[:-1])
        assert 0 < sizes[-1] <= batch_size
    else:
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(batch_size, len(CRYSTALS))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(global_batches(CRYSTALS, 10, "spread", seed, epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    # Pinned: a resumed run must have the order of the original run, with any version of numpy.
    assert order(0, 0)[:8] == [1099, 1014, 1007, 1015, 1086, 1070, 1045, 1053]


def orders(loader: Loader) -> list[list[int]]:
    """Return the crystals of two epochs, in order."""
    return [torch.cat([batch.material_key for batch in loader.epoch(epoch)]).tolist() for epoch in (0, 1)]


def test_a_run_shuffles_and_begins_by_its_seed(tmp_path: Path) -> None:
    """The order is reproducible, and differs for each seed and epoch; also for labeled crystals."""
    shards = make_shards(tmp_path)
    trained = [orders(data_of(tiny(seed=seed), shards).train) for seed in (0, 0, 1)]
    assert trained[0] == trained[1]
    assert len({tuple(order) for of_seed in trained for order in of_seed}) == 4
    assert all(sorted(order) == sorted(trained[0][0]) for of_seed in trained for order in of_seed)
    features = element_features("elements")
    weights = [build(tiny(seed=seed), features).encoder.embedding.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_predictor_shuffles_and_begins_by_its_seed(tmp_path: Path) -> None:
    configs = [small_regressions.tiny(seeds=(seed,)) for seed in (0, 0, 1)]
    data = small_regressions.volumes(tmp_path, configs[0])
    trained = [orders(labeled_data(config, data.task, CPU)["train"]) for config in configs]
    assert trained[0] == trained[1]
    assert len({tuple(order) for of_seed in trained for order in of_seed}) == 4
    states = [build_regression(config, data.task).state_dict() for config in configs]
    changed = [name for name in states[0] if not torch.equal(states[0][name], states[2][name])]
    assert changed
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_held_out_set_is_stable_nested_and_of_the_asked_size() -> None:
    keys = material_keys(f"JVASP-{k}" for k in range(50_000))
    marked = {fraction: is_held_out(keys, fraction) for fraction in (0.0, 0.02, 0.05, 0.5)}
    assert not marked[0.0].any()
    for fraction in (0.02, 0.05, 0.5):
        deviation = math.sqrt(fraction * (1 - fraction) / len(keys))
        assert abs(marked[fraction].mean() - fraction) < 4 * deviation
    assert (marked[0.02] <= marked[0.05]).all()
    assert (marked[0.05] <= marked[0.5]).all()
    order = np.random.default_rng(0).permutation(len(keys))
    assert np.array_equal(is_held_out(keys[order], 0.05), marked[0.05][order])
    # Decided by the SHA-256 of the id as a binary fraction.
    for k in range(200):
        uniform = int(hashlib.sha256(f"JVASP-{k}".encode()).hexdigest(), 16) / 2**256
        assert marked[0.05][k] == (uniform < 0.05)


def test_train_and_held_out_crystals_share_nothing(tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    data = data_of(tiny(), shards)
    assert data.held_out is not None
    parts = [
        np.concatenate([b.material_key.numpy() for b in loader.epoch(3)]) for loader in (data.train, data.held_out)
    ]
    together = np.concatenate([b.material_key.numpy() for b in data.everything.epoch(0)])
    assert sorted(np.concatenate(parts)) == sorted(together)
    assert len(together) == len(set(together)) == 20
    assert data_of(tiny(holdout_fraction=0.0), shards).held_out is None


def test_the_moving_average_is_that_of_its_formula() -> None:
    net = nn.Linear(2, 1, bias=False).double()
    values = [torch.randn(1, 2, dtype=torch.float64) for _ in range(5)]
    with torch.no_grad():
        net.weight.copy_(values[0])
    average = MovingAverage(net, 0.9)
    expected = values[0].clone()
    for value in values[1:]:
        with torch.no_grad():
            net.weight.copy_(value)
        average.update()
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(average.tensors["weight"], expected, rtol=1e-14, atol=1e-14)
    with average.applied():
        assert torch.equal(net.weight, average.tensors["weight"])
    assert torch.equal(net.weight, values[-1])
    average.apply()
    assert torch.equal(net.weight, average.tensors["weight"])


def test_without_decay_there_is_no_average() -> None:
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()
    average = MovingAverage(net, 0.0)
    average.update()
    with average.applied():
        assert torch.equal(net.weight, before)
    average.apply()
    assert average.tensors == {}
    assert torch.equal(net.weight, before)
