"""Micro-batches: threads in turn, the cut of a batch, errors, and memory."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric.data import Batch

from crysatom import distributed
from crysatom.config.downstream import default
from crysatom.graphs.batch import GraphTensors, part_of, select
from crysatom.names import LOSS
from crysatom.nn.condensed import condensed
from crysatom.training.micro_batches import MicroBatches, cuts, split
from crysatom.training.turns import Turn, run_in_turn
from tests.distributed.test_micro_batches import LIMIT, model_and_batch
from tests.graph_crystals import batch_of, small
from tests.small_runs import one_thread  # noqa: F401

COUNT = 4


def test_functions_run_one_at_a_time_and_in_order() -> None:
    running, order = threading.Lock(), []

    def work(turn: Turn) -> list[int]:
        sums = []
        for meeting in range(3):
            assert running.acquire(blocking=False)
            order.append((meeting, turn.index))
            running.release()
            sums.append(turn.meet(10**turn.index, sum))
        return sums

    assert run_in_turn(work, COUNT) == [[1111] * 3] * COUNT
    assert order == [(meeting, index) for meeting in range(3) for index in range(COUNT)]


@pytest.mark.parametrize("index", range(COUNT))
@pytest.mark.parametrize("before", range(3))
def test_an_error_of_one_ends_all(index: int, before: int) -> None:
    ended = []

    def work(turn: Turn) -> None:
        try:
            for meeting in range(3):
                if (meeting, turn.index) == (before, index):
                    raise ValueError(f"broken at {meeting}")
                turn.meet(None, len)
        finally:
            ended.append(turn.index)

    with pytest.raises(ValueError, match=f"broken at {before}"):
        run_in_turn(work, COUNT)
    assert len(ended) in {COUNT, index + 1}  # those after it may not have begun
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("turn ")]


def test_an_interrupt_of_the_caller_ends_all(request: pytest.FixtureRequest) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def work(turn: Turn) -> None:
        if turn.index == 1:
            signal.pthread_kill(main, signal.SIGINT)
        while True:
            turn.meet(None, len)

    main = threading.main_thread().ident
    assert main is not None
    with pytest.raises(KeyboardInterrupt):
        run_in_turn(work, COUNT)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("turn ")]


def test_an_error_while_combining_ends_all() -> None:
    with pytest.raises(ZeroDivisionError):
        run_in_turn(lambda turn: turn.meet(turn.index, lambda items: 1 / items[0]), COUNT)


@pytest.mark.parametrize("index", range(COUNT))
def test_a_function_that_leaves_out_a_meeting_is_an_error(index: int) -> None:
    with pytest.raises(AssertionError, match="ended before a meeting"):
        run_in_turn(lambda turn: None if turn.index == index else turn.meet(None, len), COUNT)


def test_an_error_in_a_backward_pass_ends_all_and_is_raised() -> None:
    class Breaking(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, breaks: bool) -> Tensor:
            ctx.breaks = breaks
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
            if ctx.breaks:
                raise MemoryError("out of memory on purpose")
            return grads[0], None

    def work(part: Batch) -> None:
        x = torch.ones(3, requires_grad=True)
        total = distributed.all_reduce_sum(Breaking.apply(x, part is parts[2]))  # type: ignore[no-untyped-call]
        distributed.all_reduce_sum(total).sum().backward()

    parts = parts_of_batch()
    with pytest.raises(MemoryError, match="on purpose"):
        MicroBatches(1).each(work, parts)


def differentiate(model: torch.nn.Module, batch: Batch, micro_batches: MicroBatches) -> None:
    def work(part: Batch) -> dict[str, Tensor]:
        terms = model(part, 0)
        terms[LOSS].backward()
        return {LOSS: terms[LOSS].detach()}

    micro_batches.train(work, batch, list(model.parameters()))


def parts_of_batch() -> list[Batch]:
    return split(batch_of(small(6, 6), default("cgcnn").graph), 1)


def test_threads_have_the_modes_of_the_caller() -> None:
    def modes(part: Batch | None = None) -> list[Any]:  # noqa: ARG001
        tiny = torch.tensor([1e-310], dtype=torch.float64) * 1
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        return [torch.is_grad_enabled(), product.dtype, float(tiny), torch.get_num_threads()]

    parts = parts_of_batch()
    for grad, cast, flush in [(True, False, False), (False, True, True)]:
        torch.set_flush_denormal(flush)
        try:
            with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16, enabled=cast):
                expected = modes()
                assert MicroBatches(1).each(modes, parts) == [expected] * len(parts)
                assert expected[:2] == [grad, torch.bfloat16 if cast else torch.float32]
        finally:
            torch.set_flush_denormal(False)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([], [0, 0]),
        ([3], [0, 1]),
        ([30], [0, 1]),
        ([4, 6, 1], [0, 2, 3]),
        ([30, 1, 1], [0, 1, 3]),
        ([1, 30, 1], [0, 1, 2, 3]),
        ([0, 0, 10, 0, 1], [0, 4, 5]),
    ],
)
def test_parts_are_runs_of_crystals_with_at_most_ten_edges(edges: list[int], expected: list[int]) -> None:
    assert cuts(edges, 10) == expected


def tensors_of(batch: Batch) -> GraphTensors:
    return GraphTensors(
        material_keys=batch.material_key,
        atom_ptr=batch.ptr,
        edge_ptr=batch.edge_ptr,
        atomic_numbers=batch.atomic_numbers.to(torch.uint8),
        neighbor=(batch.edge_index[0] - batch.ptr[batch.batch[batch.edge_index[1]]]).int(),
        distance=batch.distance,
    )


@pytest.mark.parametrize("name", ["cgcnn", "alignn", "potnet", "condensed"])
def test_a_part_is_the_batch_of_its_crystals(name: str) -> None:
    crystals = small(6, 12)
    if name == "condensed":
        whole = condensed(tensors_of(batch_of(crystals, default("cgcnn").graph)))
        batch, chosen = select(whole, torch.arange(len(crystals))), select(whole, torch.arange(3, 8))
    else:
        graph = default(name).graph
        batch, chosen = batch_of(crystals, graph), batch_of(crystals[3:8], graph)
    part = part_of(batch, 3, 8)
    assert set(part.keys()) == set(chosen.keys())
    for key in chosen.keys():  # noqa: SIM118 - a batch is no dict
        assert torch.equal(torch.as_tensor(part[key]), torch.as_tensor(chosen[key])), key
    assert part.num_graphs == 5
    assert [len(one.distance) for one in part.to_data_list()] == [len(one.distance) for one in chosen.to_data_list()]


class Peak(TorchDispatchMode):
    """Measures the largest sum of bytes of the tensors that operations make, without those in host memory."""

    def __init__(self, seen: dict[int, StorageWeakRef], most: list[int]) -> None:
        super().__init__()
        self.seen, self.most = seen, most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = StorageWeakRef(storage)
        held = 0
        for key, reference in list(self.seen.items()):
            storage: Any = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
            if storage is None:
                del self.seen[key]
            else:
                held += storage.nbytes()
        self.most[0] = max(self.most[0], held)
        return result


def peak(model: torch.nn.Module, batch: Batch, max_edges: int, moved_from: int | None = None) -> int:
    """Return the peak of a step in bytes, without the weights, their gradients and the batch."""
    seen: dict[int, StorageWeakRef] = {}
    most = [0]

    def work(part: Batch) -> dict[str, Tensor]:
        with Peak(seen, most):
            terms = model(part, 0)
            terms[LOSS].backward()
        return {LOSS: terms[LOSS].detach()}

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    MicroBatches(max_edges, moved_from).train(work, batch, list(model.parameters()))
    return most[0]


@pytest.mark.parametrize("case", ["alignn", "potnet", "cogn", "ssl: barlow_twins"])
def test_a_step_that_moves_tensors_to_the_host_needs_no_more_memory_than_its_largest_part(case: str) -> None:
    """On a CPU, where this is tested, host memory is another tensor. Without moving, micro-batches need it all."""
    model, batch = model_and_batch(case, width=32)
    parts = split(batch, LIMIT)
    largest = max(peak(model, part, 0) for part in parts)
    whole, staying, moving = (peak(model, batch, *how) for how in ((0, None), (LIMIT, None), (LIMIT, 0)))
    assert moving <= largest
    assert moving < 0.5 * whole
    assert staying > 0.8 * whole


def test_weights_and_the_batch_are_never_moved_and_results_are_brought_back() -> None:
    model, batch = model_and_batch("ssl: barlow_twins")
    mine = [*model.state_dict().values(), *(value for value in batch.to_dict().values() if isinstance(value, Tensor))]

    def work(part: Batch) -> dict[str, Tensor]:
        terms = model(part, 0)
        terms[LOSS].backward()
        assert all(tensor.untyped_storage().nbytes() >= tensor.nbytes for tensor in mine)
        if part.num_graphs == 1:
            raise MemoryError("out of memory on purpose")
        return {name: value.detach() for name, value in terms.items()}

    with pytest.raises(MemoryError, match="on purpose"):
        MicroBatches(LIMIT, 0).train(work, batch, list(model.parameters()))
    assert all(tensor.untyped_storage().nbytes() >= tensor.nbytes for tensor in mine)
    model.zero_grad()
    terms = MicroBatches(140, 0).train(work, part_of(batch, 0, 4), list(model.parameters()))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(tensor.untyped_storage().nbytes() >= tensor.nbytes for tensor in (*gradients, *terms.values()))


@pytest.mark.parametrize("case", ["cgcnn", "cogn", "ssl: barlow_twins"])
def test_compiled_kernels_read_what_was_moved(case: str) -> None:
    """float32, for which kernels are compiled. Moving changes no bit."""
    gradients = []
    for moved_from in (None, 0):
        model, batch = model_and_batch(case)
        model, batch.distance = model.float(), batch.distance.float()
        differentiate(model, batch, MicroBatches(LIMIT, moved_from))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_tensors_smaller_than_asked_stay() -> None:
    model, batch = model_and_batch("cgcnn")
    assert peak(model, batch, LIMIT, 2**30) == peak(model, batch, LIMIT)


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["cgcnn", "alignn", "ssl: barlow_twins"])
def test_a_gpu_holds_one_part_and_computes_the_gradient_of_the_whole_batch(case: str) -> None:
    """float64, so that only the order of sums differs from the CPU; float32 runs the kernels, which must fetch."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        model, batch = model_and_batch(case, width=256)
        gradients, peaks = [], []
        for device, max_edges in (("cpu", 0), ("cuda", 0), ("cuda", LIMIT)):
            model.to(device, dtype).zero_grad()
            here = batch.to(device)
            for name in {"distance", "vector", "potential"} & set(here.keys()):
                here[name] = here[name].to(dtype)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            differentiate(model, here, MicroBatches(max_edges))
            peaks.append(torch.cuda.max_memory_allocated())
            parameters = (p for p in model.parameters() if p.grad is not None)
            gradients.append(torch.cat([p.grad.flatten().double().cpu() for p in parameters]))  # type: ignore[union-attr]
        assert peaks[2] < peaks[1]
        for gradient in gradients[1:]:
            assert (gradient - gradients[0]).norm() <= tolerance * gradients[0].norm()
