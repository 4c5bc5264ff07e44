"""How a stream begins its epochs, and what it costs: our source beside Ray Data's own reader of Parquet, in turn.

    RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=268435456 python benchmarks/stream_start.py --data SHARDS

Nothing is trained. First one consumer takes batches of 128 crystals as fast as it can, epoch by epoch; processes that
appear meanwhile are counted every 50 ms. Then it takes one each 50 ms, as a training might: what does the process that
splits the stream use of a processor, while shards wait that have no room in the object store?
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow as pa
import ray.data

from crysatom.cluster.data import streamed_dataset
from crysatom.cluster.session import start_ray
from crysatom.config import PretrainConfig
from crysatom.graphs.shards import TRAINING_COLUMNS, is_held_out, shard_files
from crysatom.names import MATERIAL_KEY
from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware

RESULTS = Path(__file__).parent / "results"


def by_ray(config: PretrainConfig, shards: Path) -> ray.data.Dataset:
    """Return the same crystals as :func:`crysatom.cluster.data.streamed_dataset`, by ``ray.data.read_parquet``."""
    files, fraction = [str(path) for path in shard_files(shards)], config.holdout_fraction
    shuffle = ray.data.FileShuffleConfig(seed=config.seed)

    def keep(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(~is_held_out(table[MATERIAL_KEY].to_numpy(), fraction)))

    dataset = ray.data.read_parquet(files, columns=list(TRAINING_COLUMNS), shuffle=shuffle)
    return dataset.map_batches(keep, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)


WAYS: dict[str, Callable[[PretrainConfig, Path], Any]] = {
    "ray.data.read_parquet": by_ray,
    "GraphShards": streamed_dataset,
}


@contextmanager
def counted() -> Iterator[set[int]]:
    """Give the ids of processes that appear meanwhile."""
    root, ended, seen = psutil.Process(), threading.Event(), set[int]()
    before = {process.pid for process in root.children(recursive=True)}

    def look() -> None:
        while not ended.wait(0.05):
            seen.update({process.pid for process in root.children(recursive=True)} - before)

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    ended.set()
    thread.join()


def epochs(dataset: ray.data.Dataset, count: int) -> list[dict[str, float]]:
    """Read a data set some times over; return what each took."""
    [stream] = dataset.streaming_split(1)
    found = []
    for _ in range(count):
        with counted() as seen:
            start = time.perf_counter()
            batches = stream.iter_batches(batch_format="pyarrow", batch_size=128)
            crystals = len(next(iter(batches)))
            first = time.perf_counter() - start
            crystals += sum(map(len, batches))
            whole = time.perf_counter() - start
        found.append({"first_batch_s": first, "epoch_s": whole, "crystals": crystals, "new_processes": len(seen)})
        print(found[-1], flush=True)
        time.sleep(5)  # a training's epoch is long enough for Ray to end what it started
    return found


def coordinator_share(dataset: ray.data.Dataset, seconds: float) -> float:
    """Return what the process that splits the stream uses of a processor, beside a consumer that is slow."""
    [stream] = dataset.streaming_split(1)
    batches = iter(stream.iter_batches(batch_format="pyarrow", batch_size=128))
    next(batches)
    for _ in range(100):
        next(batches)
        time.sleep(0.05)
    below = psutil.Process().children(recursive=True)
    [splits] = [process for process in below if process.cmdline()[:1] == ["ray::SplitCoordinator"]]
    before, start = sum(splits.cpu_times()[:2]), time.perf_counter()
    while time.perf_counter() < start + seconds:
        next(batches)
        time.sleep(0.05)
    share: float = (sum(splits.cpu_times()[:2]) - before) / (time.perf_counter() - start)
    print(f"{share:.0%} of a processor", flush=True)
    return share


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of graph shards")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    start_ray()
    measured: dict[str, list[list[dict[str, float]]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, dataset_of in WAYS.items():
            print(way, flush=True)
            measured[way].append(epochs(dataset_of(PretrainConfig.of(), arguments.data), arguments.epochs))
    shares = {
        way: coordinator_share(dataset_of(PretrainConfig.of(), arguments.data), 10) for way, dataset_of in WAYS.items()
    }
    later = {way: [epoch for found in rounds for epoch in found[1:]] for way, rounds in measured.items()}
    crystals = {epoch["crystals"] for found in later.values() for epoch in found}
    if len(crystals) != 1:
        raise RuntimeError(f"epochs had {crystals} crystals")
    result = {
        "crystals": crystals.pop(),
        "first epoch of each round": {
            way: [{name: round(value, 2) for name, value in found[0].items()} for found in rounds]
            for way, rounds in measured.items()
        },
        "median of later epochs": {
            way: {name: round(median(epoch[name] for epoch in found), 3) for name in found[0]}
            for way, found in later.items()
        },
        "processor share of SplitCoordinator": {way: round(share, 2) for way, share in shares.items()},
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "RAY_worker_niceness": os.environ.get("RAY_worker_niceness", "15, as Ray sets it"),  # noqa: SIM112 - Ray's own
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(result, indent=1))
    (RESULTS / "stream_start.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
