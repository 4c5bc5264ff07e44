"""Time of sums over the edges of an atom on CPU: which of torch's functions does them best?

The sizes are those of batches of real crystals: E edges of width D are summed at N atoms, edges sorted by their atom as
in our graphs ("at the receiving atom") and not ("at the sending atom"). The second part times the gradient of a gather,
which is such a sum. Each way must give the sum in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import bench
import torch
from bench import Benchmark, Run, Setting, timed
from samples import sample
from torch import Tensor
from torch.nn import functional as F

from crysatom.config import FeaturizeConfig
from crysatom.graphs.batch import GraphTensors, select
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import load

TOLERANCE = 1e-5
"""Relative error of a float32 sum of some twenty numbers."""


def ways(index: Tensor, count: int, *, ordered: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return functions that sum the rows ``(E, D)`` of each of ``count`` atoms.

    Args:
        index: ``(E,)`` atom of each row.
        count: N, number of atoms.
        ordered: Whether the index ascends, so that the rows of an atom are neighbors.

    """
    order = torch.argsort(index, stable=True)
    lengths = torch.bincount(index, minlength=count)
    starts = lengths.cumsum(0) - lengths
    pointers = torch.cat([starts, lengths.sum()[None]])
    ones = torch.ones(len(index))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse CSR tensors a prototype
        matrix = torch.sparse_csr_tensor(pointers, order, ones, (count, len(index)))

    def scattered(rows: Tensor, reduce: str) -> Tensor:
        where, zeros = index[:, None].expand_as(rows), rows.new_zeros(count, rows.shape[1])
        if reduce == "add":
            return zeros.scatter_add_(0, where, rows)
        return zeros.scatter_reduce_(0, where, rows, reduce=reduce)

    found: dict[str, Callable[[Tensor], Tensor]] = {
        "index_add": lambda rows: rows.new_zeros(count, rows.shape[1]).index_add_(0, index, rows),
        "scatter_add": partial(scattered, reduce="add"),
        "scatter_reduce": partial(scattered, reduce="sum"),
        "embedding_bag": lambda rows: F.embedding_bag(order, rows, starts, mode="sum"),
        "sparse product": lambda rows: matrix @ rows,
    }
    if ordered:
        found["segment_reduce"] = lambda rows: torch.segment_reduce(rows, "sum", lengths=lengths, axis=0)
    return found


def gradients(index: Tensor) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return functions that gather rows of ``(N, D)`` by index and return the gradient for a given one ``(E, D)``."""

    def of(gather: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def gradient(values: Tensor, cotangent: Tensor) -> Tensor:
            leaf = values.detach().requires_grad_()
            return torch.autograd.grad(gather(leaf), leaf, cotangent)[0]

        return gradient

    return {
        "index_select": of(lambda h: h.index_select(0, index)),
        "h[index]": of(lambda h: h[index]),
        "embedding": of(lambda h: F.embedding(index, h)),
        "gather": of(lambda h: h.gather(0, index[:, None].expand(-1, h.shape[1]))),
    }


def measure(run: Run) -> None:
    """Time every way on every size, in turn."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    s, folder = run.settings, run.folder
    table = sample(run.table, max(s.batch_sizes), folder / "crystals.parquet")
    featurize_plain(FeaturizeConfig.of(data=str(table), out=str(folder / "shards")))
    graphs = GraphTensors.of(load(folder / "shards"))
    for size, width in zip(s.batch_sizes, s.widths, strict=True):
        batch = select(graphs, torch.arange(size))
        sender, receiver = batch.edge_index
        rows = torch.randn(len(sender), width)
        name = f"{len(rows):,} edges of {batch.num_nodes:,} atoms, width {width}"
        run.check("edges are sorted by the receiving atom", bool((receiver.diff() >= 0).all()), name)
        for where, index in (("receiving", receiver), ("sending", sender)):
            exact = torch.zeros(batch.num_nodes, width, dtype=torch.float64).index_add_(0, index, rows.double())
            found = {
                f"{name}, sum at the {where} atom: {way}": partial(work, rows)
                for way, work in ways(index, batch.num_nodes, ordered=where == "receiving").items()
            }
            if where == "sending":
                values = torch.randn(batch.num_nodes, width)
                found |= {
                    f"{name}, gradient of a gather from the sending atom: {way}": partial(work, values, rows)
                    for way, work in gradients(index).items()
                }
            in_turn(run, found, exact, len(rows) * width)


def in_turn(run: Run, found: Mapping[str, Callable[[], Tensor]], exact: Tensor, size: int) -> None:
    """Check each function, then time all in turn."""
    for name, work in found.items():
        error = float((work().double() - exact).abs().max() / exact.abs().max())
        run.check("every way gives the sum in float64", error <= TOLERANCE, f"{name}: relative error {error:.1e}")
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(run.settings.rounds):
        for name, work in found.items():
            timing = timed(run.settings.repeats, lambda: [work() for _ in range(run.settings.repeats)])[0]  # noqa: B023
            seconds[name].append(1e6 * timing.cpu_ms / size)
    for name, values in seconds.items():
        run.figure(name, values, "CPU ns/value", better="lower")


BENCHMARK = Benchmark(
    name="scatter",
    about=str(__doc__),
    measures=(),
    settings={
        "batch_sizes": Setting((128, 256), (8,), "crystals in a batch"),
        "widths": Setting((200, 64), (8,), "D of each batch: pretraining, CGCNN"),
        "rounds": Setting(5, 1),
        "repeats": Setting(4, 2, "calls in a round"),
    },
    measure=measure,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
