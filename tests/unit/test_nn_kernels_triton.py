"""The Triton kernels against the plain ones: run by Triton's interpreter, which needs no GPU, and compiled for one.

Values and gradients in float32; tolerance 1e-5 relative to values of order one.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from crysatom.config import GraphSpec
from crysatom.nn.bases import expand_different
from crysatom.nn.edges import Edges
from crysatom.nn.kernels import twin
from tests.graph_crystals import batch_of, small
from tests.kernel_cases import CASES, make_edges, make_tables
from tests.run_script import run_script

pytest.importorskip("triton", reason="Triton is not installed")

Case = tuple[Edges, tuple[Tensor, Tensor, Tensor], Tensor, int]
"""Edges, tables, gradient of the messages, and most edges per program."""

NAMES = ["messages", "at centers", "at neighbors", "at rows", "terms", "reversed terms"]

INTERPRETED = """
import sys, torch
from crysatom.nn.kernels import triton_cuda
results = {}
for name, (edges, tables, grad, piece) in torch.load(sys.argv[1], weights_only=False).items():
    triton_cuda.PIECE = piece
    of_center, of_neighbor, of_edge = tables
    results[name] = [
        triton_cuda.message_sums(*tables, edges),
        *triton_cuda.message_grads(*tables, grad, edges),
        triton_cuda.term_sums(of_neighbor, of_edge[0], edges),
        triton_cuda.reverse_term_sums(of_center, of_edge[0], edges),
    ]
