"""Kernels of the gated sum for CPUs, compiled by numba; :mod:`crysatom.nn.kernels.twin` defines what they compute.

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
from crysatom.nn.kernels.terms import Grads, Moments, Norm, Terms

Array = NDArray[np.float32]
Index = NDArray[np.int64]
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
def _subtract(out: Array, table: Array, i: Scalar, reference: Array, v: Scalar, start: Scalar) -> None:
    """Write table[i] - reference[v], from channel ``start`` on."""
    for channel in range(len(out)):
        c = start + np.uintp(channel)
        out[channel] = table[i, c] - reference[v, c]


@_compiled
def _moments(  # noqa: PLR0913, PLR0917 - numba takes arrays one by one
    at_center: Array,
    at_neighbor: Array,
    total: NDArray[np.float64],
    squares: NDArray[np.float64],
    S: Array,
    T: Array,
    E: Array,
    shift: Array,
    edge_ptr: Index,
    neighbor: Index,
    row: Index,
    count: Array,
    first: int,
    last: int,
) -> None:
    views, start, width = len(shift), np.uintp(first), last - first
    atoms = max((len(edge_ptr) - 1) // views, 1)
    rest, sums, square_sums = np.empty(width, F), np.empty(width, F), np.empty(width, F)
    for atom in range(len(edge_ptr) - 1):
        v, i = np.uintp(atom // atoms), np.uintp(atom)
        _subtract(rest, S, i, shift, v, start)
        sums[:] = ZERO
        square_sums[:] = ZERO
        for k in range(edge_ptr[atom], edge_ptr[atom + 1]):
            j, r = np.uintp(neighbor[k]), np.uintp(row[k])
            weight = count[k] if len(count) else ONE
            for channel in range(width):
                c = start + np.uintp(channel)
                d = rest[channel] + (T[j, c] + E[r, c])
                sums[channel] += weight * d
                square_sums[channel] += weight * d * d
                at_neighbor[j, c] += weight * d
        for channel in range(width):
            c = start + np.uintp(channel)
            at_center[i, c] = sums[channel]
            total[v, c] += sums[channel]
            squares[v, c] += square_sums[channel]


@_compiled
def _message_sums(  # noqa: PLR0913, PLR0917 - numba takes arrays one by one
    out: Array,
    S: Array,
    T: Array,
    E: Array,
    mean: Array,
    gain: Array,
    offset: Array,
    edge_ptr: Index,
    neighbor: Index,
    row: Index,
    copies: Array,
    apart: bool,
    first: int,
    last: int,
) -> None:
    D, views, start, width = np.uintp(S.shape[1] // 2), len(gain), np.uintp(first), last - first
    atoms = max((len(edge_ptr) - 1) // views, 1)
    gate, core = np.empty(width, F), np.empty(width, F)
    for atom in range(len(edge_ptr) - 1):
        v, i = np.uintp(atom // atoms), np.uintp(atom)
        _subtract(gate, S, i, mean, v, start)
        _subtract(core, S, i, mean, v, D + start)
        for k in range(edge_ptr[atom], edge_ptr[atom + 1]):
            j, r = np.uintp(neighbor[k]), np.uintp(row[k])
            place = np.uintp(k) if apart else i
            weight = copies[k] if len(copies) else ONE
            for channel in range(width):
                c = start + np.uintp(channel)
                p = _inverse_gate(offset[c] + gain[v, c] * (gate[channel] + (T[j, c] + E[r, c])))
                x = offset[D + c] + gain[v, D + c] * (core[channel] + (T[j, D + c] + E[r, D + c]))
                out[place, c] += weight * _softplus(x, _small_power(x)) / (ONE + p)


@_compiled
def _message_grads(  # noqa: PLR0913, PLR0917 - numba takes arrays one by one
    at_center: Array,
    at_neighbor: Array,
    at_row: Array,
    total: NDArray[np.float64],
    product: NDArray[np.float64],
    grad_out: Array,
    S: Array,
    T: Array,
    E: Array,
    mean: Array,
    gain: Array,
    offset: Array,
    edge_ptr: Index,
    neighbor: Index,
    row: Index,
    copies: Array,
    apart: bool,
    first: int,
    last: int,
) -> None:
    D, views, start, width = np.uintp(S.shape[1] // 2), len(gain), np.uintp(first), last - first
    atoms = max((len(edge_ptr) - 1) // views, 1)
    gate, core = np.empty(width, F), np.empty(width, F)
    gate_sums, core_sums = np.empty(width, F), np.empty(width, F)
    gate_products, core_products = np.empty(width, F), np.empty(width, F)
    for atom in range(len(edge_ptr) - 1):
        v, i = np.uintp(atom // atoms), np.uintp(atom)
        _subtract(gate, S, i, mean, v, start)
        _subtract(core, S, i, mean, v, D + start)
        gate_sums[:] = ZERO
        core_sums[:] = ZERO
        gate_products[:] = ZERO
        core_products[:] = ZERO
        for k in range(edge_ptr[atom], edge_ptr[atom + 1]):
            j, r = np.uintp(neighbor[k]), np.uintp(row[k])
            place = np.uintp(k) if apart else i
            weight = copies[k] if len(copies) else ONE
            for channel in range(width):
                c = start + np.uintp(channel)
                d_gate = gate[channel] + (T[j, c] + E[r, c])
                d_core = core[channel] + (T[j, D + c] + E[r, D + c])
                p = _inverse_gate(offset[c] + gain[v, c] * d_gate)
                x = offset[D + c] + gain[v, D + c] * d_core
                t = _small_power(x)
                gated = grad_out[place, c] * weight / (ONE + p)
                dy_gate = gated * _softplus(x, t) * (p / (ONE + p))
                dy_core = gated * (t if x < ZERO else ONE) / (ONE + t)
                gate_sums[channel] += dy_gate
                core_sums[channel] += dy_core
                gate_products[channel] += dy_gate * d_gate
                core_products[channel] += dy_core * d_core
                du_gate = dy_gate * (gain[v, c] * -LN2)
                du_core = dy_core * (gain[v, D + c] * LN2)
                at_neighbor[j, c] += du_gate
                at_neighbor[j, D + c] += du_core
                at_row[r, c] += du_gate
                at_row[r, D + c] += du_core
        for channel in range(width):
            c = start + np.uintp(channel)
            at_center[i, c] = gate_sums[channel] * (gain[v, c] * -LN2)
            at_center[i, D + c] = core_sums[channel] * (gain[v, D + c] * LN2)
            total[v, c] += gate_sums[channel]
            total[v, D + c] += core_sums[channel]
            product[v, c] += gate_products[channel]
            product[v, D + c] += core_products[channel]


def moments(terms: Terms, shift: Tensor, edges: Edges) -> Moments:
    """See :func:`crysatom.nn.kernels.twin.moments`."""
    total = torch.zeros_like(shift, dtype=torch.float64)
    found = Moments(torch.empty_like(terms.center), torch.zeros_like(terms.neighbor), total, torch.zeros_like(total))
    _share(_moments, shift.shape[1], [*found, *terms, shift], edges, edges.count)
    return found


def message_sums(terms: Terms, norm: Norm, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.message_sums`."""
    width = norm.gain.shape[1] // 2
    out = norm.gain.new_zeros(len(edges.row) if edges.apart else edges.num_atoms, width)
    _share(_message_sums, width, [out, *terms, *_in_exponents(norm)], edges, edges.copies, edges.apart)
    return out


