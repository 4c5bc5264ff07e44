r"""Kernels of the gated sum for CPUs, compiled by numba; :mod:`crysatom.nn.kernels.twin` defines what they compute.

Each edge is read once and nothing is stored per edge: an edge's channels stay in registers from the three terms to the
sums. Channels are independent, so threads share them; sums have the same order for any number of threads.

LLVM vectorizes the loops over channels if they have no branch and no call. So exponentials and logarithms are
polynomials: those of least relative error in float32 at Chebyshev's points, below 8e-8 (a float32 has 6e-8).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from crysatom.nn.edges import Edges
from crysatom.nn.kernels.terms import Terms

Array = NDArray[np.float32]
Scalar = Any  # a number inside compiled functions, which mypy cannot type

CHANNELS = 32
"""Fewest channels that a thread gets, and a multiple of what a vector register holds."""

F = np.float32
ZERO, HALF, ONE = F(0), F(0.5), F(1)
LN2, LOG2_E = F(np.log(2)), F(1 / np.log(2))
LARGEST = F(126)
"""Exponent at which powers of two are cut off: a normal number, whose sum with 1 has no effect on the message."""


def _compiled(function: Callable[..., Any], inline: str = "never") -> Any:
    """Compile a function when it is first called, once per machine if its result can be kept on disk."""
    options: dict[str, Any] = {
        "fastmath": {"contract", "nsz"},  # fused multiply-add; NaN and infinity still propagate
        "error_model": "numpy",  # a check for division by zero would prevent vectorization
        "nogil": True,
        "inline": inline,
    }
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder is writable
        return njit(**options)(function)


def _inlined(function: Callable[..., Any]) -> Any:
    return _compiled(function, "always")


def _polynomial(function: Callable[[Any], Any], degree: int, low: float, high: float) -> list[np.float32]:
    """Return the coefficients, by ascending power, of a polynomial of least relative error on an interval."""
    nodes = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    values = function(nodes)
    fitted = np.polynomial.Chebyshev.fit(nodes, values, degree, domain=[low, high], w=1 / np.abs(values))
    return [F(c) for c in fitted.convert(kind=np.polynomial.Polynomial).coef]


E0, E1, E2, E3, E4, E5 = _polynomial(np.exp2, 5, -0.5, 0.5)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = _polynomial(lambda x: np.log1p(x) / x, 8, 0.0, 1.0)


def _bitcast(typing: Any, bits: Any) -> Any:  # noqa: ARG001 - signature fixed by numba
    """Return the float32 with the bits of an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001 - fixed by numba
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


_float_of_bits: Any = intrinsic(_bitcast)


@_inlined
def _exp2(x: Scalar) -> Scalar:
    """2^x for -126 <= x <= 126; NaN for NaN."""
    whole = np.floor(x + HALF)
    f = x - whole
    scale = _float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))
    return (E0 + f * (E1 + f * (E2 + f * (E3 + f * (E4 + f * E5))))) * scale


@_inlined
def _inverse_gate(x: Scalar) -> Scalar:
    """2^x, cut off where its sum with 1 would overflow or equals 1."""
    x = LARGEST if x > LARGEST else x  # noqa: FURB136 - numba's min and max drop NaN
    return _exp2(-LARGEST if x < -LARGEST else x)  # noqa: FURB136


@_inlined
def _small_power(x: Scalar) -> Scalar:
    """2^-|x|, at most 1."""
    x = -abs(x)
    return _exp2(-LARGEST if x < -LARGEST else x)  # noqa: FURB136


@_inlined
def _softplus(x: Scalar, t: Scalar) -> Scalar:
    """ln(1 + 2^x), given t = 2^-|x|."""
    log1p = t * (L0 + t * (L1 + t * (L2 + t * (L3 + t * (L4 + t * (L5 + t * (L6 + t * (L7 + t * L8))))))))
    return (ZERO if x < ZERO else x) * LN2 + log1p  # noqa: FURB136


# Unsigned indices: for signed ones numba adds the length to negative ones, which prevents vectorization.


@_compiled
def _add_center(out: Array, S: Array, gain: Array, offset: Array, v: Scalar, i: Scalar, start: Scalar) -> None:  # noqa: PLR0913, PLR0917
    """Write the part of y / ln 2 that all edges of a center share."""
    for channel in range(len(out)):
        c = start + np.uintp(channel)
        out[channel] = S[i, c] * gain[v, c] + offset[v, c]


