"""The Triton kernels against the plain ones: run by Triton's interpreter, which needs no GPU, and compiled for one.

Tolerance 1e-5 of the largest value: float32 keeps 6e-8 of each term.
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
from tests.kernel_cases import CASES, Case, make_edges
from tests.run_script import run_script

pytest.importorskip("triton", reason="Triton is not installed")

INTERPRETED = """
import sys, torch
from crysatom.nn.kernels import triton_cuda
results = {}
for name, (case, triton_cuda.PIECE) in torch.load(sys.argv[1], weights_only=False).items():
    results[name] = case.evaluate(triton_cuda)
torch.save(results, sys.argv[2])
"""

IN_MICRO_BATCHES = """
import sys, torch
from crysatom import distributed
from crysatom.config import GraphSpec
from crysatom.nn.kernels import triton_cuda
from crysatom.training.micro_batches import MicroBatches, split
from tests.graph_crystals import batch_of, small
case, triton_cuda.PIECE = torch.load(sys.argv[1], weights_only=False)["copies and count"]
def work(part):
    case.evaluate(triton_cuda)
    distributed.gather_objects(None)
    return case.evaluate(triton_cuda)
results = MicroBatches(1, 0).each(work, split(batch_of(small(2, 2), GraphSpec()), 1))
torch.save(results, sys.argv[2])
"""

Cases = dict[str, tuple[Case, int]]
"""Each with the most edges per program."""


def crystals() -> Edges:
    """Edges of three real crystals."""
    batch = batch_of(small(4, 3), GraphSpec(cutoff=6.0, num_neighbors=12))
    return Edges.of(batch, expand_different(batch.distance, torch.linspace(0, 8, 5)))[0]


SMALL = make_edges([[0, 5], [2, 1]], rows=2)
WEIGHTS = torch.tensor([2.0, 3, 1, 1, 2, 5, 4, 1])
WEIGHTED = dataclasses.replace(SMALL, copies=WEIGHTS, count=WEIGHTS.flip(0))


def few_cases() -> Cases:
    """What the kernels must handle, in as few programs as possible: the interpreter takes 20 ms for each."""
    return {
        "copies and count": (Case.of(WEIGHTED, 7), 128),
        "apart": (Case.of(dataclasses.replace(WEIGHTED, apart=True), 1), 128),
        "no edges": (Case.of(make_edges([[0]], rows=1), 64), 128),
        "cut runs": (Case.of(make_edges([[0, 11]], rows=1), 70), 4),
        "large arguments, bfloat16": (Case.of(SMALL, 7, torch.bfloat16, scale=100), 128),
    }


def all_cases() -> Cases:
    return {
        **{name: (Case.of(edges, 7), 128) for name, edges in CASES.items()},
        **{f"width {width}": (Case.of(WEIGHTED, width), 128) for width in (1, 64, 200)},
        "large arguments": (Case.of(SMALL, 7, scale=100), 128),
        "cut runs": (Case.of(CASES["copies and count"], 7), 2),
        "cut runs, apart": (Case.of(CASES["apart"], 1), 2),
        "more pieces than are added at once": (Case.of(CASES["all edges at one atom"], 7), 1),
        "crystals": (Case.of(crystals(), 64), 128),
    }


def compare(name: str, case: Case, results: dict[str, Tensor]) -> None:
    for what, expected in case.to(torch.float64).evaluate(twin).items():
        result = results[what]
        assert result.dtype == (torch.float64 if what.endswith(("total", "squares", "product")) else torch.float32)
        scale = max(1.0, float(expected.abs().amax())) if expected.numel() else 1.0
        torch.testing.assert_close(
            result.double() / scale,
            expected / scale,
            rtol=0,
            atol=1e-5,
            msg=lambda m, what=what: f"{name}, {what}: {m}",
        )


def interpret_and_compare(cases: Cases, folder: Path) -> None:
    torch.save(cases, folder / "cases.pt")
    done = run_script(INTERPRETED, str(folder / "cases.pt"), str(folder / "results.pt"), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    results = torch.load(folder / "results.pt")
    for name, (case, _) in cases.items():
        compare(name, case, results[name])


def test_interpreted_kernels_equal_the_plain_ones(tmp_path: Path) -> None:
    interpret_and_compare(few_cases(), tmp_path)


def test_kernels_fetch_tensors_that_a_micro_batch_left_in_host_memory(tmp_path: Path) -> None:
    """The sorted edges, which only kernels read, are made once and moved at the micro-batch's first collective."""
    case, piece = few_cases()["copies and count"]
    torch.save({"copies and count": (case, piece)}, tmp_path / "cases.pt")
    arguments = str(tmp_path / "cases.pt"), str(tmp_path / "results.pt")
    done = run_script(IN_MICRO_BATCHES, *arguments, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    for results in torch.load(tmp_path / "results.pt"):
        compare("moved", case, results)


@pytest.mark.slow
def test_interpreted_kernels_equal_the_plain_ones_in_every_case(tmp_path: Path) -> None:
    interpret_and_compare(all_cases(), tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_on_a_gpu_equal_the_plain_ones_and_repeat_each_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from crysatom.nn.kernels import triton_cuda

    for name, (case, piece) in (few_cases() | all_cases()).items():
        monkeypatch.setattr(triton_cuda, "PIECE", piece)
        on_gpu = case.to(torch.device("cuda"))
        first, second = on_gpu.evaluate(triton_cuda), on_gpu.evaluate(triton_cuda)
        assert all(torch.equal(first[what], second[what]) for what in first)
        compare(name, case, {what: result.cpu() for what, result in first.items()})


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


@pytest.mark.parametrize("end", ["center", "neighbor", "row"])
def test_sorting_never_waits_for_the_gpu(end: str) -> None:
    from crysatom.nn.kernels import triton_cuda

    edges = CASES["copies and count"]
    mode = FakeTensorMode()  # raises where a shape or a number in Python depends on values
    fake = {
        f.name: mode.from_tensor(value) if isinstance(value := getattr(edges, f.name), Tensor) else value
        for f in dataclasses.fields(edges)
    }
    with mode:
        runs = triton_cuda._Runs.by(end, Edges(**fake))
    assert runs.pieces.shape[1] == 5


def compiled(name: str, width: int, dtype: str, *, optional: bool) -> str:
    """Compile a kernel for an H100 to machine code, with or without its optional arrays, and return its assembly."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from crysatom.nn.kernels import triton_cuda

    kernel = getattr(triton_cuda, name)
    constants: dict[str, Any] = {
        "APART": False,
        "WIDTH": width,
        "BLOCK_E": 4,
        "BLOCK_D": triton_cuda.MAX_BLOCK_CHANNELS,
    }
    if not optional:
        constants |= dict.fromkeys(["count", "copies", "squares", "product"])
    constants = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
    signature = dict.fromkeys(constants, "constexpr")
    for argument in kernel.arg_names:
        if argument.startswith("of_"):
            signature[argument] = f"*{dtype}"
        elif argument not in constants:
            index = argument in {"pieces", "cuts", "a", "b", "neighbor", "row", "source"}
            signature[argument] = "*i32" if index else "*fp32"
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
    "_moments_kernel",
    "_message_sums_kernel",
    "_message_grads_kernel",
    "_add_pieces_kernel",
]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "optional"), [("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_a_gpu(
    name: str, dtype: str, optional: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    ptx = compiled(name, 200, dtype, optional=optional)
    assert not re.search(r"\b(atom|red)\.", ptx)  # additions whose order changes from run to run
    assert "ld.global.v4.b32" in ptx  # 16 bytes per load
