"""What the workers of a training ask of the cluster, and whether it can ever give it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Protocol

from ray.train import ScalingConfig

from crysatom.cluster.session import cluster_total, started_here

logger = logging.getLogger(__name__)

STREAMING_CPUS = 1
"""Left to Ray Data when batches are streamed: it would wait for ever behind the workers it feeds."""

LATE_SECONDS = 90.0

FLAGS = {"CPU": "--num-workers or --threads-per-worker", "GPU": "--num-workers, or --no-use-gpu"}


class Workers(Protocol):
    """What is read of a job's configuration."""

    @property
    def num_workers(self) -> int:
        """Data-parallel workers."""

    @property
    def use_gpu(self) -> bool:
        """Whether each has a GPU."""

    @property
    def threads_per_worker(self) -> int:
        """CPU threads of each."""


class TrainingWorkers(Workers, Protocol):
    """What is read of the configuration of a training."""

    @property
    def max_workers(self) -> int:
        """As many if the cluster has room for them; 0: ``num_workers``, always."""

    @property
    def max_failures(self) -> int:
        """Lost workers after which the run fails."""

    @property
    def checkpoint_minutes(self) -> float:
        """Between checkpoints within an epoch; 0: none."""

    @property
    def hang_timeout(self) -> float:
        """Seconds without progress after which a worker counts as hung."""


def per_worker(workers: Workers) -> dict[str, float]:
    """Return what each worker reserves."""
    return {"CPU": float(workers.threads_per_worker)} | ({"GPU": 1.0} if workers.use_gpu else {})


def slots(each: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """Return for how many workers there is room on nodes with these resources; a worker is never split."""
    return sum(max(0, int(min(node.get(name, 0) // amount for name, amount in each.items()))) for node in nodes)


def scaling(config: TrainingWorkers, *, streamed: bool) -> ScalingConfig:
    """Return how many workers there are to be, and what each reserves.

    Raises:
        ValueError: If Ray runs on this machine alone and it has too little.

    """
    each = per_worker(config)
    if streamed:
        each["CPU"] = _share(config, each["CPU"])
    for resource, amount in each.items():
        require(resource, config.num_workers, amount)
    count = (config.num_workers, config.max_workers) if config.max_workers else config.num_workers
    return ScalingConfig(num_workers=count, use_gpu=config.use_gpu, resources_per_worker=each)


def _share(config: TrainingWorkers, cpus: float) -> float:
    """Return the CPUs that a worker reserves on a small cluster, so that Ray Data has some; both use all of them."""
    left = cluster_total("CPU") - STREAMING_CPUS
    if left <= 0 and started_here():
        raise ValueError("streaming needs at least 2 CPUs, this cluster has 1; use --loader resident")
    most = max(config.num_workers, config.max_workers)
    return min(cpus, math.floor(100 * left / most) / 100) if left > 0 else cpus


def require(resource: str, num_workers: int, amount: float) -> None:
    """Check that the cluster has what its workers reserve, or may grow to have it.

    Raises:
        ValueError: If Ray runs on this machine alone and it has too little.

    """
    wanted, total = num_workers * amount, cluster_total(resource)
    if wanted <= total:
        return
    needs = f"{num_workers} workers of {amount:g} {resource} need {wanted:g}, this cluster has {total:g}"
    if started_here():
        raise ValueError(f"{needs}; use fewer {FLAGS[resource]}")
    logger.warning("%s: waiting until it has grown", needs)


@contextmanager
def said_if_late(num_workers: int, each: Mapping[str, float]) -> Iterator[Callable[[], None]]:
    """Warn unless the function that is yielded is called in time: workers wait in silence for what others hold."""

    def warn() -> None:
        logger.warning(
            "the workers have not started after %.0f s: %s of them need %s each, which other jobs may hold; waiting",
            LATE_SECONDS,
            num_workers,
            dict(each),
        )

    timer = Timer(LATE_SECONDS, warn)
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()
