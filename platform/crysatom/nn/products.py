"""Matrix products of layers in float32 or in bfloat16.

In bfloat16, a product accumulates in float32; its result is rounded once and returned as float32. All else stays
float32: weights, sums, counts, statistics, losses and optimizer. Under ``torch.autocast`` activations would stay
bfloat16, and sums and counts of their type would lose digits silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crysatom.names import BF16, Precision


class _State:
    """Whether operands are rounded; one per process."""

    rounds = False


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Evaluate the products of layers in the block with this precision."""
    before, _State.rounds = _State.rounds, precision == BF16
    try:
        yield
    finally:
        _State.rounds = before


@cache
def multiplies_bf16(device_type: str) -> bool:
    """Return whether a device multiplies bfloat16 numbers faster than float32; false for CPUs that torch cannot tell.

    On CPUs these are the instructions AMX-BF16 or AVX512-BF16.
    """
    if device_type != "cpu":
        return True
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch lack it
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def slow_precision(precision: Precision, device_type: str) -> str:
    """Return a warning if a device gains nothing from the precision, else an empty text."""
    if precision != BF16 or multiplies_bf16(device_type):
        return ""
    return (
        "warning: --precision bf16 saves no time here: this CPU has neither AMX-BF16 nor AVX512-BF16, so rounded "
        "numbers are multiplied in float32"
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` in the precision of the current block, ``(..., n)``.

    Args:
        x: ``(..., k)``.
        weight: ``(n, k)``.
        bias: ``(n,)``; never rounded.

    """
    if not _State.rounds or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    product: Tensor = _RoundedProduct.apply(x, weight)  # type: ignore[no-untyped-call]
    return product if bias is None else product + bias


class Linear(nn.Linear):
    """``torch.nn.Linear`` in the precision of the current block.

    Use it for hidden layers. Output layers, which are small and whose rounding nothing averages out, are
    ``torch.nn.Linear``.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the product with the weights plus the bias."""
        return linear(input, self.weight, self.bias)


class _RoundedProduct(torch.autograd.Function):
    """``x @ weight.T``, and the products of its backward pass, with operands in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x, weight)
        return _product(x, weight.T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].bfloat16()
        grad_x = _product(grad, weight) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_x, None
        return grad_x, _product(grad.flatten(0, -2).T, x.flatten(0, -2))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of bfloat16 matrices, accumulated in float32 and rounded to bfloat16, as float32."""
    if multiplies_bf16(a.device.type):
        return (a @ b).float()
    return (a.float() @ b.float()).bfloat16().float()  # the same; torch's own loop is many times slower
