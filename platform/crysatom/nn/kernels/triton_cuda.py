"""Kernels of the gated sum in Triton, for CUDA; :mod:`crysatom.nn.kernels.twin` defines what they compute.

Every sum is one over a run of edges with the same target: the center, the neighbor, or the view and row. The edges are
sorted by target once per batch, and a program sums a piece of a run for a block of channels. It recomputes the
exponents of its edges, so no array of ``(E, C)`` exists. No atomics are used, so results are reproducible.

A run of more than ``PIECE`` edges is cut, so that no single program works long while the others have ended: its first
piece is written to the row of the target, each further one to an additional row, and a second kernel adds these up.
The sizes of all arrays follow from shapes alone. Nothing waits for the GPU.

A program has one warp and holds ``BLOCK_EDGES`` edges at a time, a float4 per lane and table. Many such programs per
multiprocessor hide the latency of the gathers, so their loops are not pipelined.
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

from crysatom.nn.edges import Edges

PIECE = 128
"""Most edges that one program sums."""

BLOCK_EDGES = 4
MAX_BLOCK_CHANNELS = 128

LN2 = tl.constexpr(math.log(2))


@triton.jit
def _load(table, row, column, mask, width: tl.constexpr):
    """Load elements of a table of ``width`` columns; 64-bit offsets, because a table may have 2^31 elements."""
    return tl.load(table + row.to(tl.int64) * width + column, mask=mask, other=0.0).to(tl.float32)


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
def _message_sums_kernel(
    of_center,
    of_neighbor,
    of_edge,
    pieces,
    neighbor,
    edge,
    copies,
    out,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum the messages of a piece of a center's edges."""
    piece = pieces + 4 * tl.program_id(0)
    target, first, last, slot = tl.load(piece), tl.load(piece + 1), tl.load(piece + 2), tl.load(piece + 3)
    if slot < 0:
        return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < WIDTH
    center_gate = _load(of_center, target, d, inside, 2 * WIDTH)[None, :]
    center_core = _load(of_center, target, WIDTH + d, inside, 2 * WIDTH)[None, :]
    total = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        k = start + tl.arange(0, BLOCK_E)
        valid = k < last
        mask = valid[:, None] & inside[None, :]
        j = tl.load(neighbor + k, mask=valid, other=0)[:, None]
        r = tl.load(edge + k, mask=valid, other=0)[:, None]
        column = d[None, :]
        x_gate = _load(of_neighbor, j, column, mask, 2 * WIDTH) + _load(of_edge, r, column, mask, 2 * WIDTH)
        x_core = _load(of_neighbor, j, WIDTH + column, mask, 2 * WIDTH)
        x_core += _load(of_edge, r, WIDTH + column, mask, 2 * WIDTH)
        gate, _ = _gate(center_gate + x_gate)
        core, _ = _core(center_core + x_core)
        message = gate * core
        if copies is not None:
            message *= tl.load(copies + k, mask=valid, other=0.0)[:, None]
        total += tl.where(mask, message, 0.0)
    tl.store(out + slot.to(tl.int64) * WIDTH + d, tl.sum(total, axis=0), mask=inside)


