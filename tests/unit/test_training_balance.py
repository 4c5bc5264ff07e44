"""Share of a batch for each worker, by its speed and its memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crysatom import distributed
from crysatom.config import PretrainConfig, parse
from crysatom.training.balance import measure, proportions
from crysatom.training.loaders import ResidentLoader, cost_of
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from tests.small_runs import CPU, data_of, make_shards, one_thread, tiny  # noqa: F401

UNLIMITED = float("inf")


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), count=40)


def test_parts_go_by_speed() -> None:
    np.testing.assert_allclose(proportions([2.0, 1.0, 1.0], [UNLIMITED] * 3), [0.5, 0.25, 0.25])


def test_what_a_worker_cannot_hold_goes_to_the_others_by_their_speeds() -> None:
    np.testing.assert_allclose(proportions([6.0, 2.0, 1.0], [0.4, 0.7, UNLIMITED]), [0.4, 0.4, 0.2])
    # The second gets only what the first leaves
    np.testing.assert_allclose(proportions([6.0, 2.0, 1.0], [0.4, 0.3, UNLIMITED]), [0.4, 0.3, 0.3])


def test_a_batch_too_large_for_all_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="holds 90 % of a global batch; lower --batch-size or raise --num-workers"):
        proportions([1.0, 2.0], [0.4, 0.5])


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(0.0, 2.0)), min_size=1, max_size=12))
def test_parts_are_a_whole_and_within_their_limits(workers: list[tuple[float, float]]) -> None:
    speeds, limits = zip(*workers, strict=True)
    if sum(limits) < 1:
        return
    parts = proportions(speeds, limits)
    assert parts.sum() == pytest.approx(1)
    assert (parts <= np.array(limits) + 1e-12).all()
    below = parts < np.array(limits) - 1e-12
    rates = (parts / speeds)[below]
    assert rates.size == 0 or np.ptp(rates) <= 1e-9 * rates.max(), "equally long for all that are not full"


@pytest.mark.parametrize("tail", ["spread", "short"])
def test_shares_are_cut_where_the_costs_are_reached(shards: Path, tail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = data_of(tiny(batch_size=12, tail=tail), shards).train
    assert isinstance(loader, ResidentLoader)
    whole = list(loader.epoch(2))
    wanted = np.array([0.5, 0.2, 0.3])
    loader.share(wanted)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(loader.epoch(2)))
    for batch, *shares in zip(whole, *parts, strict=True):
        assert [key for share in shares for key in share.material_key.tolist()] == batch.material_key.tolist()
        costs = np.array([cost_of(share) for share in shares])
        assert costs.sum() == cost_of(batch)
        largest = int(np.bincount(batch.batch[batch.edge_index[1]]).max()) + 1
        assert np.abs(costs - wanted * costs.sum()).max() <= largest, "two cuts, each half a crystal off at most"


def test_measuring_leaves_no_trace(shards: Path) -> None:
    config = tiny()
    model = build(config, element_features(config.encoder.node_features))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = next(iter(data_of(config, shards).train.epoch(0)))
    found = measure(model, batch, 0, CPU)
    assert found.cost == cost_of(batch) == batch.edge_index.shape[1] + batch.num_graphs
    assert 0 < found.speed < 1e9
    assert found.capacity == UNLIMITED, "nobody can tell how much of a processor's memory is free for long"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("argv", ["--num-workers 2:5", "--num-workers=2:5", "--num-workers=2 --max-workers=5"])
def test_a_range_of_workers_is_written_with_a_colon(argv: str) -> None:
    config = parse(PretrainConfig, [*argv.split(), "--epochs", "3"])
    assert (config.workers.num_workers, config.workers.max_workers, config.optimization.epochs) == (2, 5, 3)


@pytest.mark.parametrize("value", ["0:2", "3:2", "2:200"])
def test_a_range_that_cannot_be_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(PretrainConfig, ["--num-workers", value])
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "1 <= MIN <= MAX" in shown or "batch_size 128 is smaller than num_workers 200" in shown
