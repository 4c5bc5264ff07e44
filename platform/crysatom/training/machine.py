"""The machine of a worker: its hardware, its usage during an epoch, and the arithmetic of its CPU."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence

import psutil
import torch

from crysatom.names import SYSTEM

UTILIZATION = "utilization_percentage"


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Replace denormal results by zero in this thread and in threads that it starts.

    On Intel CPUs a product with a denormal number takes 50 times as long. The mode belongs to a thread: new ones
    inherit it (Python's, and OpenMP's at the first parallel operation), existing ones are not changed. So enter this
    before any computation. A backward pass on the CPU runs in the calling thread.
    """
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes_denormals() -> bool:
    """Return whether this thread replaces denormal results by zero."""
    smallest_normal = torch.full((), torch.finfo(torch.float32).tiny)
    return not smallest_normal.div(2).item()


def hardware() -> str:
    """Return one line on the CPUs, memory and accelerators that this process may use."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} x {platform.processor() or platform.machine()}, {memory:.0f} GiB memory, {_accelerators()}"
    )


def usage(device: torch.device) -> dict[str, float]:
    """Return the machine's usage under MLflow's names of system metrics.

    CPU utilization covers the time since the previous call; the first call only starts the counter. Memory is that of
    the whole machine, of this process and of its GPU, in megabytes.
    """
    memory = psutil.virtual_memory()
    metrics = {
        f"cpu_{UTILIZATION}": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    if device.type == "cuda":
        metrics |= _gpu_usage(device)
    return {SYSTEM + name: float(value) for name, value in metrics.items()}


def combined(usages: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the usage of several workers as one: mean utilization, largest memory use.

    The names do not depend on the number of workers, so runs can be compared.
    """
    result = {}
    for name in dict.fromkeys(name for usage in usages for name in usage):
        values = [usage[name] for usage in usages if name in usage]
        result[name] = sum(values) / len(values) if name.endswith(UTILIZATION) else max(values)
    return result


def joined(lines: Sequence[str]) -> str:
    """Return the hardware of several workers as one line that names each kind once."""
    return "; ".join(sorted(set(lines)))


def _accelerators() -> str:
    count = torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name()}" if count else "no GPU"


def _gpu_usage(device: torch.device) -> dict[str, float]:
    free, total = torch.cuda.mem_get_info(device)
    metrics = {
        "gpu_memory_usage_megabytes": (total - free) / 1e6,
        "gpu_memory_usage_percentage": 100 * (total - free) / total,
    }
    with contextlib.suppress(Exception):  # no figure without nvidia-ml-py or the driver's support
        metrics[f"gpu_{UTILIZATION}"] = torch.cuda.utilization(device)
    return metrics