def message_grads(terms: Terms, norm: Norm, grad_out: Tensor, edges: Edges) -> Grads:
    """See :func:`crysatom.nn.kernels.twin.message_grads`."""
    total = torch.zeros_like(norm.gain, dtype=torch.float64)
    center, neighbor, edge = (
        torch.empty_like(terms.center),
        torch.zeros_like(terms.neighbor),
        torch.zeros_like(terms.edge),
    )
    found = Grads(center, neighbor, edge, total, torch.zeros_like(total))
    tensors = [*found, grad_out.contiguous(), *terms, *_in_exponents(norm)]
    _share(_message_grads, norm.gain.shape[1] // 2, tensors, edges, edges.copies, edges.apart)
    return found


def _in_exponents(norm: Norm) -> Norm:
    """Return the normalization that gives -y_f and y_c in units of ln 2: exponents of powers of two."""
    unit = norm.offset.new_tensor([-LOG2_E, LOG2_E]).repeat_interleave(len(norm.offset) // 2)
    return Norm(norm.mean, norm.gain * unit, norm.offset * unit)


def _share(
    kernel: Callable[..., None], width: int, tensors: list[Tensor], edges: Edges, weights: Tensor | None, *flags: bool
) -> None:
    """Run a kernel on as many threads as torch uses, each on its part of ``width`` channels."""
    weights = tensors[0].new_empty(0) if weights is None else weights
    arrays = [x.detach().numpy() for x in (*tensors, edges.edge_ptr, edges.neighbor, edges.row, weights)]
    size = max(CHANNELS, -(-width // (torch.get_num_threads() * CHANNELS)) * CHANNELS)
    parts = [(first, min(first + size, width)) for first in range(0, width, size)]
    if len(parts) == 1:
        kernel(*arrays, *flags, *parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as threads:
        for done in [threads.submit(kernel, *arrays, *flags, *part) for part in parts]:
            done.result()
