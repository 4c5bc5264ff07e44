"""Kernels of the gated sum in Triton, for CUDA; :mod:`crysatom.nn.kernels.twin` defines what they compute.

Every sum is one over a run of edges with the same target: the center, the neighbor, or the view and row. The edges are
sorted by target once per batch, and a program sums a piece of a run for a block of channels. It computes u of its edges
again, so no array of ``(E, C)`` exists. No atomics are used, so results are reproducible.

A run of more than ``PIECE`` edges is cut, so that no single program works long while the others have ended: its first
piece is written to the row of the target, each further one to an additional row, and a second kernel adds these up.
The sizes of all arrays follow from shapes alone. Nothing waits for the GPU.

A program has one warp and holds ``BLOCK_EDGES`` edges at a time, a float4 per lane and table. Many such programs per
multiprocessor hide the latency of the gathers, so their loops are not pipelined. Tables may be bfloat16; sums are
float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from crysatom import distributed
from crysatom.nn.edges import Edges
from crysatom.nn.kernels.terms import Grads, Moments, Norm, Terms

PIECE = 128
"""Most edges that one program sums."""

BLOCK_EDGES = 4
MAX_BLOCK_CHANNELS = 64

LN2 = tl.constexpr(math.log(2))
LOG2_E = tl.constexpr(1 / math.log(2))


@triton.jit
def _load(table, row, column, mask, columns: tl.constexpr):
    """Load elements of a table; 64-bit offsets, because a table may have more than 2^31 elements."""
    return tl.load(table + row.to(tl.int64) * columns + column, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _load_norm(mean, gain, offset, view, column, mask, columns: tl.constexpr, unit):
    """Load the normalization of a view; gain and offset in the given unit."""
    scaled_gain = _load(gain, view, column, mask, columns) * unit
    scaled_offset = tl.load(offset + column, mask=mask, other=0.0).to(tl.float32) * unit
    return _load(mean, view, column, mask, columns), scaled_gain[None, :], scaled_offset[None, :]


@triton.jit
def _gate(x):
    """Return 1 / (1 + 2^x) and one minus it, without overflow or cancellation."""
    power = tl.exp2(-tl.abs(x))
    large = 1.0 / (1.0 + power)
    small = power * large
    return tl.where(x > 0, small, large), tl.where(x > 0, large, small)


@triton.jit
def _core(x):
    """Return ln(1 + 2^x) and its derivative in units of ln 2, without overflow or cancellation."""
    power = tl.exp2(-tl.abs(x))
    total = 1.0 + power
    inverse = 1.0 / total
    # The second term is what rounding `total` lost; without it small values of softplus would be zero.
    log1p = tl.log(total) + (power - (total - 1.0)) * inverse
    return tl.maximum(x, 0.0) * LN2 + log1p, tl.where(x > 0, inverse, power * inverse)


@triton.jit
def _moments_kernel(
    of_target,
    of_a,
    of_b,
    shift,
    pieces,
    a,
    b,
    count,
    out,
    squares,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum u - shift, and its square, over a piece of a target's edges; a and b are the rows of the other two tables."""
    piece = pieces + 5 * tl.program_id(0)
    target, view, slot = tl.load(piece), tl.load(piece + 1), tl.load(piece + 4)
    first, last = tl.load(piece + 2), tl.load(piece + 3)
    if slot < 0:
        return
    c = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = c < WIDTH
    known = (_load(of_target, target, c, inside, WIDTH) - _load(shift, view, c, inside, WIDTH))[None, :]
    total = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    total_squares = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        k = start + tl.arange(0, BLOCK_E)
        valid = k < last
        mask = valid[:, None] & inside[None, :]
        i = tl.load(a + k, mask=valid, other=0)[:, None]
        j = tl.load(b + k, mask=valid, other=0)[:, None]
        d = known + (_load(of_a, i, c[None, :], mask, WIDTH) + _load(of_b, j, c[None, :], mask, WIDTH))
        d = tl.where(mask, d, 0.0)
        weighted = d
        if count is not None:
            weighted = d * tl.load(count + k, mask=valid, other=0.0)[:, None]
        total += weighted
        if squares is not None:
            total_squares += weighted * d
    place = slot.to(tl.int64) * WIDTH + c
    tl.store(out + place, tl.sum(total, axis=0), mask=inside)
    if squares is not None:
        tl.store(squares + place, tl.sum(total_squares, axis=0), mask=inside)


