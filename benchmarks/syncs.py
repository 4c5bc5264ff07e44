"""Count the operations of a program that make the host wait for a GPU, on any device.

On CUDA, ``torch.cuda.set_sync_debug_mode`` counts the waits themselves. Without a GPU, this module counts the calls
that would wait: reads of a value (``item``, ``tolist``), operations whose output size depends on values (``nonzero``,
``unique``, boolean masks), and blocking copies of Python numbers to the device. A call that hides in a library, such as
a copy of an array from the host, is not seen: the count is an estimate from below.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PLATFORM = str(Path(__file__).resolve().parents[1] / "platform" / "crysatom")
OPTIMIZER = str(Path(torch.optim.__file__).parent)
"""Reads inside the optimizer are of step counters, which are on the host."""

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default: 1,  # noqa: SLF001 - the name of the operation behind item()
    aten.nonzero.default: 1,
    aten._unique2.default: 1,  # noqa: SLF001
    aten.unique_dim.default: 1,
    aten.unique_consecutive.default: 1,
    aten.masked_select.default: 1,
    aten.equal.default: 1,
    aten.bincount.default: 2,  # reads the smallest and the largest value
}
"""Waits of each operation on CUDA."""

CPU_ONLY = "nn/kernels/numba_cpu.py"
ON_HOST = {("graphs/batch.py", "select"), ("graphs/counting.py", "count")}
"""Functions that read values which the host has, or that count otherwise on a GPU."""

READS = {Tensor.tolist, Tensor.cpu, Tensor.numpy}
WRITES = {torch.tensor, torch.as_tensor, Tensor.new_tensor}


class Waits(Counter[str]):
    """Number of waits by place, ``file:line operation``; places are lines of this package."""

    def per(self, steps: int) -> dict[str, float]:
        """Return the waits per step, most frequent first."""
        return {place: round(count / steps, 2) for place, count in self.most_common()}


@contextmanager
def estimated() -> Iterator[Waits]:
    """Count the calls in the block that would wait for a GPU."""
    found = Waits()
    with ExitStack() as stack:
        stack.enter_context(_Calls(found))
        stack.enter_context(_Operations(found))
        yield found


@contextmanager
def measured() -> Iterator[Waits]:
    """Count the waits in the block on CUDA, as torch's debug mode reports them."""
    found = Waits()
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        if "synchroniz" in str(warning.message):
            found[f"{_short(warning.filename)}:{warning.lineno}"] += 1


class _Operations(TorchDispatchMode):
    def __init__(self, found: Waits) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        count = WAITS.get(func, 0)
        if func is aten.repeat_interleave.Tensor:
            count = (kwargs or {}).get("output_size") is None
        elif func in {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}:
            fills = func is not aten.index.Tensor and args[2].numel() == 1  # becomes masked_fill
            count = 0 if fills else sum(i is not None and i.dtype in {torch.bool, torch.uint8} for i in args[1])
        if count:
            _note(self.found, func.__name__.partition(".")[0], int(count))
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, found: Waits) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS or (func in WRITES and not isinstance(args[-1], Tensor)):
            _note(self.found, func.__name__, 1)
        return func(*args, **kwargs)


def _note(found: Waits, operation: str, count: int) -> None:
    """Count an operation at the innermost line of this package, unless the optimizer calls it."""
    place = ""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - the only way to walk the stack without reading its files
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(OPTIMIZER):
            return
        if not place and file.startswith(PLATFORM):
            if _short(file) == CPU_ONLY or (_short(file), frame.f_code.co_name) in ON_HOST:
                return
            place = f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back
    found[f"{place or 'elsewhere'} {operation}"] += count


def _short(file: str) -> str:
    return file.removeprefix(PLATFORM).lstrip("/")