torch.save(results, sys.argv[2])
"""


def make_case(
    edges: Edges, width: int, *, piece: int = 128, scale: float = 1, dtype: torch.dtype = torch.float32
) -> Case:
    tables = tuple((scale * table).to(dtype) for table in make_tables(edges, width))
    grad = torch.randn(len(edges.row) if edges.apart else edges.num_atoms, width)
    return edges, tables, grad, piece


def crystals() -> Edges:
    """Edges of three real crystals."""
    batch = batch_of(small(4, 3), GraphSpec(cutoff=6.0, num_neighbors=12))
    return Edges.of(batch, expand_different(batch.distance, torch.linspace(0, 8, 5)))[0]


def few_cases() -> dict[str, Case]:
    """The features of all cases, in as few programs as possible: the interpreter takes 20 ms for each."""
    edges = make_edges([[0, 5], [2, 1]], rows=2)
    weights = torch.tensor([2.0, 3, 1, 1, 2, 5, 4, 1])
    weighted = dataclasses.replace(edges, copies=weights, count=weights.flip(0))
    return {
        "copies and count": make_case(weighted, 7),
        "apart": make_case(dataclasses.replace(weighted, apart=True), 1),
        "no edges": make_case(make_edges([[0]], rows=1), 64),
        "cut runs": make_case(make_edges([[0, 11]], rows=1), 200, piece=4),
        "large exponents": make_case(edges, 7, scale=5000),
        "bfloat16": make_case(edges, 7, dtype=torch.bfloat16),
    }


def all_cases() -> dict[str, Case]:
    every = {name: make_case(edges, 7) for name, edges in CASES.items()}
    widths = {
        f"{name}, width {width}": make_case(CASES[name], width)
        for name in ("one view", "apart, copies and count")
        for width in (1, 64, 200)
    }
    return (
        every
        | widths
        | {
            "cut runs": make_case(CASES["copies and count"], 7, piece=2),
            "cut runs, apart": make_case(CASES["apart, copies and count"], 7, piece=2),
            "more pieces than are added at once": make_case(CASES["all edges at one atom"], 7, piece=1),
            "crystals": make_case(crystals(), 64),
        }
    )


def interpret(cases: dict[str, Case], folder: Path) -> dict[str, list[Tensor]]:
    torch.save(cases, folder / "cases.pt")
    done = run_script(INTERPRETED, str(folder / "cases.pt"), str(folder / "results.pt"), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    results: dict[str, list[Tensor]] = torch.load(folder / "results.pt")
    return results


def compare(name: str, case: Case, results: list[Tensor]) -> None:
    edges, tables, grad, _ = case
    of_center, of_neighbor, of_edge = tables
    wide = [table.double() for table in tables]
    expected = [
        twin.message_sums(*wide, edges),
        *twin.message_grads(*wide, grad.double(), edges),
        twin.term_sums(of_neighbor.double(), of_edge[0].double(), edges),
        twin.reverse_term_sums(of_center.double(), of_edge[0].double(), edges),
    ]
    for what, result, reference in zip(NAMES, results, expected, strict=True):
        assert result.dtype == torch.float32
        scale = max(1.0, float(reference.abs().max())) if reference.numel() else 1
        error = (result - reference).abs().max() / scale if reference.numel() else 0
        assert result.shape == reference.shape
        assert error < 1e-5, f"{name}, {what}: {error:.1e}"


def test_interpreted_kernels_equal_the_plain_ones(tmp_path: Path) -> None:
    cases = few_cases()
    results = interpret(cases, tmp_path)
    for name, case in cases.items():
        compare(name, case, results[name])


@pytest.mark.slow
def test_interpreted_kernels_equal_the_plain_ones_in_every_case(tmp_path: Path) -> None:
    cases = all_cases()
    results = interpret(cases, tmp_path)
    for name, case in cases.items():
        compare(name, case, results[name])


@pytest.mark.parametrize("piece", [1, 2, 3, 128])
@pytest.mark.parametrize("edges", CASES.values(), ids=CASES.keys())
def test_pieces_cover_each_run_once(edges: Edges, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from crysatom.nn.kernels import triton_cuda

    monkeypatch.setattr(triton_cuda, "PIECE", piece)
    pieces, cuts = triton_cuda._cut(edges.edge_ptr, len(edges.row))
    used = pieces[pieces[:, 3] >= 0]
    covered = [(int(t), k) for t, first, last, _ in used for k in range(first, last)]
    assert covered == list(zip(edges.center.tolist(), range(len(edges.row)), strict=True))
    assert all(last - first <= piece for _, first, last, _ in used)
    slots = used[:, 3].tolist()
    assert len(set(slots)) == len(slots)
    assert set(range(edges.num_atoms)) <= set(slots)
    owner = {int(slot): int(target) for target, _, _, slot in used}
    added = [(int(slot), int(target)) for target, first, last in cuts if target >= 0 for slot in range(first, last)]
    assert sorted(added) == sorted((slot, target) for slot, target in owner.items() if slot >= edges.num_atoms)


@pytest.mark.parametrize("by", ["center", "neighbor", "row"])
def test_sorting_never_waits_for_the_gpu(by: str) -> None:
    from crysatom.nn.kernels import triton_cuda

    edges = CASES["copies and count"]
    mode = FakeTensorMode()  # raises where a shape or a number in Python depends on values
    fake = {
        f.name: mode.from_tensor(value) if isinstance(value := getattr(edges, f.name), Tensor) else value
        for f in dataclasses.fields(edges)
    }
    with mode:
        runs = triton_cuda._runs(Edges(**fake), by)
    assert runs.pieces.shape[1] == 4


def compiled(name: str, width: int, dtype: str, *, weighted: bool) -> str:
    """Compile a kernel for an H100 to machine code, and return its assembly."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from crysatom.nn.kernels import triton_cuda

    kernel = getattr(triton_cuda, name)
    constants: dict[str, Any] = {"WIDTH": width, "BLOCK_E": 4, "BLOCK_D": 128}
    signature = {}
    for argument in kernel.arg_names:
        if argument in {"copies", "count"} and not weighted:
            constants[argument] = None
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "num_edges":
            signature[argument] = "i32"
        elif argument.startswith("of_") or argument == "grad_out":
            signature[argument] = f"*{dtype}"
        else:
            signature[argument] = "*fp32" if argument in {"out", "copies", "count"} else "*i32"
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": 1, "enable_fp_fusion": True}
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert result.asm["cubin"]
    text: str = result.asm["ptx"]
    return text


KERNELS = [
    "_message_sums_kernel",
    "_messages_kernel",
    "_message_grads_kernel",
    "_term_sums_kernel",
    "_add_pieces_kernel",
]


@pytest.mark.parametrize(
    ("dtype", "weighted"),
    [("fp32", False), pytest.param("bf16", True, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_a_gpu(
    name: str, dtype: str, weighted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    ptx = compiled(name, 200, dtype, weighted=weighted)
    assert not re.search(r"\b(atom|red)\.", ptx)  # additions whose order changes from run to run
    assert "ld.global.v4.b32" in ptx  # 16 bytes per load