@triton.jit
def _message_sums_kernel(
    of_center,
    of_neighbor,
    of_edge,
    mean,
    gain,
    offset,
    pieces,
    neighbor,
    row,
    copies,
    out,
    APART: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum the messages of a piece of a center's edges, or write each."""
    piece = pieces + 5 * tl.program_id(0)
    target, view, slot = tl.load(piece), tl.load(piece + 1), tl.load(piece + 4)
    first, last = tl.load(piece + 2), tl.load(piece + 3)
    if slot < 0:
        return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < WIDTH
    mean_gate, gain_gate, offset_gate = _load_norm(mean, gain, offset, view, d, inside, 2 * WIDTH, -LOG2_E)
    mean_core, gain_core, offset_core = _load_norm(mean, gain, offset, view, WIDTH + d, inside, 2 * WIDTH, LOG2_E)
    known_gate = (_load(of_center, target, d, inside, 2 * WIDTH) - mean_gate)[None, :]
    known_core = (_load(of_center, target, WIDTH + d, inside, 2 * WIDTH) - mean_core)[None, :]
    column = d[None, :]
    total = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        k = start + tl.arange(0, BLOCK_E)
        valid = k < last
        mask = valid[:, None] & inside[None, :]
        j = tl.load(neighbor + k, mask=valid, other=0)[:, None]
        r = tl.load(row + k, mask=valid, other=0)[:, None]
        u_gate = _load(of_neighbor, j, column, mask, 2 * WIDTH) + _load(of_edge, r, column, mask, 2 * WIDTH)
        u_core = _load(of_neighbor, j, WIDTH + column, mask, 2 * WIDTH)
        u_core += _load(of_edge, r, WIDTH + column, mask, 2 * WIDTH)
        gate, _ = _gate(offset_gate + gain_gate * (known_gate + u_gate))
        core, _ = _core(offset_core + gain_core * (known_core + u_core))
        message = gate * core
        if copies is not None:
            message *= tl.load(copies + k, mask=valid, other=0.0)[:, None]
        if APART:
            tl.store(out + k[:, None].to(tl.int64) * WIDTH + column, message, mask=mask)
        else:
            total += tl.where(mask, message, 0.0)
    if not APART:
        tl.store(out + slot.to(tl.int64) * WIDTH + d, tl.sum(total, axis=0), mask=inside)


@triton.jit
def _message_grads_kernel(
    of_target,
    of_a,
    of_b,
    mean,
    gain,
    offset,
    grad_out,
    pieces,
    a,
    b,
    source,
    copies,
    out,
    product,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum dy, and dy (u - mean), over a piece of a target's edges; a and b are the rows of the other two tables."""
    piece = pieces + 5 * tl.program_id(0)
    target, view, slot = tl.load(piece), tl.load(piece + 1), tl.load(piece + 4)
    first, last = tl.load(piece + 2), tl.load(piece + 3)
    if slot < 0:
        return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < WIDTH
    mean_gate, gain_gate, offset_gate = _load_norm(mean, gain, offset, view, d, inside, 2 * WIDTH, -LOG2_E)
    mean_core, gain_core, offset_core = _load_norm(mean, gain, offset, view, WIDTH + d, inside, 2 * WIDTH, LOG2_E)
    known_gate = (_load(of_target, target, d, inside, 2 * WIDTH) - mean_gate)[None, :]
    known_core = (_load(of_target, target, WIDTH + d, inside, 2 * WIDTH) - mean_core)[None, :]
    column = d[None, :]
    total_gate = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    total_core = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    product_gate = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    product_core = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        k = start + tl.arange(0, BLOCK_E)
        valid = k < last
        mask = valid[:, None] & inside[None, :]
        i = tl.load(a + k, mask=valid, other=0)[:, None]
        j = tl.load(b + k, mask=valid, other=0)[:, None]
        u_gate = _load(of_a, i, column, mask, 2 * WIDTH) + _load(of_b, j, column, mask, 2 * WIDTH)
        u_core = _load(of_a, i, WIDTH + column, mask, 2 * WIDTH) + _load(of_b, j, WIDTH + column, mask, 2 * WIDTH)
        u_gate, u_core = known_gate + u_gate, known_core + u_core
        grad = _load(grad_out, tl.load(source + k, mask=valid, other=0)[:, None], column, mask, WIDTH)
        if copies is not None:
            grad *= tl.load(copies + k, mask=valid, other=0.0)[:, None]
        gate, rest = _gate(offset_gate + gain_gate * u_gate)
        core, slope = _core(offset_core + gain_core * u_core)
        grad *= gate
        dy_gate = tl.where(mask, grad * rest * core, 0.0)
        dy_core = tl.where(mask, grad * slope, 0.0)
        total_gate += dy_gate
        total_core += dy_core
        if product is not None:
            product_gate += dy_gate * u_gate
            product_core += dy_core * u_core
    place = slot.to(tl.int64) * (2 * WIDTH) + d
    tl.store(out + place, tl.sum(total_gate, axis=0), mask=inside)
    tl.store(out + place + WIDTH, tl.sum(total_core, axis=0), mask=inside)
    if product is not None:
        tl.store(product + place, tl.sum(product_gate, axis=0), mask=inside)
        tl.store(product + place + WIDTH, tl.sum(product_core, axis=0), mask=inside)


@triton.jit
def _add_pieces_kernel(out, cuts, WIDTH: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr):
    """Add the additional rows of a cut run to the row of its target."""
    cut = cuts + 3 * tl.program_id(0)
    target, first, last = tl.load(cut), tl.load(cut + 1), tl.load(cut + 2)
    if target < 0:
        return
    c = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = c < WIDTH
    total = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        row = start + tl.arange(0, BLOCK_E)
        total += _load(out, row[:, None], c[None, :], (row < last)[:, None] & inside[None, :], WIDTH)
    place = out + target.to(tl.int64) * WIDTH + c
    tl.store(place, tl.load(place, mask=inside, other=0.0) + tl.sum(total, axis=0), mask=inside)


@dataclass(frozen=True)
class _Runs:
    """Edges sorted by target, and the pieces of each target's run; all int32 but the weights.

    Attributes:
        num_targets: T.
        pieces: ``(P, 5)`` row of the target's table, view, first and last edge, and output row, or -1 if not used.
        cuts: ``(E // PIECE, 3)`` for each cut run its target and first and last additional row; -1 if not used.
        center: ``(E,)``, like the following in the order of the runs.
        neighbor: ``(E,)``.
        row: ``(E,)``.
        source: ``(E,)`` row of the messages' gradient.
        copies: ``(E,)`` float32, or None.
        count: ``(E,)`` float32, or None.

    """

    num_targets: int
    pieces: Tensor
    cuts: Tensor
    center: Tensor
    neighbor: Tensor
    row: Tensor
    source: Tensor
    copies: Tensor | None
    count: Tensor | None

    @classmethod
    def by(cls, end: str, edges: Edges) -> _Runs:
        """Sort edges by their ``center``, ``neighbor``, or ``row`` of each view."""
        target, per_view = getattr(edges, end), edges.num_atoms // edges.num_views
        if end == "row":
            view = edges.center // max(per_view, 1)
            per_view = len(edges.basis)
            target = view * per_view + target
        target, order = torch.sort(target, stable=True)
        num_targets = edges.num_views * per_view
        ptr = torch.searchsorted(target, torch.arange(num_targets + 1, device=target.device))
        pieces, cuts = _cut(ptr, len(order))
        target = pieces[:, 0]
        table_row = target % max(per_view, 1) if end == "row" else target
        pieces = torch.cat([table_row[:, None], target[:, None] // max(per_view, 1), pieces[:, 1:]], dim=1)
        center = edges.center[order].int()
        return cls(
            num_targets=num_targets,
            pieces=pieces.int(),
            cuts=cuts.int(),
            center=center,
            neighbor=edges.neighbor[order].int(),
            row=edges.row[order].int(),
            source=order.int() if edges.apart else center,
            copies=None if edges.copies is None else edges.copies[order].float(),
            count=None if edges.count is None else edges.count[order].float(),
        )

    def sum(self, kernel: Any, width: int, channels: int, *arguments: Any, second: bool = False) -> list[Tensor]:
        """Return the sums of a kernel at each target, one or two of ``(T, channels)``."""
        sums = [torch.empty(len(self.pieces), channels, device=self.pieces.device) for _ in range(1 + second)]
        _launch(kernel, len(self.pieces), width, *arguments, *sums, *[None] * (not second))
        for each in sums:
            _launch(_add_pieces_kernel, len(self.cuts), channels, each, self.cuts)
        return [each[: self.num_targets] for each in sums]


def _cut(ptr: Tensor, num_edges: int) -> tuple[Tensor, Tensor]:
    """Return target, first, last, and output row of each piece, and the cuts; runs start at ``ptr`` ``(T + 1,)``."""
    # Each run has at least one piece, so piece p of target t is additional piece p - t - 1, unless it is the first one.
    most_cuts = num_edges // PIECE
    targets = len(ptr) - 1
    pieces = F.pad((ptr.diff() - 1).div(PIECE, rounding_mode="floor").clamp(min=0).add(1).cumsum(0), (1, 0))
    place = torch.arange(targets + most_cuts, device=ptr.device)
    target = torch.searchsorted(pieces, place, right=True) - 1
    used = target < targets
    target = target.clamp(max=max(targets - 1, 0))
    index = place - pieces[target]
    first = ptr[target] + index * PIECE
    last = torch.minimum(first + PIECE, ptr[target + 1])
    slot = torch.where(index == 0, target, targets + place - target - 1)
    additional = pieces - torch.arange(targets + 1, device=ptr.device)
    place = torch.arange(most_cuts, device=ptr.device)
    cut = (torch.searchsorted(additional, place, right=True) - 1).clamp(max=max(targets - 1, 0))
    starts = additional[cut] == place
    cuts = torch.stack([torch.where(starts, cut, -1), targets + additional[cut], targets + additional[cut + 1]], dim=1)
    return torch.stack([target, first, last, torch.where(used, slot, -1)], dim=1), cuts


_RUNS: WeakKeyDictionary[Edges, dict[str, _Runs]] = WeakKeyDictionary()


def _runs(edges: Edges, end: str) -> _Runs:
    """Return the edges sorted by an end; sorted once."""
    known = _RUNS.setdefault(edges, {})
    if end not in known:
        known[end] = _Runs.by(end, edges)
    return known[end]


def _launch(kernel: Any, programs: int, width: int, table: Tensor, *arguments: Any) -> None:
    """Run a kernel for ``width`` channels."""
    block = min(max(triton.next_power_of_2(width), 16), MAX_BLOCK_CHANNELS)
    blocks = {"WIDTH": width, "BLOCK_E": BLOCK_EDGES, "BLOCK_D": block}
    if programs:
        distributed.fetch(table, *arguments)  # torch's dispatcher does not see what a kernel reads
        with torch.cuda.device_of(table):
            grid = programs, triton.cdiv(width, block)
            kernel[grid](table, *arguments, **blocks, num_warps=1, enable_fp_fusion=True)


def _per_view(x: Tensor, edges: Edges) -> Tensor:
    """Sum ``(M, C)`` over the atoms of each view, ``(V, C)`` float64."""
    return x.view(edges.num_views, edges.num_atoms // edges.num_views, x.shape[1]).sum(1, dtype=torch.float64)


def moments(terms: Terms, shift: Tensor, edges: Edges) -> Moments:
    """See :func:`crysatom.nn.kernels.twin.moments`."""
    center, neighbor, edge, shift = (x.contiguous() for x in (*terms, shift))
    channels, runs = shift.shape[1], _runs(edges, "center")
    arguments = center, neighbor, edge, shift, runs.pieces, runs.neighbor, runs.row, runs.count
    at_center, squares = runs.sum(_moments_kernel, channels, channels, *arguments, second=True)
    runs = _runs(edges, "neighbor")
    arguments = neighbor, center, edge, shift, runs.pieces, runs.center, runs.row, runs.count
    (at_neighbor,) = runs.sum(_moments_kernel, channels, channels, *arguments)
    return Moments(at_center, at_neighbor, _per_view(at_center, edges), _per_view(squares, edges))


def message_sums(terms: Terms, norm: Norm, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.message_sums`."""
    width, runs = len(norm.offset) // 2, _runs(edges, "center")
    rows = len(edges.row) if edges.apart else len(runs.pieces)
    out = torch.empty(rows, width, device=norm.offset.device)
    tables = (x.contiguous() for x in (*terms, *norm))
    arguments = runs.pieces, runs.neighbor, runs.row, runs.copies, out, edges.apart
    _launch(_message_sums_kernel, len(runs.pieces), width, *tables, *arguments)
    if edges.apart:
        return out
    _launch(_add_pieces_kernel, len(runs.cuts), width, out, runs.cuts)
    return out[: runs.num_targets]


def message_grads(terms: Terms, norm: Norm, grad_out: Tensor, edges: Edges) -> Grads:
    """See :func:`crysatom.nn.kernels.twin.message_grads`."""
    center, neighbor, edge, *others = (x.contiguous() for x in (*terms, *norm, grad_out))
    channels = len(norm.offset)

    def summed(runs: _Runs, tables: list[Tensor], rows: list[Tensor], *, second: bool = False) -> list[Tensor]:
        arguments = *tables, *others, runs.pieces, *rows, runs.source, runs.copies
        return runs.sum(_message_grads_kernel, channels // 2, channels, *arguments, second=second)

    runs = _runs(edges, "center")
    at_center, product = summed(runs, [center, neighbor, edge], [runs.neighbor, runs.row], second=True)
    runs = _runs(edges, "neighbor")
    (at_neighbor,) = summed(runs, [neighbor, center, edge], [runs.center, runs.row])
    runs = _runs(edges, "row")
    (at_row,) = summed(runs, [edge, center, neighbor], [runs.center, runs.neighbor])
    views, gain = edges.num_views, norm.gain[:, None].float()
    total = _per_view(at_center, edges)
    for grad in (at_center, at_neighbor):
        grad.view(views, len(grad) // views, channels).mul_(gain)
    return Grads(
        at_center,
        at_neighbor,
        (at_row.view(views, *edge.shape) * gain).sum(0),
        total,
        _per_view(product, edges),
    )
