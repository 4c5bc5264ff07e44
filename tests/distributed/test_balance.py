"""Workers share batches in proportion to their speed, and learn the same as with equal shares.

They measure a clock of this test, which advances by a fixed time per edge, twice as much on the second worker: other
load on the machine does not matter. ``benchmarks/mixed_cluster.py`` measures real time.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.names import LOSS, TRAIN
from crysatom.training.context import PlainContext
from crysatom.training.loop import Loop
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from tests.gloo import run_workers
from tests.small_runs import data_of, make_shards, one_thread, tiny  # noqa: F401


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), count=60)


class Timed(nn.Module):
    """Advances a clock by one second per edge, by two on the second worker."""

    def __init__(self, model: nn.Module, clock: list[float], seconds: int) -> None:
        super().__init__()
        self.model, self.clock, self.seconds = model, clock, seconds

    def __deepcopy__(self, memo: dict[int, Any]) -> Timed:
        return Timed(copy.deepcopy(self.model, memo), self.clock, self.seconds)

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        self.clock[0] += self.seconds * batch.edge_index.shape[1]
        terms: dict[str, Tensor] = self.model(batch, epoch)
        return terms


class Telling(PlainContext):
    """Records messages to the user."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.said: list[str] = []

    def log(self, sentence: str) -> None:
        self.said.append(sentence)


def run(shards: str, folder: str, balance: str, max_edges: int = 0) -> dict[str, Any]:
    """Train in float64; return losses, largest shares, messages, and weights."""
    config = tiny(batch_size=20, epochs=2, balance=balance, holdout_fraction=0.0)
    loader: Any = data_of(config, Path(shards)).train
    loader.tensors = dataclasses.replace(loader.tensors, distance=loader.tensors.distance.double())
    model = build(config, element_features(config.encoder.node_features)).double()
    context = Telling(Path(folder) / balance)
    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        of_test = SimpleNamespace(perf_counter=lambda: clock[0], monotonic=time.monotonic)
        patch.setattr("crysatom.training.balance.time", of_test)
        history = Loop(
            Timed(model, clock, 1 + distributed.rank()),
            loader,
            None,
            config.optimization,
            context,
            balance=config.workers.balance,
            max_edges=max_edges,
        ).run()
    return {
        "losses": np.array([epoch[f"{TRAIN}/{LOSS}"] for epoch in history]),
        "shares": [epoch.get("largest_share", 0.5) for epoch in history],
        "said": context.said,
        "weights": np.concatenate([parameter.detach().flatten().numpy() for parameter in model.parameters()]),
    }


@pytest.mark.parametrize("max_edges", [0, 200], ids=["whole", "micro-batches"])
def test_shares_by_speed_change_the_time_and_not_the_losses(max_edges: int, shards: Path, tmp_path: Path) -> None:
    equal = run_workers(run, 2, str(shards), str(tmp_path), "equal")[0]
    by_speed = run_workers(run, 2, str(shards), str(tmp_path / str(max_edges)), "speed", max_edges)[0]
    assert equal["said"] == []
    assert equal["shares"] == [0.5, 0.5]
    assert len(by_speed["said"]) == 1
    assert by_speed["said"][0].startswith("shares of each batch, by measured speed: worker 0 67 %")
    assert by_speed["shares"] == pytest.approx([2 / 3] * 2, abs=0.01), "crystals count beside their edges"
    # Sums over crystals in another order, in float64
    np.testing.assert_allclose(by_speed["losses"], equal["losses"], rtol=1e-9)
    assert np.abs(by_speed["weights"] - equal["weights"]).max() <= 1e-6 * np.abs(equal["weights"]).max()


def test_equal_machines_share_equally_without_being_asked(shards: Path, tmp_path: Path) -> None:
    auto = run_workers(run, 2, str(shards), str(tmp_path), "auto")[0]
    assert auto["said"] == []
    assert auto["shares"] == [0.5, 0.5]