@triton.jit(do_not_specialize=["num_edges"])
def _messages_kernel(
    of_center,
    of_neighbor,
    of_edge,
    center,
    neighbor,
    edge,
    copies,
    out,
    num_edges,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the message of each edge."""
    k = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    valid = k < num_edges
    d = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    mask = valid[:, None] & (d < WIDTH)
    i = tl.load(center + k, mask=valid, other=0)[:, None]
    j = tl.load(neighbor + k, mask=valid, other=0)[:, None]
    r = tl.load(edge + k, mask=valid, other=0)[:, None]
    x_gate = _load(of_center, i, d, mask, 2 * WIDTH) + _load(of_neighbor, j, d, mask, 2 * WIDTH)
    x_core = _load(of_center, i, WIDTH + d, mask, 2 * WIDTH) + _load(of_neighbor, j, WIDTH + d, mask, 2 * WIDTH)
    gate, _ = _gate(x_gate + _load(of_edge, r, d, mask, 2 * WIDTH))
    core, _ = _core(x_core + _load(of_edge, r, WIDTH + d, mask, 2 * WIDTH))
    message = gate * core
    if copies is not None:
        message *= tl.load(copies + k, mask=valid, other=0.0)[:, None]
    tl.store(out + k[:, None].to(tl.int64) * WIDTH + d, message, mask=mask)


@triton.jit
def _message_grads_kernel(
    of_target,
    of_a,
    of_b,
    grad_out,
    pieces,
    a,
    b,
    source,
    copies,
    out,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum the gradients of a piece of a target's edges; a and b are the rows of the other two tables."""
    piece = pieces + 4 * tl.program_id(0)
    target, first, last, slot = tl.load(piece), tl.load(piece + 1), tl.load(piece + 2), tl.load(piece + 3)
    if slot < 0:
        return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < WIDTH
    target_gate = _load(of_target, target, d, inside, 2 * WIDTH)[None, :]
    target_core = _load(of_target, target, WIDTH + d, inside, 2 * WIDTH)[None, :]
    total_gate = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    total_core = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        k = start + tl.arange(0, BLOCK_E)
        valid = k < last
        mask = valid[:, None] & inside[None, :]
        i = tl.load(a + k, mask=valid, other=0)[:, None]
        j = tl.load(b + k, mask=valid, other=0)[:, None]
        column = d[None, :]
        x_gate = _load(of_a, i, column, mask, 2 * WIDTH) + _load(of_b, j, column, mask, 2 * WIDTH)
        x_core = _load(of_a, i, WIDTH + column, mask, 2 * WIDTH) + _load(of_b, j, WIDTH + column, mask, 2 * WIDTH)
        grad = _load(grad_out, tl.load(source + k, mask=valid, other=0)[:, None], column, mask, WIDTH)
        if copies is not None:
            grad *= tl.load(copies + k, mask=valid, other=0.0)[:, None]
        gate, rest = _gate(target_gate + x_gate)
        core, slope = _core(target_core + x_core)
        grad *= gate
        total_gate += tl.where(mask, grad * rest * core, 0.0)
        total_core += tl.where(mask, grad * slope, 0.0)
    row = out + slot.to(tl.int64) * (2 * WIDTH)
    tl.store(row + d, tl.sum(total_gate, axis=0), mask=inside)
    tl.store(row + WIDTH + d, tl.sum(total_core, axis=0), mask=inside)


@triton.jit
def _term_sums_kernel(
    of_a,
    of_edge,
    pieces,
    a,
    edge,
    count,
    out,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum two terms of a piece of a target's edges."""
    piece = pieces + 4 * tl.program_id(0)
    first, last, slot = tl.load(piece + 1), tl.load(piece + 2), tl.load(piece + 3)
    if slot < 0:
        return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < WIDTH
    total = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        k = start + tl.arange(0, BLOCK_E)
        valid = k < last
        mask = valid[:, None] & inside[None, :]
        i = tl.load(a + k, mask=valid, other=0)[:, None]
        r = tl.load(edge + k, mask=valid, other=0)[:, None]
        term = _load(of_a, i, d[None, :], mask, WIDTH) + _load(of_edge, r, d[None, :], mask, WIDTH)
        if count is not None:
            term *= tl.load(count + k, mask=valid, other=0.0)[:, None]
        total += term
    tl.store(out + slot.to(tl.int64) * WIDTH + d, tl.sum(total, axis=0), mask=inside)


@triton.jit
def _add_pieces_kernel(out, cuts, WIDTH: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr):
    """Add the additional rows of a cut run to the row of its target."""
    cut = cuts + 3 * tl.program_id(0)
    target, first, last = tl.load(cut), tl.load(cut + 1), tl.load(cut + 2)
    if target < 0:
        return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < WIDTH
    total = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_E):
        row = start + tl.arange(0, BLOCK_E)
        total += _load(out, row[:, None], d[None, :], (row < last)[:, None] & inside[None, :], WIDTH)
    place = out + target.to(tl.int64) * WIDTH + d
    tl.store(place, tl.load(place, mask=inside, other=0.0) + tl.sum(total, axis=0), mask=inside)


@dataclass(frozen=True)
class _Runs:
    """Edges sorted by target, and the pieces of each target's run; all int32 but the weights.

    Attributes:
        num_targets: T.
        pieces: ``(P, 4)`` target, first and last edge, and output row; the row is -1 for unused places.
        cuts: ``(E // PIECE, 3)`` for each cut run its target and first and last additional row; elsewhere -1.
        center: ``(E,)``, as the following in the order of the runs.
        neighbor: ``(E,)``.
        row: ``(E,)`` row of the distance.
        view_row: ``(E,)`` view times R plus row.
        source: ``(E,)`` row of ``grad_out``.
        copies: ``(E,)`` float32, or None.
        count: ``(E,)`` float32, or None.

    """

    num_targets: int
    pieces: Tensor
    cuts: Tensor
    center: Tensor
    neighbor: Tensor
    row: Tensor
    view_row: Tensor
    source: Tensor
    copies: Tensor | None
    count: Tensor | None

    @classmethod
    def of(cls, edges: Edges, view_row: Tensor, target: Tensor, num_targets: int) -> _Runs:
        """Sort edges by target ``(E,)``."""
        target, order = torch.sort(target, stable=True)
        pieces, cuts = _cut(torch.searchsorted(target, torch.arange(num_targets + 1, device=target.device)), len(order))
        center = edges.center[order].int()
        return cls(
            num_targets=num_targets,
            pieces=pieces.int(),
            cuts=cuts.int(),
            center=center,
            neighbor=edges.neighbor[order].int(),
            row=edges.row[order].int(),
            view_row=view_row[order].int(),
            source=order.int() if edges.apart else center,
            copies=None if edges.copies is None else edges.copies[order].float(),
            count=None if edges.count is None else edges.count[order].float(),
        )


def _cut(ptr: Tensor, num_edges: int) -> tuple[Tensor, Tensor]:
    """Return pieces and cuts of :class:`_Runs` for runs that start at ``ptr`` ``(T + 1,)``."""
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


def _runs(edges: Edges, by: str) -> _Runs:
    """Return the edges sorted by their center, neighbor, or row; sorted once."""
    known = _RUNS.setdefault(edges, {})
    if by not in known:
        rows = len(edges.basis)
        view_row = edges.center // max(edges.num_atoms // edges.num_views, 1) * rows + edges.row
        target, num_targets = {
            "center": (edges.center, edges.num_atoms),
            "neighbor": (edges.neighbor, edges.num_atoms),
            "row": (view_row, edges.num_views * rows),
        }[by]
        known[by] = _Runs.of(edges, view_row, target, num_targets)
    return known[by]


def _launch(kernel: Any, programs: int, width: int, table: Tensor, *arguments: Tensor | int | None) -> None:
    """Run a kernel for ``width`` channels."""
    block = min(max(triton.next_power_of_2(width), 16), MAX_BLOCK_CHANNELS)
    blocks = {"WIDTH": width, "BLOCK_E": BLOCK_EDGES, "BLOCK_D": block}
    if programs:
        with torch.cuda.device_of(table):
            grid = programs, triton.cdiv(width, block)
            kernel[grid](table, *arguments, **blocks, num_warps=1, enable_fp_fusion=True)


def _sum(kernel: Any, runs: _Runs, width: int, channels: int, *arguments: Any) -> Tensor:
    """Return the sums of a kernel at each target, ``(T, channels)``."""
    out = torch.empty(len(runs.pieces), channels, device=runs.pieces.device)
    _launch(kernel, len(runs.pieces), width, *arguments, out)
    _launch(_add_pieces_kernel, len(runs.cuts), channels, out, runs.cuts)
    return out[: runs.num_targets]


def message_sums(of_center: Tensor, of_neighbor: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.message_sums`."""
    tables = of_center.contiguous(), of_neighbor.contiguous(), of_edge.contiguous()
    runs, width = _runs(edges, "center"), of_center.shape[1] // 2
    terms = runs.neighbor, runs.view_row, runs.copies
    if not edges.apart:
        return _sum(_message_sums_kernel, runs, width, width, *tables, runs.pieces, *terms)
    num_edges = len(runs.row)
    out = torch.empty(num_edges, width, device=of_center.device)
    programs = triton.cdiv(num_edges, BLOCK_EDGES)
    _launch(_messages_kernel, programs, width, *tables, runs.center, *terms, out, num_edges)
    return out


def message_grads(
    of_center: Tensor, of_neighbor: Tensor, of_edge: Tensor, grad_out: Tensor, edges: Edges
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`crysatom.nn.kernels.twin.message_grads`."""
    center, neighbor, edge, grad = (x.contiguous() for x in (of_center, of_neighbor, of_edge, grad_out))
    by_center, by_neighbor, by_row = (_runs(edges, by) for by in ("center", "neighbor", "row"))
    at_row = _message_grads(by_row, (edge, center, neighbor), (by_row.center, by_row.neighbor), grad)
    return (
        _message_grads(by_center, (center, neighbor, edge), (by_center.neighbor, by_center.view_row), grad),
        _message_grads(by_neighbor, (neighbor, center, edge), (by_neighbor.center, by_neighbor.view_row), grad),
        at_row.view_as(of_edge),
    )


def _message_grads(
    runs: _Runs, tables: tuple[Tensor, Tensor, Tensor], rows: tuple[Tensor, Tensor], grad: Tensor
) -> Tensor:
    """Sum gradients at the targets of ``runs``, whose table is the first one; ``rows`` are those of the others."""
    channels = tables[0].shape[-1]
    arguments = *tables, grad, runs.pieces, *rows, runs.source, runs.copies
    return _sum(_message_grads_kernel, runs, channels // 2, channels, *arguments)


def term_sums(of_neighbor: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.term_sums`."""
    runs = _runs(edges, "center")
    return _term_sums(of_neighbor, of_edge, runs, runs.neighbor)


def reverse_term_sums(of_center: Tensor, of_edge: Tensor, edges: Edges) -> Tensor:
    """See :func:`crysatom.nn.kernels.twin.reverse_term_sums`."""
    runs = _runs(edges, "neighbor")
    return _term_sums(of_center, of_edge, runs, runs.center)


def _term_sums(table: Tensor, of_edge: Tensor, runs: _Runs, rows: Tensor) -> Tensor:
    channels = table.shape[1]
    terms = runs.pieces, rows, runs.row, runs.count
    return _sum(_term_sums_kernel, runs, channels, channels, table.contiguous(), of_edge.contiguous(), *terms)
