"""Join or start Ray, with ``crysatom`` importable in every worker."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import ray

import crysatom

SOURCE_ROOT = Path(crysatom.__file__).resolve().parents[1]
"""The folder that holds the package: ``platform/`` of a checkout, or site-packages."""


def start_ray() -> None:
    """Join the cluster this process was submitted to, or start Ray on this machine.

    ``ray job submit --working-dir .`` puts the working folder, but not its ``platform/``, on the workers'
    path; the environment variable set here does, and merges with the job's own runtime environment.
    """
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, runtime_env={"env_vars": {"PYTHONPATH": str(SOURCE_ROOT)}})


def started_here() -> bool:
    """Tell whether Ray was started by this process, so that no more machines will join it."""
    return "RAY_ADDRESS" not in os.environ and "RAY_JOB_ID" not in os.environ


def available_cpus() -> float:
    """Return the CPUs of the whole cluster."""
    return float(ray.cluster_resources().get("CPU", 0))
