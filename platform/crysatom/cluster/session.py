"""Join or start Ray, with ``crysatom`` importable in every worker and a terminal that shows what matters."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import ray

import crysatom

SOURCE_ROOT = Path(crysatom.__file__).resolve().parents[1]
"""The folder that holds the package: ``platform/`` of a checkout, or site-packages."""

ADDRESS = "RAY_ADDRESS"
"""Ray's own variable; names the cluster."""

SHOW_WORKER_OUTPUT = "RAY_LOG_TO_DRIVER"
"""Ray's own variable; 1 shows what the processes of the cluster print. Off here: what a user has to know comes
through the job itself, and Ray keeps all output in its session folder."""


def start_ray() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, as it does in a submitted job, or start Ray on this machine.

    Left to itself Ray would join any cluster that runs on this machine, be it another user's.

    ``ray job submit --working-dir .`` puts the working folder, but not its ``platform/``, on the workers'
    path; the environment variable set here does, and merges with the job's own runtime environment.
    """
    if ray.is_initialized():
        return
    ray.init(
        address=None if os.environ.get(ADDRESS) else "local",
        logging_level=logging.ERROR,
        log_to_driver=os.environ.get(SHOW_WORKER_OUTPUT) == "1",
        runtime_env={"env_vars": {"PYTHONPATH": str(SOURCE_ROOT)}},
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit)  # Ray's own handler prints a stack trace and aborts
    _calm_ray_data()


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


def _calm_ray_data() -> None:
    """Let Ray Data speak up when something is wrong only, now and when it is imported later."""
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "WARNING")
    logging.getLogger("ray.data").setLevel(os.environ["RAY_DATA_LOG_LEVEL"])
    logging.getLogger("ray.data._internal.progress").setLevel(
        logging.ERROR
    )  # it warns that its bars are off, as they should


def started_here() -> bool:
    """Tell whether this process started the cluster, so that no more machines will join it."""
    return any(child.name() == "raylet" for child in psutil.Process().children())


def cluster_total(resource: str) -> float:
    """Return how much of a resource ('CPU', 'GPU') the whole cluster has."""
    return float(ray.cluster_resources().get(resource, 0))
