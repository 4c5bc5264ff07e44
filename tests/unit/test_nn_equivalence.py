"""Evaluating equivalent atoms once equals evaluating all: values, gradients and running statistics."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.config import GraphSpec
from crysatom.config.downstream import default
from crysatom.graphs.batch import GraphTensors, select
from crysatom.nn.bases import expand_different, gaussian_centers
from crysatom.nn.condensed import condensed
from crysatom.nn.edges import Edges
from crysatom.nn.equivalence import Classes, EquivalentAtoms, num_different, run_sums
from crysatom.nn.gated_conv import GatedConv
from crysatom.nn.hashing import mix
from crysatom.nn.line_graph import BondsAndAngles, LineGraph
from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.registry import PREDICTORS, build_predictor
from crysatom.training.regression import spec_of
from crysatom.vectors.given import given_vectors
from tests.graph_crystals import batch_of, small, supercell
from tests.synthetic import random_batch, take

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
WIDTH, LAYERS = 6, 3


@pytest.fixture(scope="module", name="batch")
def _batch() -> Batch:
    """Real crystals, some of them as supercells."""
    crystals = small(12, 24)
    return batch_of([*crystals, *(supercell(c, (2, 1, 1)) for c in crystals[:4])], GraphSpec())


def features(batch: Batch) -> tuple[Tensor, Tensor]:
    return expand_different(batch.distance, gaussian_centers(8.0, 1.0))


def plain_edges(batch: Batch) -> Edges:
    basis, row = features(batch)
    neighbor, center = batch.edge_index
    return Edges(
        num_views=1,
        num_atoms=batch.num_nodes,
        edge_ptr=batch.edge_ptr,
        center=center,
        neighbor=neighbor,
        row=row,
        basis=basis,
    )


def layers() -> nn.ModuleList:
    made = nn.ModuleList(GatedConv(WIDTH, 9) for _ in range(LAYERS)).double()
    for name, parameter in made.named_parameters():
        if ".bn" in name:
            parameter.data = torch.rand_like(parameter) + 0.5
    return made


def evaluate(convs: nn.ModuleList, table: Tensor, numbers: Tensor, edges: Edges) -> Tensor:
    first, *others = convs
    h = first(table, edges, kind=numbers.long())
    for conv in others:
        h = conv(h, edges)
    return h


@pytest.mark.parametrize("training", [True, False])
def test_one_atom_for_all_equivalent_ones_gives_the_same(batch: Batch, training: bool) -> None:
    one = layers().train(training)
    all_ = copy.deepcopy(one)
    table = torch.randn(100, WIDTH, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(batch.num_nodes, WIDTH, dtype=torch.float64)  # may differ between equivalent atoms
    edges, atoms = Edges.of(batch, features(batch))
    assert len(atoms.first) < 0.8 * batch.num_nodes
    found = evaluate(one, table, batch.atomic_numbers[atoms.first], edges)[atoms.which]
    expected = evaluate(all_, table, batch.atomic_numbers, plain_edges(batch))
    torch.testing.assert_close(found, expected, **TOLERANCE)
    trained = [[p for p in convs.parameters() if p.requires_grad] for convs in (one, all_)]
    gradients = (
        torch.autograd.grad(out, [table, *weights], cotangent)
        for out, weights in zip((found, expected), trained, strict=True)
    )
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)
    for ours, theirs in zip(one.buffers(), all_.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_classes_are_those_of_a_refinement_written_out(batch: Batch) -> None:
    """Colors as nested tuples instead of hashes."""
    _, row = features(batch)
    atoms = EquivalentAtoms.of(batch, row)
    colors = [int(z) for z in batch.atomic_numbers]
    for _ in range(8):  # more than these crystals need
        lists = [[] for _ in colors]
        for (source, center), length in zip(batch.edge_index.T.tolist(), row.tolist(), strict=True):
            lists[center].append((colors[source], length))
        seen = [(color, tuple(sorted(around))) for color, around in zip(colors, lists, strict=True)]
        names = {color: number for number, color in enumerate(sorted(set(seen)))}
        colors = [names[color] for color in seen]
    pairs = set(zip(colors, atoms.which.tolist(), strict=True))
    assert len(pairs) == len(set(colors)) == len(atoms.first)
    assert torch.equal(atoms.which[atoms.first], torch.arange(len(atoms.first)))
    assert atoms.first.equal(atoms.first.sort().values)
    assert torch.equal(atoms.size, torch.bincount(atoms.which))


def test_atoms_that_differ_in_distances_only_are_different(batch: Batch) -> None:
    row = features(batch)[1]
    assert len(EquivalentAtoms.of(batch, row).first) > len(EquivalentAtoms.of(batch, torch.zeros_like(row)).first)


def test_atoms_without_any_equivalent_stay_as_they_are() -> None:
    batch = random_batch(5)
    edges, atoms = Edges.of(batch, expand_different(batch.distance, gaussian_centers(8.0)))
    assert len(atoms.first) == batch.num_nodes
    assert torch.equal(edges.neighbor, batch.edge_index[0])
    assert torch.equal(edges.center, batch.edge_index[1])


@pytest.fixture(scope="module", name="graphs")
def _graphs() -> GraphTensors:
    """Real crystals, each twice and some as supercells."""
    crystals = small(12, 24)
    batch = batch_of([*crystals, *(supercell(c, (2, 1, 1)) for c in crystals[:4]), *crystals], GraphSpec())
    neighbor, center = batch.edge_index
    return GraphTensors(
        material_keys=batch.material_key,
        atom_ptr=batch.ptr,
        edge_ptr=batch.edge_ptr,
        atomic_numbers=batch.atomic_numbers.to(torch.uint8),
        neighbor=(neighbor - batch.ptr[batch.batch[center]]).int(),
        distance=batch.distance,
    )


def test_condensed_graphs_stand_for_all_atoms_and_edges(graphs: GraphTensors) -> None:
    once = condensed(graphs)
    assert len(once.distance) < 0.5 * len(graphs.distance)
    edges = once.copies.long() * once.multiplicity.long().repeat_interleave(once.edge_ptr.diff())
    for many, few, weights in (
        (graphs.atomic_numbers.long(), once.atomic_numbers.long(), once.multiplicity.long()),
        (graphs.distance.view(torch.int32), once.distance.view(torch.int32), edges),
    ):
        expected = torch.unique(many, return_counts=True)
        kinds, which = torch.unique(few, return_inverse=True)
        assert torch.equal(kinds, expected[0])
        assert torch.equal(torch.zeros_like(kinds, dtype=torch.long).index_add(0, which, weights), expected[1])
    assert once.num_crystals == graphs.num_crystals
    assert torch.equal(once.material_keys, graphs.material_keys)


def test_blocks_of_crystals_change_nothing(graphs: GraphTensors, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = condensed(graphs)
    monkeypatch.setattr("crysatom.nn.condensed.BLOCK", 5)
    in_blocks = condensed(graphs)
    names = [field.name for field in dataclasses.fields(GraphTensors) if getattr(whole, field.name) is not None]
    assert len(names) == 8
    assert all(torch.equal(getattr(whole, name), getattr(in_blocks, name)) for name in names)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("predictor", sorted(PREDICTORS.keys() - {"alignn", "potnet"}))
def test_predictors_see_no_difference_in_condensed_graphs(graphs: GraphTensors, predictor: str, training: bool) -> None:
    """For batches with repeats, in any order: predictions, gradients, running statistics."""
    some = torch.randint(graphs.num_crystals, (30,))
    table = given_vectors("onehot92")
    one = build_predictor(PredictorSpec(predictor=predictor), table).double().train(training)
    all_ = copy.deepcopy(one)
    results = []
    for model, data in ((one, condensed(graphs)), (all_, graphs)):
        batch = select(data, some)
        batch.distance = batch.distance.double()
        if data is graphs:
            assert "multiplicity" not in batch
        prediction = model(batch)
        prediction.square().sum().backward()
        results.append((prediction, [p.grad for p in model.parameters() if p.grad is not None], list(model.buffers())))
    (ours, gradients, buffers), (theirs, expected_gradients, expected_buffers) = results
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    assert len(gradients) == len(expected_gradients) > 5
    for found, expected in zip([*gradients, *buffers], [*expected_gradients, *expected_buffers], strict=True):
        torch.testing.assert_close(found, expected, **TOLERANCE)


def one_each(color: Tensor) -> Classes:
    each = torch.arange(len(color))
    return Classes(each, each, torch.ones_like(each))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("predictor", ["alignn", "potnet"])
def test_predictors_that_read_more_than_distances_see_no_difference_either(
    predictor: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with every atom, bond, angle and pair evaluated separately: predictions, gradients, statistics."""
    crystals = small(8, 12)
    config = default(predictor)
    batch = batch_of([*crystals, *(supercell(c, (2, 1, 1)) for c in crystals[:2])], config.graph)
    spec = dataclasses.replace(spec_of(config), width=16, num_layers=2)
    once = build_predictor(spec, given_vectors("onehot92")).double().train(training)
    each = copy.deepcopy(once)
    results = []
    for model in (once, each):
        prediction = model(batch)
        prediction.square().sum().backward()
        results.append([prediction, *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()])
        monkeypatch.setattr(Classes, "by", staticmethod(one_each))
    assert len(results[0]) == len(results[1]) > 20
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **TOLERANCE)


