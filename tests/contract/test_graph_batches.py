"""Our batches equal those that PyG makes from the single crystals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from crysatom.config import FeaturizeConfig
from crysatom.graphs.batch import GraphTensors, collate, select
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.graph import GraphArrays
from crysatom.graphs.shards import iter_tables, load
from tests.graph_crystals import prototypes, with_lattice, write_table

PER_CRYSTAL = {
    "atomic_numbers",
    "degree",
    "atom_slot",
    "edge_index",
    "distance",
    "slot",
    "material_key",
    "num_nodes",
}
OF_BATCH = {"batch", "ptr", "edge_ptr"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 real crystals, one of them an isolated atom, in small row groups."""
    out = tmp_path_factory.mktemp("graphs")
    crystals = prototypes()[::6]
    single = next(c for c in prototypes()[1:] if len(c.atomic_numbers) == 1 and c not in crystals)
    crystals.insert(7, with_lattice(single, 50.0 * np.eye(3), single.frac_coords))
    write_table(out / "crystals.parquet", crystals)
    config = FeaturizeConfig.of(data=str(out / "crystals.parquet"), out=str(out / "graphs"), crystals_per_shard=9)
    assert featurize_plain(config).accepted == len(crystals) == 49
    return out / "graphs"


def _data(arrays: GraphArrays, b: int) -> Data:
    """One crystal, built atom by atom."""
    atoms = range(arrays.atom_ptr[b], arrays.atom_ptr[b + 1])
    degrees = [int(arrays.edge_ptr[i + 1] - arrays.edge_ptr[i]) for i in atoms]
    edges = [(i - atoms.start, k) for i in atoms for k in range(arrays.edge_ptr[i], arrays.edge_ptr[i + 1])]
    return Data(
        atomic_numbers=torch.tensor([int(arrays.atomic_numbers[i]) for i in atoms]),
        degree=torch.tensor(degrees),
        atom_slot=torch.arange(len(degrees)),
        edge_index=torch.tensor([[int(arrays.neighbor[k]), i] for i, k in edges]).reshape(-1, 2).T.long(),
        distance=torch.tensor([arrays.distance[k] for _, k in edges], dtype=torch.float32),
        slot=torch.tensor([s for degree in degrees for s in range(degree)]).long(),
        material_key=torch.tensor([int(arrays.material_keys[b])]),
        num_nodes=len(degrees),
    )


def _assert_equal(one: Data, two: Data, keys: set[str]) -> None:
    for key in keys:
        a, b = one[key], two[key]
        if isinstance(a, Tensor):
            assert a.dtype == b.dtype, key
            assert torch.equal(a, b), key
        else:
            assert a == b, key


def _assert_is_batch_of(batch: Batch, crystals: list[Data]) -> None:
    reference = Batch.from_data_list(crystals)
    assert set(reference.keys()) == PER_CRYSTAL | {"batch", "ptr"}
    assert set(batch.keys()) == PER_CRYSTAL | OF_BATCH
    _assert_equal(batch, reference, set(reference.keys()))
    assert torch.equal(batch.edge_ptr, torch.cat([torch.zeros(1, dtype=torch.long), batch.degree.cumsum(0)]))
    assert batch.num_graphs == reference.num_graphs == len(crystals)
    assert type(batch) is type(reference)
    for ours, given in zip(batch.to_data_list(), crystals, strict=True):
        assert set(ours.keys()) == set(given.keys())
        _assert_equal(ours, given, PER_CRYSTAL)


@pytest.mark.parametrize("crystals", [[0], [7], [3, 7, 1, 1, 48], list(range(49))])
def test_select_equals_pyg(folder: Path, crystals: list[int]) -> None:
    arrays = load(folder)
    batch = select(GraphTensors.of(arrays), torch.tensor(crystals))
    _assert_is_batch_of(batch, [_data(arrays, b) for b in crystals])


@pytest.mark.parametrize(("start", "length"), [(0, 49), (5, 20), (7, 1), (30, 19)])
def test_collate_equals_pyg(folder: Path, start: int, length: int) -> None:
    arrays = load(folder)
    table = pa.concat_tables(list(iter_tables(folder)))  # as many chunks as row groups
    expected = [_data(arrays, b) for b in range(start, start + length)]
    _assert_is_batch_of(collate(table.slice(start, length)), expected)
    _assert_is_batch_of(collate(table.combine_chunks().to_batches()[0].slice(start, length)), expected)


def test_edges_point_from_neighbor_to_center(folder: Path) -> None:
    batch = select(GraphTensors.of(load(folder)), torch.arange(49))
    neighbor, center = batch.edge_index
    assert (center.diff() >= 0).all()
    assert torch.equal(batch.batch[neighbor], batch.batch[center])
    assert torch.equal(torch.bincount(center, minlength=batch.num_nodes), batch.degree)
    assert batch.degree.min() == 0  # the isolated atom


def test_batches_can_be_moved_cloned_and_taken_apart(folder: Path) -> None:
    arrays = load(folder)
    batch = select(GraphTensors.of(arrays).to("cpu"), torch.tensor([4, 2])).clone().to("cpu")
    _assert_equal(batch[1], _data(arrays, 2), PER_CRYSTAL)
    assert batch.validate()


def test_nothing_selected(folder: Path) -> None:
    batch = select(GraphTensors.of(load(folder)), torch.zeros(0, dtype=torch.long))
    assert batch.num_graphs == batch.num_nodes == 0
    assert batch.edge_index.shape == (2, 0)
