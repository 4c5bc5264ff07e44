"""Classify failures of workers: a lost machine, so that a retry may succeed, or an error of the training."""

from __future__ import annotations

import builtins
from collections.abc import Mapping

import torch.distributed as dist
from ray.exceptions import UserCodeException


class LostWorkersError(RuntimeError):
    """Workers were lost more often than the configuration allows."""


def may_be_lost_worker(error: Exception) -> bool:
    """Return whether an error can come from a lost worker, or a lost connection to one.

    Errors of Ray and of ``torch.distributed`` can. So can a plain ``RuntimeError``: gloo raises it in the remaining
    workers, and CUDA when a device fails. All other classes, including subclasses of ``RuntimeError``, concern the data
    or the code, and would be raised again.
    """
    from_ray = type(error).__module__.split(".")[0] == "ray"
    of_device = type(error).__name__ == "AcceleratorError"  # torch >= 2.8: a GPU fault
    return from_ray or of_device or type(error) is RuntimeError or isinstance(error, dist.DistError | ConnectionError)


def summary(failure: Exception | Mapping[int, Exception]) -> str:
    """Return one line on the failure of one or several workers."""
    errors = getattr(failure, "worker_failures", failure)
    if not isinstance(errors, Mapping):
        errors = {0: errors}
    # Ray knows the cause best; the other workers only saw a broken connection
    first = max(errors.values(), key=lambda error: type(error).__module__.startswith("ray."))
    lines = [line.strip() for line in str(getattr(first, "health_check_failure", first)).splitlines() if line.strip()]
    return lines[0] if lines else type(first).__name__


def cause(error: BaseException) -> BaseException:
    """Return the original exception of a task, an actor or a training worker, unwrapped from Ray's exceptions."""
    found: BaseException | None = error
    while found is not None and type(found).__module__.partition(".")[0] == "ray":
        error, found = found, _inner(found)
    return found or error


def _inner(error: BaseException) -> BaseException | None:
    """Return the exception that an exception of Ray wraps."""
    of_user = getattr(error, "cause", None)
    if isinstance(of_user, UserCodeException) and of_user.__cause__ is None:
        return _in_text(str(error))  # Ray Data keeps the original only as text
    workers = getattr(error, "worker_failures", {}).values()
    candidates = (of_user, getattr(error, "controller_failure", None), *workers, error.__cause__)
    return next((other for other in candidates if isinstance(other, BaseException) and other is not error), None)


def _in_text(text: str) -> BaseException:
    """Return the first error of chained tracebacks, given as text."""
    first = text.partition("\n\nThe above exception was")[0].rstrip()
    name, _, message = first.rpartition("\n")[2].partition(": ")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return kind(message)
    return RuntimeError(f"{name}: {message}")
