"""Resources that training workers need, and whether the cluster can ever provide them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Timer

from ray.train import ScalingConfig

from crysatom.cluster.session import cluster_total, started_here
from crysatom.config import TrainingWorkers, Workers

logger = logging.getLogger(__name__)

STREAMING_CPUS = 1
"""CPUs left to Ray Data when batches are streamed; otherwise it would wait forever for the workers that it feeds."""

LATE_SECONDS = 90.0

FLAGS = {"CPU": "--num-workers or --threads-per-worker", "GPU": "--num-workers, or --no-use-gpu"}


def per_worker(workers: Workers) -> dict[str, float]:
    """Return what each worker reserves."""
    return {"CPU": float(workers.threads_per_worker)} | ({"GPU": 1.0} if workers.use_gpu else {})


def slots(each: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many workers fit on nodes with these resources; a worker needs a single node."""
    return sum(max(0, int(min(node.get(name, 0) // amount for name, amount in each.items()))) for node in nodes)


def scaling(workers: TrainingWorkers, *, streamed: bool) -> ScalingConfig:
    """Return the number of workers and what each reserves.

    Raises:
        ValueError: If Ray runs only on this machine and it has too little.

    """
    each = per_worker(workers)
    if streamed:
        each["CPU"] = _share(workers, each["CPU"])
    for resource, amount in each.items():
        require(resource, workers.num_workers, amount)
    count = (workers.num_workers, workers.max_workers) if workers.max_workers else workers.num_workers
    return ScalingConfig(num_workers=count, use_gpu=workers.use_gpu, resources_per_worker=each)


def _share(workers: TrainingWorkers, cpus: float) -> float:
    """Return the CPUs that a worker reserves on a small cluster, leaving some to Ray Data; both use all of them."""
    left = cluster_total("CPU") - STREAMING_CPUS
    if left <= 0 and started_here():
        raise ValueError("streaming needs at least 2 CPUs, this cluster has 1; use --loader resident")
    return min(cpus, math.floor(100 * left / workers.most) / 100) if left > 0 else cpus


def require(resource: str, num_workers: int, amount: float) -> None:
    """Check that the cluster has what its workers reserve, or may grow to have it.

    Raises:
        ValueError: If Ray runs only on this machine and it has too little.

    """
    wanted, total = num_workers * amount, cluster_total(resource)
    if wanted <= total:
        return
    needs = f"{num_workers} workers of {amount:g} {resource} need {wanted:g}, this cluster has {total:g}"
    if started_here():
        raise ValueError(f"{needs}; use fewer {FLAGS[resource]}")
    logger.warning("%s: waiting for the cluster to grow", needs)


@contextmanager
def warn_if_late(num_workers: int, each: Mapping[str, float]) -> Iterator[Callable[[], None]]:
    """Warn unless the yielded function is called in time: workers wait silently for resources that others hold."""

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