def test_most_bonds_and_angles_of_real_crystals_are_equal_to_others() -> None:
    batch = batch_of(small(24, 24), default("alignn").graph)
    graphs = BondsAndAngles.of(batch)
    assert graphs.atoms.size.sum() == batch.num_nodes
    assert graphs.crystal.edges.sum() == len(batch.distance)
    assert graphs.line.edges.sum() == len(LineGraph.of(batch).steps)
    assert len(graphs.line.edges) < 0.6 * graphs.line.edges.sum()


def test_no_crystal_at_all() -> None:
    batch = take(random_batch(2), 0, 0)
    edges, atoms = Edges.of(batch, expand_different(batch.distance, gaussian_centers(8.0)))
    assert edges.num_atoms == len(edges.row) == len(atoms.which) == 0


@pytest.mark.parametrize("rounds", [2, 4, 9])
def test_several_rounds_between_two_reads_find_the_same_classes(batch: Batch, rounds: int) -> None:
    row = features(batch)[1]
    color = mix(batch.atomic_numbers.long(), 0)

    def arriving(c: Tensor) -> Tensor:
        return run_sums(mix(c[batch.edge_index[0]], row), batch.edge_ptr)

    found, expected = (EquivalentAtoms._refined(color, arriving, n) for n in (rounds, 1))
    for name in ("which", "first", "size"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_different_colors_are_counted() -> None:
    for size in (0, 1, 2, 500):
        color = mix(torch.randint(0, 100, (size,)), 0)
        assert int(num_different(color)) == len(set(color.tolist()))


@pytest.mark.parametrize("counter", [-1, 0, 1, 41, 2**31, 2**40 + 7, 2**63 - 2])
def test_a_number_and_a_tensor_are_the_same_counter(counter: int) -> None:
    state = torch.tensor([0, 1, -5, 2**62, -(2**63)])
    assert torch.equal(mix(state, counter), mix(state, torch.tensor(counter)))
