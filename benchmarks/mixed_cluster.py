"""Two workers, one half as fast as the other: equal shares of each batch against shares by measured speed.

    python benchmarks/mixed_cluster.py --data SHARDS [--streamed]

The training runs under Ray Train like jobs/pretrain.py, with one difference: in each forward pass a worker sleeps for
each edge of its share, the last worker twice as long. The sleep simulates the work of an accelerator and leaves the two
processors to the computation, a small model on both workers. It slows down both the training and the speed measurement
that determines the shares. The two variants run in turn in one process. Losses are also compared in float64, where
rounding does not hide differences; streams are excluded, because two runs draw them in different orders.
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
from crysatom.cluster.data import streamed_data, streamed_dataset
from crysatom.cluster.session import start_ray
from crysatom.cluster.train import train_on_cluster
from crysatom.config import PretrainConfig
from crysatom.names import LOSS, TRAIN
from crysatom.tracking.environment import environment_tags
from crysatom.training.context import Context
from crysatom.training.loop import Loop
from crysatom.training.machine import hardware
from crysatom.training.pretrain import build, resident_data
from crysatom.vectors.elements import element_features

RESULTS = Path(__file__).parent / "results"
WAYS = ("equal", "speed")


class Slowed(nn.Module):
    """A model with a delay.

    Args:
        model: The model.
        seconds: Delay for each edge.

    """

    def __init__(self, model: nn.Module, seconds: float) -> None:
        super().__init__()
        self.model, self.seconds = model, seconds

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Sleep, then evaluate the model."""
        time.sleep(self.seconds * batch.edge_index.shape[1])
        terms: dict[str, Tensor] = self.model(batch, epoch)
        return terms


def work(config: PretrainConfig, arguments: argparse.Namespace, dtype: torch.dtype, context: Context) -> Any:
    """Train on this worker; return the history."""
    load = streamed_data if arguments.streamed else resident_data
    loader: Any = load(config, arguments.data, context.device).train
    if not arguments.streamed:
        loader.tensors = dataclasses.replace(loader.tensors, distance=loader.tensors.distance.to(dtype))
    model = build(config, element_features(config.encoder.node_features)).to(dtype)
    last = distributed.rank() == distributed.world_size() - 1
    pace = arguments.pace * (arguments.slowness if last else 1)
    slowed = Slowed(model, pace)
    return Loop(slowed, loader, None, config.optimization, context, balance=config.workers.balance).run()


def show(news: Any) -> None:
    """Print a message, or the speed of an epoch."""
    if not isinstance(news, str):
        news = f"epoch {news['epoch']:.0f}: {news['crystals_per_second']:.1f} crystals/s"
    print(news, flush=True)


def trained(config: PretrainConfig, arguments: argparse.Namespace, dtype: torch.dtype) -> Any:
    """Return the history of a training under Ray Train."""
    with tempfile.TemporaryDirectory() as folder:
        task = partial(work, config, arguments, dtype)
        checkpoints = Path(folder) / "checkpoints"
        stream = streamed_dataset(config, arguments.data) if arguments.streamed else None
        return train_on_cluster(task, config.workers, checkpoints, record=lambda *_: None, show=show, stream=stream)


def largest_difference(one: Any, other: Any) -> float:
    """Return the largest relative difference between the losses of two histories."""
    a, b = (np.array([epoch[f"{TRAIN}/{LOSS}"] for epoch in history]) for history in (one, other))
    return float(np.abs(a / b - 1).max())


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of graph shards")
    parser.add_argument("--streamed", action="store_true", help="through Ray Data, instead of graphs in memory")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slowness", type=float, default=2.0, help="time factor of the last worker")
    parser.add_argument("--pace", type=float, default=50e-6, help="seconds of sleep per edge of the other workers")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()  # workers have another working directory
    start_ray()
    base = {"embedding_dim": arguments.dim, "num_workers": arguments.workers, "holdout_fraction": 0.0}
    configs = {way: PretrainConfig.of(**base, epochs=arguments.epochs, balance=way) for way in WAYS}
    histories: dict[str, list[Any]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, config in configs.items():
            histories[way].append(trained(config, arguments, torch.float32))
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
        "settings": {name: str(getattr(value, "name", value)) for name, value in vars(arguments).items()},
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment_tags(hardware()),
    }
    if not arguments.streamed:
        exact = {way: trained(config, arguments, torch.float64) for way, config in configs.items()}
        result["largest_difference_of_losses"] = {
            "float32, first epoch": largest_difference(histories["speed"][0][:1], histories["equal"][0][:1]),
            "float32": largest_difference(histories["speed"][0], histories["equal"][0]),
            "float64": largest_difference(exact["speed"], exact["equal"]),
        }
    print(json.dumps(result, indent=1))
    name = "mixed_cluster_streamed.json" if arguments.streamed else "mixed_cluster.json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
