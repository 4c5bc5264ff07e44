"""What went wrong in a worker: the machine, so that another attempt may succeed, or the training itself."""

from __future__ import annotations

import builtins
from collections.abc import Mapping

import torch.distributed as dist
from ray.exceptions import UserCodeException


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
    found: BaseException | None = error
    while found is not None and type(found).__module__.partition(".")[0] == "ray":
        error, found = found, _inner(found)
    return found or error


def _inner(error: BaseException) -> BaseException | None:
    """Return what an error of Ray was made of."""
    of_user = getattr(error, "cause", None)
    if isinstance(of_user, UserCodeException) and of_user.__cause__ is None:
        return _in_text(str(error))  # Ray Data's, which has lost what it was made of
    workers = getattr(error, "worker_failures", {}).values()
    candidates = (of_user, getattr(error, "controller_failure", None), *workers, error.__cause__)
    return next((other for other in candidates if isinstance(other, BaseException) and other is not error), None)


def _in_text(text: str) -> BaseException:
    """Return the first error of a chain of tracebacks, of which only the text is left."""
    first = text.partition("\n\nThe above exception was")[0].rstrip()
    name, _, message = first.rpartition("\n")[2].partition(": ")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return kind(message)
    return RuntimeError(f"{name}: {message}")
