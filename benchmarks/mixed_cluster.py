"""Two workers, one half as fast as the other: equal shares of each batch beside shares by measured speed.

    python benchmarks/mixed_cluster.py --data SHARDS

A training by Ray Train as jobs/pretrain.py does it, with one difference: the model of the second worker sleeps, in each
forward pass, as long as an unslowed worker would need for that batch. What is slow is thus slow for the training and
for the measurement that shares go by, and the processor is free meanwhile, as another machine's would be. Both ways
run in turn, in one process of this script. Losses are compared once more in float64, where rounding does not hide a
difference. With three workers (--workers 3) the last one is slow.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.cluster.session import start_ray
from crysatom.cluster.train import train_on_cluster
from crysatom.config import PretrainConfig
from crysatom.names import LOSS, TRAIN
from crysatom.tracking.environment import environment_tags
from crysatom.training.balance import measure
from crysatom.training.context import Context
from crysatom.training.loop import Loop
from crysatom.training.machine import hardware
from crysatom.training.pretrain import build, resident_data
from crysatom.vectors.elements import element_features

RESULTS = Path(__file__).parent / "results"
WAYS = ("equal", "speed")


class Slowed(nn.Module):
    """A model that takes longer.

    Args:
        model: Does the work.
        seconds: Of sleep for each unit of a batch's cost.

    """

    def __init__(self, model: nn.Module, seconds: float) -> None:
        super().__init__()
        self.model, self.seconds = model, seconds

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Sleep, then work."""
        time.sleep(self.seconds * (batch.edge_index.shape[1] + batch.num_graphs))
        terms: dict[str, Tensor] = self.model(batch, epoch)
        return terms


def work(config: PretrainConfig, shards: Path, slowness: float, dtype: torch.dtype, context: Context) -> Any:
    """Train on this worker; return the history, and how slow the last worker was made."""
    loader: Any = resident_data(config, shards, context.device).train
    loader.tensors = dataclasses.replace(loader.tensors, distance=loader.tensors.distance.to(dtype))
    model = build(config, element_features(config.node_features)).to(dtype)
    distributed.gather_objects(None)
    mine = measure(model, next(loader.epoch(0)), 0, context.device)
    unslowed = 1 / np.mean([ability.speed for ability in distributed.gather_objects(mine)])
    last = distributed.rank() == distributed.world_size() - 1
    slowed = Slowed(model, (slowness - 1) * unslowed if last else 0.0)
    return Loop(slowed, loader, None, config, context).run()


def trained(config: PretrainConfig, shards: Path, slowness: float, dtype: torch.dtype) -> Any:
    """Return the history of a training under Ray Train."""
    with tempfile.TemporaryDirectory() as folder:
        task = partial(work, config, shards, slowness, dtype)
        checkpoints = Path(folder) / "checkpoints"
        return train_on_cluster(
            task, config, checkpoints, record=lambda *_: None, show=lambda line: print(line, flush=True)
        )


def largest_difference(one: Any, other: Any) -> float:
    """Return the largest relative difference between the losses of two histories."""
    a, b = (np.array([epoch[f"{TRAIN}/{LOSS}"] for epoch in history]) for history in (one, other))
    return float(np.abs(a / b - 1).max())


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of graph shards")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slowness", type=float, default=2.0, help="of the last worker")
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    start_ray()
    base = {"embedding_dim": arguments.dim, "num_workers": arguments.workers, "holdout_fraction": 0.0}
    configs = {way: PretrainConfig(**base, epochs=arguments.epochs, balance=way) for way in WAYS}
    histories: dict[str, list[Any]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, config in configs.items():
            histories[way].append(trained(config, arguments.data, arguments.slowness, torch.float32))
    exact = {way: trained(config, arguments.data, arguments.slowness, torch.float64) for way, config in configs.items()}

    rates = {
        way: [median(epoch["crystals_per_second"] for epoch in history[1:]) for history in runs]
        for way, runs in histories.items()
    }
    ratios = [fast / slow for slow, fast in zip(rates["equal"], rates["speed"], strict=True)]
    share = 1 / (arguments.workers - 1 + 1 / arguments.slowness)
    result = {
        "crystals_per_second": {way: [round(rate, 1) for rate in found] for way, found in rates.items()},
        "gain": {"each": [round(ratio, 3) for ratio in ratios], "median": round(median(ratios), 3)},
        "gain_if_nothing_but_work_took_time": round(arguments.slowness / arguments.workers / share, 3),
        "largest_share": [round(history[-1]["largest_share"], 3) for history in histories["speed"]],
        "largest_share_by_slowness": round(share, 3),
        "largest_difference_of_losses": {
            "float32, first epoch": largest_difference(histories["speed"][0][:1], histories["equal"][0][:1]),
            "float32": largest_difference(histories["speed"][0], histories["equal"][0]),
            "float64": largest_difference(exact["speed"], exact["equal"]),
        },
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(result, indent=1))
    (RESULTS / "mixed_cluster.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
