"""What went wrong in a worker: the machine, so that another attempt may succeed, or the training itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch.distributed as dist


class LostWorkersError(RuntimeError):
    """Workers were lost more often than the configuration allows."""


def may_be_lost_worker(error: Exception) -> bool:
    """Tell whether an error can come from a worker, or a connection to one, that was lost.

    Ray's own errors and those of ``torch.distributed`` do. So may a plain ``RuntimeError``: that is what gloo
    raises in the workers that are left, and CUDA when a device fails. Every other class, subclasses of
    ``RuntimeError`` among them, speaks of the data or the code, and would only be raised again.
    """
    from_ray = type(error).__module__.split(".")[0] == "ray"
    of_device = type(error).__name__ == "AcceleratorError"  # torch >= 2.8: a fault on a GPU
    return from_ray or of_device or type(error) is RuntimeError or isinstance(error, dist.DistError | ConnectionError)


def summary(failure: Exception | Mapping[int, Exception]) -> str:
    """Return one line on the failure of a worker or of several."""
    errors = getattr(failure, "worker_failures", failure)
    if not isinstance(errors, Mapping):
        errors = {0: errors}
    # Ray knows the cause best; the others only saw a connection break
    first = max(errors.values(), key=lambda error: type(error).__module__.startswith("ray."))
    lines = [line.strip() for line in str(getattr(first, "health_check_failure", first)).splitlines() if line.strip()]
    return lines[0] if lines else type(first).__name__


def cause(error: BaseException) -> BaseException:
    """Return what was raised in a task, an actor or a worker of a training, of what Ray made of it on its way here."""
    while type(error).__module__.partition(".")[0] == "ray":
        workers = list(getattr(error, "worker_failures", {}).values())
        inner = (getattr(error, "cause", None), getattr(error, "controller_failure", None), *workers, error.__cause__)
        found = next((other for other in inner if isinstance(other, BaseException) and other is not error), None)
        if found is None:
            break
        error = found
    return error
