"""The loop in a plain process, on real crystals: reports, checkpoints, resuming and errors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.names import HELD_OUT, LOSS, LOSS_TERMS, SYSTEM, TRAIN
from crysatom.training import checkpoints
from crysatom.training.context import LOOK_S, STOP, Action, Metrics, PlainContext, StoppedError
from crysatom.training.loop import Loop, NonFiniteLossError, Selection
from crysatom.training.pretrain import PretrainData, PretrainOutcome, build, pretrain
from crysatom.vectors.elements import element_features
from tests.small_runs import TIMINGS, comparable, data_of, make_shards, one_thread, tiny  # noqa: F401


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


class InterruptedRunError(RuntimeError):
    """Raised by a test to stop a run."""


def interrupt_after(epoch: int) -> Any:
    def on_report(metrics: Metrics) -> None:
        if metrics["epoch"] == epoch:
            raise InterruptedRunError

    return on_report


@dataclasses.dataclass
class Breaking:
    """Loader that raises in the middle of an epoch."""

    loader: Any
    epoch_to_break: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(self.loader.epoch(epoch, start), start):
            if epoch == self.epoch_to_break and step == 1:
                raise InterruptedRunError
            yield batch

    def num_steps(self) -> int:
        return self.loader.num_steps()

    def material_ids(self, keys: list[int]) -> list[str]:
        return self.loader.material_ids(keys)


def assert_same_outcome(one: PretrainOutcome, two: PretrainOutcome) -> None:
    """Compare outcomes bit for bit."""
    assert comparable(one.history) == comparable(two.history)
    assert np.array_equal(one.vectors.atomic_numbers, two.vectors.atomic_numbers)
    assert np.array_equal(one.vectors.vectors, two.vectors.vectors)
    assert np.array_equal(one.vectors.site_counts, two.vectors.site_counts)
    assert np.array_equal(one.cross_correlation, two.cross_correlation)


def test_history_has_the_vocabulary_of_metrics(shards: Path, tmp_path: Path) -> None:
    config = tiny(epochs=2)
    reported: list[Metrics] = []
    outcome = pretrain(config, data_of(config, shards), PlainContext(tmp_path, reported.append))
    losses = {f"{split}/{term}" for split in (TRAIN, HELD_OUT) for term in LOSS_TERMS}
    assert [set(m) for m in outcome.history] == [{"epoch", "lr", *TIMINGS, *losses}] * 2
    assert [{k: v for k, v in m.items() if not k.startswith(SYSTEM)} for m in reported] == outcome.history
    assert all(any(k.startswith(SYSTEM) for k in m) for m in reported)
    for metrics in outcome.history:
        assert all(np.isfinite(v) for v in metrics.values())
        assert 0 <= metrics["data_wait_share"] <= 1
        for split in (TRAIN, HELD_OUT):
            weighted = 0.25 * metrics[f"{split}/connectivity"] + 0.25 * metrics[f"{split}/features"]
            weighted += 0.5 * metrics[f"{split}/ssl"]
            # Printed losses are means of float32 values: about 1e-7 each.
            assert metrics[f"{split}/{LOSS}"] == pytest.approx(weighted, rel=1e-5)


RUNS: dict[str, dict[str, Any]] = {
    "last": {"selection": "last"},
    "held_out": {"selection": "held_out"},
    "train": {"selection": "train"},
    "average": {"ema_decay": 0.8},
    "average, held_out": {"ema_decay": 0.8, "selection": "held_out", "ssl_loss": "vicreg"},
    "algorithm_1": {"extraction": "algorithm_1", "masked_atoms": "zero", "masked_edges": "rerouted"},
    "algorithm_1, train": {"extraction": "algorithm_1", "selection": "train", "tail": "short"},
    "micro-batches, algorithm_1": {"max_edges": 100, "extraction": "algorithm_1", "ssl_loss": "vicreg"},
    "clipped, decaying": {"gradient_clip": 0.1, "weight_decay": 0.01, "ssl_loss": "nt_xent"},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_a_resumed_run_equals_an_undisturbed_one(options: dict[str, Any], shards: Path, tmp_path: Path) -> None:
    config = tiny(**options)
    undisturbed = pretrain(config, data_of(config, shards), PlainContext(tmp_path / "whole"))
    folder = tmp_path / "parts"
    with pytest.raises(InterruptedRunError):
        pretrain(config, data_of(config, shards), PlainContext(folder, interrupt_after(0)))
    data = data_of(config, shards)
    broken = dataclasses.replace(data, train=Breaking(data.train, 2))
    with pytest.raises(InterruptedRunError):
        pretrain(config, broken, PlainContext(folder))
    assert json.loads((folder / "epoch-000001" / "state.json").read_text())["epoch"] == 2
    reported: list[Metrics] = []
    resumed = pretrain(config, data_of(config, shards), PlainContext(folder, reported.append))
    assert [m["epoch"] for m in reported] == [2, 3]
    assert_same_outcome(resumed, undisturbed)
    again = pretrain(config, data_of(config, shards), PlainContext(folder))
    assert_same_outcome(again, undisturbed)


class Asking(PlainContext):
    """Requests a checkpoint, and optionally the end of the run, after a step."""

    def __init__(self, folder: Path, after: int, wish: Action) -> None:
        super().__init__(folder)
        self.after, self.asked = after, wish

    def next_action(self) -> Action:
        self.after -= 1
        return self.asked if self.after == 0 else Action.GO_ON


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_a_run_stopped_in_the_midst_of_an_epoch_loses_nothing(
    options: dict[str, Any], shards: Path, tmp_path: Path
) -> None:
    config = tiny(**options)
    undisturbed = pretrain(config, data_of(config, shards), PlainContext(tmp_path / "whole"))
    data, folder = data_of(config, shards), tmp_path / "parts"
    steps = data.train.num_steps()
    assert steps >= 3
    for after, epoch, step in ((steps - 1, 0, steps - 1), (2, 1, 1)):
        with pytest.raises(StoppedError, match=f"stopped after step {step} of epoch {epoch}"):
            pretrain(config, data, Asking(folder, after, Action.STOP))
        assert (folder / f"step-{epoch * steps + step:010d}").is_dir()
    resumed = pretrain(config, data, PlainContext(folder))
    assert_same_outcome(resumed, undisturbed)


def test_a_run_stopped_by_the_last_step_of_an_epoch_ends_with_the_checkpoint_of_the_epoch(
    shards: Path, tmp_path: Path
) -> None:
    config = tiny(epochs=2)
    data = data_of(config, shards)
    steps = data.train.num_steps()
    with pytest.raises(StoppedError, match="stopped after epoch 0, as requested"):
        pretrain(config, data, Asking(tmp_path, steps, Action.STOP))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000000"]
    finished = pretrain(config, data, Asking(tmp_path, steps, Action.STOP))
    assert len(finished.history) == 2, "there is nothing left to stop"


def test_a_file_asks_for_the_end_and_the_clock_for_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    config = tiny()
    context = PlainContext(tmp_path, every=60.0)
    assert context.next_action() == Action.GO_ON
    context.looked_at -= LOOK_S
    assert context.next_action() == Action.GO_ON
    context.looked_at -= LOOK_S
    context.saved_at -= 60.0
    assert context.next_action() == Action.SAVE
    (tmp_path / STOP).touch()
    assert context.next_action() == Action.GO_ON, "it does not look at each step"
    context.looked_at -= LOOK_S
    assert context.next_action() == Action.STOP
    context.looked_at -= LOOK_S
    with pytest.raises(StoppedError, match="stopped after step 1 of epoch 0, as requested"):
        pretrain(config, data_of(config, shards), context)


def test_a_checkpoint_within_an_epoch_changes_nothing(shards: Path, tmp_path: Path) -> None:
    config = tiny(epochs=2)
    undisturbed = pretrain(config, data_of(config, shards), PlainContext(tmp_path / "whole"))
    saving = Asking(tmp_path / "saved", 2, Action.SAVE)
    assert_same_outcome(pretrain(config, data_of(config, shards), saving), undisturbed)


def test_options_change_the_result(shards: Path, tmp_path: Path) -> None:
    """Otherwise the test above would compare eight equal runs."""
    found = []
    for k, options in enumerate(RUNS.values()):
        config = tiny(**options)
        outcome = pretrain(config, data_of(config, shards), PlainContext(tmp_path / str(k)))
        found.append(outcome.vectors.vectors)
    distinct = {v.tobytes() for v in found}
    # The last epoch may also be the best.
    assert len(distinct) >= len(RUNS) - 2


def test_the_selected_epoch_is_the_best_one(shards: Path, tmp_path: Path) -> None:
    """With a learning rate that makes training diverge, the best epoch is an early one; its weights are extracted."""
    config = tiny(selection="held_out", lr=0.3, schedule="constant", epochs=5)
    outcome = pretrain(config, data_of(config, shards), PlainContext(tmp_path / "all"))
    losses = [m[f"{HELD_OUT}/{LOSS}"] for m in outcome.history]
    best = int(np.argmin(losses))
    assert best < 4
    until = config.replace(epochs=best + 1, selection="last")
    shorter = pretrain(until, data_of(until, shards), PlainContext(tmp_path / "short"))
    assert np.array_equal(shorter.vectors.vectors, outcome.vectors.vectors)


def test_the_newest_whole_checkpoint_is_used(shards: Path, tmp_path: Path) -> None:
    config = tiny(epochs=3)
    undisturbed = pretrain(config, data_of(config, shards), PlainContext(tmp_path / "whole"))
    folder = tmp_path / "parts"
    with pytest.raises(InterruptedRunError):
        pretrain(config, data_of(config, shards), PlainContext(folder, interrupt_after(1)))
    assert sorted(p.name for p in folder.iterdir()) == ["epoch-000000", "epoch-000001"]

    truncated = folder / "epoch-000001" / "optimizer.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    without_state = folder / "epoch-000007"
    without_state.mkdir()
    (without_state / "state.safetensors").write_bytes(b"")
    half_a_state = folder / ".epoch-000008.partial"
    half_a_state.mkdir()
    (half_a_state / "state.json").write_text('{"epoch": 9, "fil')
    (folder / "epoch-000009").write_text("a file")

    reported: list[Metrics] = []
    with PlainContext(folder).checkpoint() as found:
        assert found == folder / "epoch-000000"
    resumed = pretrain(config, data_of(config, shards), PlainContext(folder, reported.append))
    assert [m["epoch"] for m in reported] == [1, 2]
    assert_same_outcome(resumed, undisturbed)


def test_checkpoints_are_safetensors_and_json(shards: Path, tmp_path: Path) -> None:
    config = tiny(epochs=3, ema_decay=0.9, selection="held_out", extraction="algorithm_1")
    pretrain(config, data_of(config, shards), PlainContext(tmp_path))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.parent.name for p in files} == {"epoch-000001", "epoch-000002"}, "the newest two are kept"
    assert {p.name for p in files} == {
        *(f"{group}.safetensors" for group in ("state", "optimizer", "best", "average")),
        "state.json",
    }
    for file in files:
        head = file.read_bytes()[:2]
        assert head != b"PK", "a zip, as torch.save writes"
        assert head[:1] != b"\x80", "a pickle"


def test_an_incomplete_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"{tmp_path.name} is not a complete checkpoint: state.json cannot be read: No such file"
    ):
        checkpoints.load(tmp_path)


def loop_with(config: PretrainConfig, data: PretrainData, folder: Path, **options: Any) -> Loop:
    model = build(config, element_features(config.encoder.node_features))
    options = {"selection": Selection(by=config.selected_by), **options}
    return Loop(model, data.train, data.held_out, config.optimization, PlainContext(folder), **options)


@pytest.mark.parametrize("max_edges", [0, 50], ids=["whole", "micro-batches"])
def test_a_loss_that_is_not_a_number_stops_before_the_weights_change(
    max_edges: int, shards: Path, tmp_path: Path
) -> None:
    config = tiny()
    data = data_of(config, shards)
    loader: Any = data.train
    broken = int(loader.crystals[3])
    first_atom = int(loader.tensors.atom_ptr[broken])
    loader.tensors.distance[int(loader.tensors.edge_ptr[first_atom]) + 1] = float("nan")
    keys = loader.tensors.material_keys[broken]
    position = next(k for k, batch in enumerate(loader.epoch(0)) if keys in batch.material_key)

    seen: list[dict[str, torch.Tensor]] = []

    def remember(*_: Any) -> None:
        seen.append({k: p.detach().clone() for k, p in loop.model.named_parameters()})

    loop = loop_with(config, data, tmp_path, after_step=remember, max_edges=max_edges)
    remember()
    with pytest.raises(NonFiniteLossError) as caught:
        loop.run()
    message = str(caught.value)
    assert f"in epoch 0, batch {position}, with crystals {loader.ids[broken]};" in message
    assert "start a new run" in message
    assert len(seen) == position + 1
    for name, parameter in loop.model.named_parameters():
        assert torch.equal(parameter, seen[-1][name]), name
    assert not list(tmp_path.glob("epoch-*")), "nothing of the broken epoch is kept"


@pytest.mark.parametrize("max_edges", [0, 50], ids=["whole", "micro-batches"])
def test_without_a_broken_distance_all_crystals_of_the_batch_are_named(
    max_edges: int, shards: Path, tmp_path: Path
) -> None:
    config = tiny()
    data = data_of(config, shards)
    loop = loop_with(config, data, tmp_path, max_edges=max_edges)
    with torch.no_grad():
        loop.model.features.bias.fill_(float("inf"))
    with pytest.raises(NonFiniteLossError) as caught:
        loop.run()
    batch = next(iter(data.train.epoch(0)))
    names = data.train.material_ids(batch.material_key.tolist())
    assert len(names) == batch.num_graphs
    assert all(name in str(caught.value) for name in names)


def test_selection_by_held_out_crystals_needs_some(shards: Path, tmp_path: Path) -> None:
    config = tiny(selection="held_out")
    data = dataclasses.replace(data_of(config, shards), held_out=None)
    with pytest.raises(ValueError, match="raise --holdout-fraction"):
        loop_with(config, data, tmp_path)


def test_too_few_crystals_to_learn_from_are_refused(shards: Path) -> None:
    with pytest.raises(ValueError, match="lower --holdout-fraction"):
        data_of(tiny(holdout_fraction=0.9999), shards)


def test_rates_of_a_run_follow_the_schedule(shards: Path, tmp_path: Path) -> None:
    config = tiny(epochs=3, lr=0.01)
    data = data_of(config, shards)
    rates: list[float] = []
    loop = loop_with(config, data, tmp_path, after_step=lambda *_: rates.append(loop.optimizer.param_groups[0]["lr"]))
    loop.run()
    assert len(rates) == 3 * data.train.num_steps()
    assert rates[0] == 0.01
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.01 * 0.1
