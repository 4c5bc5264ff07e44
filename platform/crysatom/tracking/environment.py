"""What a run ran on: versions, code, hardware, and how busy the machine is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from crysatom.names import __version__
from crysatom.tracking.fields import GIT_COMMIT, HARDWARE, PACKAGE_VERSION, SYSTEM

GIT_COMMIT_VARIABLE = "CRYSATOM_GIT_COMMIT"
"""Names the commit where the code runs without its repository, as in a Ray job."""

_PACKAGES = ("mlflow", "numpy", "pymatgen", "ray", "torch", "torch-geometric")


def environment_tags(hardware: str = "") -> dict[str, str]:
    """Return tags that say what produced a run.

    Args:
        hardware: Of the workers, where it is not that of this machine.

    """
    versions = {f"{PACKAGE_VERSION}{name}": found for name in _PACKAGES if (found := _version(name))}
    commit = git_commit()
    return {
        f"{PACKAGE_VERSION}crysatom": __version__,
        f"{PACKAGE_VERSION}python": platform.python_version(),
        **versions,
        **({GIT_COMMIT: commit} if commit else {}),
        HARDWARE: hardware or this_hardware(),
    }


def git_commit() -> str:
    """Return the commit of the code, with ``-dirty`` if files differ from it; empty if it is not known."""
    if given := os.environ.get(GIT_COMMIT_VARIABLE):
        return given
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = subprocess.run(  # noqa: S603 - constant command
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def this_hardware() -> str:
    """Return one line on processor, memory and accelerators of this machine."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} x {platform.processor() or platform.machine()}, {memory:.0f} GiB memory, {_accelerators()}"
    )


def system_metrics() -> dict[str, float]:
    """Return how busy this machine is, under the names that MLflow's page of system metrics shows.

    Utilization is since the call before; memory is of the whole machine and of this process, in megabytes.
    """
    memory = psutil.virtual_memory()
    metrics = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    if (monitor := _gpu_monitor()) is not None:
        monitor.clear_metrics()
        monitor.collect_metrics()
        metrics.update(monitor.aggregate_metrics())
    return {SYSTEM + name: float(value) for name, value in metrics.items()}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _accelerators() -> str:
    import torch

    count = torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name(0)}" if count else "no GPU"


@cache
def _gpu_monitor() -> Any:
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    try:
        return GPUMonitor()  # type: ignore[no-untyped-call]
    except (ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        return None
