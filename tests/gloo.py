"""Run a function on several gloo workers, as in data-parallel training, within milliseconds.

Starting a process and importing torch takes seconds, so workers are forked from a server that has imported it, kept and
reused. Every call has its own process group, so that no call sees another's state.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from tests.processes import fresh_processes

CLOSED_CONNECTION_GRACE = 1.0
"""Seconds for the other workers to report after one has failed."""


class WorkerError(RuntimeError):
    """Raised if a worker raised, died or did not answer in time; the message has its traceback."""


class _Tensor(NamedTuple):
    """Tensor in a pipe, for which torch would use shared memory."""

    array: np.ndarray


def _map(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(item, kind, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_map(item, kind, change) for item in value)
    return value


def _to_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


class _Call(NamedTuple):
    """Call that is sent to a worker."""

    module: str
    function: str
    args: tuple[Any, ...]
    rank: int
    world_size: int
    store: str
    timeout: float


class _Worker:
    """Process that waits for calls."""

    def __init__(self) -> None:
        context = fresh_processes()
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


_workers: list[_Worker] = []


def run_workers(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """Call ``function(*args)`` on each worker of a gloo group and return the results in order of rank.

    Args:
        function: Importable by name (at the top of its module). It gets its rank from ``torch.distributed``.
        world_size: Number of workers.
        *args: Arguments, equal for every worker; tensors arrive as copies.
        timeout: Seconds until all must have answered, in addition to the start of new workers.

    Returns:
        One result per rank; tensors in dicts, lists and tuples come back as numpy arrays.

    Raises:
        WorkerError: If a worker raised (with its traceback), died, or did not answer in time.

    """
    while len(_workers) < world_size:
        _workers.append(_Worker())
    workers = _workers[:world_size]
    with tempfile.TemporaryDirectory(prefix="gloo-") as folder:
        store = (Path(folder) / "store").as_uri()
        packed = _map(args, torch.Tensor, lambda tensor: _Tensor(_to_array(tensor)))
        for rank, worker in enumerate(workers):
            worker.connection.send(
                _Call(function.__module__, function.__qualname__, packed, rank, world_size, store, timeout)
            )
        try:
            answers = _collect(workers, function, timeout)
        except WorkerError:
            close()
            raise
    return [answers[rank] for rank in range(world_size)]


def close() -> None:
    """End all workers; the next call starts new ones."""
    while _workers:
        _workers.pop().stop()


def _collect(workers: list[_Worker], function: Callable[..., Any], timeout: float) -> dict[int, Any]:
    """Wait for all answers; after the first failure, only shortly for further errors."""
    answers: dict[int, Any] = {}
    failures: dict[int, str] = {}
    pending = {worker.connection: rank for rank, worker in enumerate(workers)}
    deadline = None
    while pending:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = wait(list(pending), left)
        if not ready:
            break
        for connection in ready:
            assert isinstance(connection, Connection)
            kind, content = _receive(connection)
            if kind == "ready":
                # The timeout starts when the last worker has imported torch and the function.
                deadline = time.monotonic() + timeout
                continue
            (answers if kind == "returned" else failures)[pending.pop(connection)] = content
        if failures:
            deadline = time.monotonic() + CLOSED_CONNECTION_GRACE
    if failures or pending:
        raise WorkerError(_explain(function, failures, sorted(pending.values()), timeout))
    return answers


def _receive(connection: Connection) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except (EOFError, OSError):
        return "raised", "its process died (see its output above)\n"
    return kind, content


def _explain(function: Callable[..., Any], failures: dict[int, str], silent: list[int], timeout: float) -> str:
    lines = [f"{function.__qualname__} failed on {len(failures)} worker(s)"]
    lines += [f"--- rank {rank}\n{text}" for rank, text in failures.items()]
    if silent:
        lines.append(f"--- no answer from rank(s) {silent}" + ("" if failures else f" within {timeout:g} s"))
    return "\n".join(lines)


def _serve(connection: Connection) -> None:
    """Answer calls until the parent closes its end."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    while True:
        try:
            call = connection.recv()
        except EOFError:
            return
        try:
            answer = ("returned", _call(connection, call))
        except BaseException:  # noqa: BLE001 - the test must see any error
            answer = ("raised", traceback.format_exc())
        connection.send(answer)


def _call(connection: Connection, call: _Call) -> Any:
    function: Any = importlib.import_module(call.module)
    for part in call.function.split("."):
        function = getattr(function, part)
    args = _map(call.args, _Tensor, lambda tensor: torch.from_numpy(tensor.array))
    connection.send(("ready", None))
    torch.manual_seed(0)
    dist.init_process_group(
        "gloo",
        init_method=call.store,
        rank=call.rank,
        world_size=call.world_size,
        timeout=timedelta(seconds=call.timeout),
    )
    try:
        answer = _map(function(*args), torch.Tensor, _to_array)
        dist.barrier()  # a worker that leaves before the others have joined would make them fail
        return answer
    finally:
        dist.destroy_process_group()
