"""Join or start Ray, with ``crysatom`` importable in every worker and only relevant output on the terminal."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pyarrow as pa
import ray

import crysatom
from crysatom.cluster import is_alone
from crysatom.cluster.reach import require_answer

SOURCE_ROOT = Path(crysatom.__file__).resolve().parents[1]
"""Folder that holds the package: ``platform/`` of a checkout, or site-packages."""

SHOW_WORKER_OUTPUT = "RAY_LOG_TO_DRIVER"
"""Ray's variable; 1 prints the output of the cluster's processes. Off here: the job itself shows what a user needs, and
Ray keeps all output in its session folder."""

ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"
"""Arrow's variable. Threads that allocate the blocks of a stream live for an epoch. With mimalloc, Arrow's default, the
processes that read shards grow with every epoch; with the system's malloc the training workers grow by a block each
epoch; with jemalloc neither grows (benchmarks/long_runs.md)."""

OWN_RAY = {"RAY_enable_metrics_collection": "0", "RAY_task_events_max_num_task_in_gcs": "1000"}
"""Ray's variables for a Ray that ends with the job and is not monitored: no time series of its metrics (2 MB and more
per streamed epoch), and fewer finished tasks remembered than the default of 100,000."""


def start_ray() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, as in a submitted job, or start Ray on this machine.

    By default Ray would join any cluster on this machine, even another user's.

    ``ray job submit --working-dir .`` puts the working folder on the workers' path, but not its ``platform/``. The
    environment variable set here does; it merges with the job's own runtime environment.

    Raises:
        ValueError: If ``RAY_ADDRESS`` is not a cluster's address.
        ConnectionError: If nothing answers there.

    """
    if ray.is_initialized():
        return
    if is_alone():
        for name, value in OWN_RAY.items():
            os.environ.setdefault(name, value)
    else:
        require_answer(os.environ["RAY_ADDRESS"])
    handler = signal.getsignal(signal.SIGTERM)
    pool = "jemalloc" if "jemalloc" in pa.supported_memory_backends() else pa.default_memory_pool().backend_name
    ray.init(
        address="local" if is_alone() else None,
        logging_level=logging.ERROR,
        log_to_driver=os.environ.get(SHOW_WORKER_OUTPUT) == "1",
        runtime_env={"env_vars": {"PYTHONPATH": str(SOURCE_ROOT), ARROW_POOL: os.environ.get(ARROW_POOL, pool)}},
    )
    if threading.current_thread() is threading.main_thread():
        # replaces Ray's own handler, which prints a stack trace and aborts
        signal.signal(signal.SIGTERM, handler if callable(handler) else _exit)
    _calm_ray_data()


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


def _calm_ray_data() -> None:
    """Let Ray Data log warnings only, now and if it is imported later."""
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "WARNING")
    logging.getLogger("ray.data").setLevel(os.environ["RAY_DATA_LOG_LEVEL"])
    logging.getLogger("ray.data._internal.progress").setLevel(
        logging.ERROR
    )  # it would warn that its progress bars are off


def started_here() -> bool:
    """Return whether this process started the cluster; no more machines will then join it."""
    return any(child.name() == "raylet" for child in psutil.Process().children())


def cluster_total(resource: str) -> float:
    """Return how much of a resource ('CPU', 'GPU') the whole cluster has."""
    return float(ray.cluster_resources().get(resource, 0))
