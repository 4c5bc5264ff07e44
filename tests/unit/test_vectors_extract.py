"""Streaming moments equal those of all atoms, in any order, batching and split; Algorithm 1 by hand."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from crysatom.vectors.extract import ElementMoments, LastBatchTable

DIM = 3
ATOMS = 200
WORKERS = 3


def atoms() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    h = torch.randn(ATOMS, DIM, generator=generator, dtype=torch.float64) + 1e4  # a large mean spoils sums of squares
    numbers = torch.randint(1, 6, (ATOMS,), generator=generator, dtype=torch.uint8)
    numbers[0] = 118
    return h, numbers


def accumulate(h: torch.Tensor, numbers: torch.Tensor, batches: int) -> ElementMoments:
    moments = ElementMoments.empty(DIM)
    for rows, zs in zip(h.tensor_split(batches), numbers.tensor_split(batches), strict=True):
        moments = moments.update(rows, zs)
    return moments


def check_against_all_at_once(moments: ElementMoments) -> None:
    h, numbers = atoms()
    table = moments.to_vectors({})
    assert table.atomic_numbers.tolist() == [1, 2, 3, 4, 5, 118]
    for row, z in enumerate(table.atomic_numbers):
        chosen = h[numbers == int(z)].numpy()
        assert table.site_counts is not None
        assert table.standard_errors is not None
        assert table.site_counts[row] == len(chosen)
        # float64 leaves 1e4 * 2^-52 * sqrt(200) = 3e-11 of rounding
        np.testing.assert_allclose(moments.mean[z - 1].numpy(), chosen.mean(axis=0), rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            moments.m2[z - 1].numpy(), ((chosen - chosen.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-9
        )
        if len(chosen) > 1:
            expected = chosen.std(axis=0, ddof=1) / np.sqrt(len(chosen))
            np.testing.assert_allclose(table.standard_errors[row], expected, rtol=1e-6)
        else:
            assert np.isnan(table.standard_errors[row]).all()


@pytest.mark.parametrize("batches", [1, 7, ATOMS, ATOMS + 5])
def test_moments_do_not_depend_on_batching(batches: int) -> None:
    check_against_all_at_once(accumulate(*atoms(), batches))


def test_moments_do_not_depend_on_order_or_split() -> None:
    h, numbers = atoms()
    order = torch.randperm(ATOMS, generator=torch.Generator().manual_seed(1))
    first, second = order[:31], order[31:]
    merged = accumulate(h[second], numbers[second], 4).merge(accumulate(h[first], numbers[first], 2))
    check_against_all_at_once(merged)


def test_merging_with_no_atoms_changes_nothing() -> None:
    moments = accumulate(*atoms(), 3)
    for merged in (moments.merge(ElementMoments.empty(DIM)), ElementMoments.empty(DIM).merge(moments)):
        assert torch.equal(merged.count, moments.count)
        assert torch.equal(merged.mean, moments.mean)
        assert torch.equal(merged.m2, moments.m2)


def test_algorithm_1_by_hand() -> None:
    table = LastBatchTable.empty(2)
    table = table.update(torch.tensor([[3.0, 0.0], [3.0, 8.0], [0.0, 5.0]]), torch.tensor([11, 11, 17]))
    table = table.update(torch.tensor([[2.0, 0.0]]), torch.tensor([17]))
    vectors = table.to_vectors({"recipe": "paper"})
    # Na: mean (3, 4), length 5; Cl: only its last batch counts, its sites are counted over both
    np.testing.assert_allclose(vectors.vectors, [[0.6, 0.8], [1.0, 0.0]], rtol=1e-7)
    assert vectors.site_counts is not None
    assert vectors.site_counts.tolist() == [2, 2]
    assert vectors.standard_errors is None


def _worker(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    h, numbers = atoms()
    bounds = [0, 150, 200, 200]  # unequal shares; the last worker has no atom at all
    mine = slice(bounds[rank], bounds[rank + 1])
    moments = accumulate(h[mine], numbers[mine], 2).merge_across_workers()
    last = LastBatchTable.empty(DIM).update(h[mine], numbers[mine])
    tensors = {"count": moments.count, "mean": moments.mean, "m2": moments.m2, "last": last.vectors, "seen": last.count}
    torch.save(tensors, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_workers_agree_with_one_process(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_worker, args=(port, str(tmp_path)), nprocs=WORKERS)
    single = LastBatchTable.empty(DIM).update(*atoms())
    for rank in range(WORKERS):
        parts = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        check_against_all_at_once(ElementMoments(count=parts["count"], mean=parts["mean"], m2=parts["m2"]))
        torch.testing.assert_close(parts["last"], single.vectors, rtol=1e-12, atol=0)
        assert torch.equal(parts["seen"], single.count)