@_compiled
def _sum_messages(  # noqa: PLR0913, PLR0917 - numba takes arrays one by one
    out: Array,
    S: Array,
    T: Array,
    E: Array,
    gain: Array,
    offset: Array,
    edge_ptr: NDArray[np.int64],
    neighbor: NDArray[np.int64],
    row: NDArray[np.int64],
    copies: Array,
    apart: bool,
    first: int,
    last: int,
) -> None:
    D, views, start = np.uintp(S.shape[1] // 2), len(gain), np.uintp(first)
    width, atoms = last - first, max((len(edge_ptr) - 1) // views, 1)
    gate, core = np.empty(width, F), np.empty(width, F)
    for atom in range(len(edge_ptr) - 1):
        v, i = np.uintp(atom // atoms), np.uintp(atom)
        _add_center(gate, S, gain, offset, v, i, start)
        _add_center(core, S, gain, offset, v, i, D + start)
        for k in range(edge_ptr[atom], edge_ptr[atom + 1]):
            j, r = np.uintp(neighbor[k]), np.uintp(row[k])
            place = np.uintp(k) if apart else i
            weight = copies[k] if len(copies) else ONE
            for channel in range(width):
                c = start + np.uintp(channel)
                p = _inverse_gate(gate[channel] + gain[v, c] * (T[j, c] + E[r, c]))
                x = core[channel] + gain[v, D + c] * (T[j, D + c] + E[r, D + c])
                out[place, c] += weight * _softplus(x, _small_power(x)) / (ONE + p)


@_compiled
def _sum_grads(  # noqa: PLR0913, PLR0917 - numba takes arrays one by one
    grad_out: Array,
    at_center: Array,
    at_neighbor: Array,
    at_row: Array,
    S: Array,
    T: Array,
    E: Array,
    gain: Array,
    offset: Array,
    edge_ptr: NDArray[np.int64],
    neighbor: NDArray[np.int64],
    row: NDArray[np.int64],
    copies: Array,
    apart: bool,
    first: int,
    last: int,
) -> None:
    D, views, start = np.uintp(S.shape[1] // 2), len(gain), np.uintp(first)
    width, atoms = last - first, max((len(edge_ptr) - 1) // views, 1)
    gate, core = np.empty(width, F), np.empty(width, F)
    for atom in range(len(edge_ptr) - 1):
        v, i = np.uintp(atom // atoms), np.uintp(atom)
        _add_center(gate, S, gain, offset, v, i, start)
        _add_center(core, S, gain, offset, v, i, D + start)
        for k in range(edge_ptr[atom], edge_ptr[atom + 1]):
            j, r = np.uintp(neighbor[k]), np.uintp(row[k])
            place = np.uintp(k) if apart else i
            weight = copies[k] if len(copies) else ONE
            for channel in range(width):
                c = start + np.uintp(channel)
                p = _inverse_gate(gate[channel] + gain[v, c] * (T[j, c] + E[r, c]))
                x = core[channel] + gain[v, D + c] * (T[j, D + c] + E[r, D + c])
                t = _small_power(x)
                gated = grad_out[place, c] * weight / (ONE + p)
                dy_gate = gated * _softplus(x, t) * (p / (ONE + p))
                dy_core = gated * (t if x < ZERO else ONE) / (ONE + t)
                at_center[i, c] += dy_gate
                at_center[i, D + c] += dy_core
                at_neighbor[j, c] += dy_gate
                at_neighbor[j, D + c] += dy_core
                at_row[v, r, c] += dy_gate
                at_row[v, r, D + c] += dy_core


def message_sums(terms: Terms, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.message_sums`."""
    rows = len(edges.row) if edges.apart else edges.num_atoms
    out = terms.gain.new_zeros(rows, terms.gain.shape[1] // 2)
    _share(_sum_messages, [out], terms, edges)
    return out


def message_grads(terms: Terms, grad_out: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`crysatom.nn.kernels.twin.message_grads`."""
    center, neighbor = torch.zeros_like(terms.center), torch.zeros_like(terms.neighbor)
    at_row = terms.edge.new_zeros(edges.num_views, *terms.edge.shape)
    _share(_sum_grads, [grad_out, center, neighbor, at_row], terms, edges)
    return center, neighbor, at_row


def _share(kernel: Callable[..., None], tensors: list[Tensor], terms: Terms, edges: Edges) -> None:
    """Run a kernel on as many threads as torch uses, each on its channels."""
    width = terms.gain.shape[1] // 2
    unit = terms.gain.new_tensor([-LOG2_E, LOG2_E]).repeat_interleave(width)  # exponents of exp(-y_f) and exp(y_c)
    tables = terms.center, terms.neighbor, terms.edge, terms.gain * unit, terms.offset * unit
    copies = terms.gain.new_empty(0) if edges.copies is None else edges.copies
    arrays = [
        x.detach().contiguous().numpy() for x in (*tensors, *tables, edges.edge_ptr, edges.neighbor, edges.row, copies)
    ]
    blocks = max(1, min(torch.get_num_threads(), width // CHANNELS))
    size = -(-width // (blocks * CHANNELS)) * CHANNELS
    parts = [(first, min(first + size, width)) for first in range(0, width, size)]
    if len(parts) == 1:
        kernel(*arrays, edges.apart, *parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as threads:
        for done in [threads.submit(kernel, *arrays, edges.apart, *part) for part in parts]:
            done.result()
