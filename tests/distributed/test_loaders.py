"""1, 2 and 3 workers read the same global batches, and a whole run on 2 workers equals that on 1.

Measured on the embedded crystals, float32: losses differ by a relative 1e-6 at most, vectors by 2e-6 of the
largest entry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from crysatom import distributed
from crysatom.graphs.batch import collate
from crysatom.graphs.shards import TRAINING_COLUMNS, iter_tables
from crysatom.names import HELD_OUT, LOSS, TRAIN
from crysatom.training.context import PlainContext
from crysatom.training.loaders import cost_of, costs_of, exchange
from crysatom.training.loop import NonFiniteLossError
from crysatom.training.pretrain import pretrain
from tests.gloo import run_workers
from tests.small_runs import data_of, make_shards, one_thread, tiny  # noqa: F401


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), count=40)


def global_keys(shards: str, tail: str) -> list[list[list[int]]]:
    """Keys of this worker's crystals, by epoch and batch."""
    data = data_of(tiny(batch_size=7, tail=tail), Path(shards))
    keys = [
        [b.material_key.tolist() for b in loader.epoch(e)] for loader in (data.train, data.everything) for e in (0, 1)
    ]
    distributed.gather_objects(None)  # no worker may leave the group before all have joined
    return keys


@pytest.mark.parametrize("tail", ["spread", "short"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_share_the_same_global_batches(shards: Path, world_size: int, tail: str) -> None:
    expected = global_keys(str(shards), tail)
    answers = run_workers(global_keys, world_size, str(shards), tail)
    for epoch, batches in enumerate(expected):
        for step, keys in enumerate(batches):
            parts = [answer[epoch][step] for answer in answers]
            assert [key for part in parts for key in part] == keys
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(len(answer[epoch]) == len(batches) for answer in answers)


PARTS = {
    2: ([0.5, 0.5], [0.67, 0.33], [0.1, 0.9], [1.0, 0.0]),
    3: ([0.2, 0.3, 0.5], [0.6, 0.0, 0.4], [0.0, 0.0, 1.0]),
}


def exchanged(shards: str, sizes: list[list[int]], parts: list[list[float]]) -> list[tuple[pa.Table, pa.Table]]:
    """Return this worker's part of each global batch, before and after each exchange."""
    [rows] = iter_tables(Path(shards), TRAINING_COLUMNS)
    found, start = [], 0
    for batch in sizes:
        starts = start + np.concatenate([[0], np.cumsum(batch)])
        held = rows.slice(starts[distributed.rank()], batch[distributed.rank()])
        found += [(held, exchange(held, part)) for part in parts]
        start = starts[-1]
    distributed.gather_objects(None)
    return found


@pytest.mark.parametrize("world_size", [2, 3])
def test_an_exchange_cuts_a_batch_by_cost_and_leaves_it_as_it_is(shards: Path, world_size: int) -> None:
    sizes = [[7, 7, 6], [1, 9, 3], [0, 4, 0], [1, 0, 0]]
    parts = PARTS[world_size]
    answers = run_workers(exchanged, world_size, str(shards), [batch[:world_size] for batch in sizes], list(parts))
    for number, workers in enumerate(zip(*answers, strict=True)):
        before, after = ([worker[when] for worker in workers] for when in (0, 1))
        whole = pa.concat_tables(before)
        assert pa.concat_tables(after).equals(whole)
        costs = np.array([costs_of(share).sum() for share in after])
        wanted = np.array(parts[number % len(parts)]) * costs_of(whole).sum()
        assert np.abs(costs - wanted).max() <= costs_of(whole).max(), "two cuts, each half a crystal off at most"
        for share in after:
            assert cost_of(collate(share)) == costs_of(share).sum()


RUNS: dict[str, dict[str, Any]] = {
    "default": {},
    "averaged vicreg": {"ssl_loss": "vicreg", "ema_decay": 0.9, "gradient_clip": 1.0},
    "element and bond decoders": {
        "element_weight": 1.0,
        "bond_weight": 0.5,
        "mask_unit": "element",
        "extraction": "decoder",
    },
    "nt_xent, best epoch": {"ssl_loss": "nt_xent", "selection": "held_out"},
    "as published": {
        "masked_atoms": "zero",
        "masked_edges": "rerouted",
        "normalize_projection": True,
        "barlow_divisor": "nominal",
        "connectivity_mean": "pairs",
        "tail": "short",
        "schedule": "constant",
        "selection": "train",
        "extraction": "algorithm_1",
    },
}


def whole_run(shards: str, folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Pretrain for two epochs and extract."""
    config = tiny(epochs=2, batch_size=7, **options)
    context = PlainContext(Path(folder) / f"{distributed.world_size()}")
    outcome = pretrain(config, data_of(config, Path(shards)), context)
    losses = [[m[f"{split}/{LOSS}"] for split in (TRAIN, HELD_OUT)] for m in outcome.history]
    return {
        "losses": np.array(losses),
        "elements": outcome.vectors.atomic_numbers,
        "counts": outcome.vectors.site_counts,
        "vectors": outcome.vectors.vectors,
    }


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_two_workers_learn_what_one_learns(options: dict[str, Any], shards: Path, tmp_path: Path) -> None:
    expected = whole_run(str(shards), str(tmp_path), options)
    for answer in run_workers(whole_run, 2, str(shards), str(tmp_path), options):
        np.testing.assert_array_equal(answer["elements"], expected["elements"])
        np.testing.assert_array_equal(answer["counts"], expected["counts"])
        difference = np.abs(answer["vectors"] - expected["vectors"]).max() / np.abs(expected["vectors"]).max()
        np.testing.assert_allclose(answer["losses"], expected["losses"], rtol=1e-4)
        assert difference < 1e-3


def broken_run(shards: str, folder: str) -> str:
    """Train on a crystal with a NaN distance; return the message."""
    config = tiny()
    data = data_of(config, Path(shards))
    tensors = data.train.tensors  # type: ignore[attr-defined]
    atom = tensors.atom_ptr[data.train.crystals[0]]  # type: ignore[attr-defined]
    tensors.distance[tensors.edge_ptr[atom]] = torch.nan
    try:
        pretrain(config, data, PlainContext(Path(folder)))
    except NonFiniteLossError as error:
        return str(error)
    return ""


def test_every_worker_names_the_one_broken_crystal(shards: Path, tmp_path: Path) -> None:
    data = data_of(tiny(), shards)
    name = data.train.ids[data.train.crystals[0]]  # type: ignore[attr-defined]
    for message in run_workers(broken_run, 2, str(shards), str(tmp_path)):
        assert f"with crystals {name};" in message
