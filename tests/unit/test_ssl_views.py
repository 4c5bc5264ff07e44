"""Masks are pure functions of (seed, epoch, view, material, atom, edge), with the documented size, and uniform."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.nn.hashing import mix
from crysatom.ssl.views import lowest_per_segment, mask_atoms, mask_edges, stack_views
from tests.synthetic import make_batch, random_batch, take

MASK64 = 2**64 - 1


def splitmix64(state: int, counter: int) -> int:
    """SplitMix64 (Steele, Lea & Flood 2014, fig. 17): the counter-th output for a state, unsigned."""
    z = (state + (counter + 1) * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def uniform_batch(sizes: list[int], degree: int, padded: int = 0) -> Batch:
    """Crystals whose atoms all have ``degree`` edges; the last ``padded`` are padding."""
    sizes_ = torch.tensor(sizes)
    ptr = torch.nn.functional.pad(sizes_.cumsum(0), (1, 0))
    num_atoms = int(ptr[-1])
    center = torch.arange(num_atoms).repeat_interleave(degree)
    distance = torch.full((num_atoms, degree), 3.0)
    distance[:, degree - padded :] = 9.0
    return make_batch(
        ptr=ptr,
        atomic_numbers=torch.full((num_atoms,), 6),
        degree=torch.full((num_atoms,), degree),
        edge_ptr=torch.arange(num_atoms + 1) * degree,
        edge_index=torch.stack([center, center]),
        distance=distance.flatten(),
        material_key=mix(torch.arange(len(sizes)), 77),
    )


def draw(batch: Batch, seed: int = 0, epoch: int = 0, view: int = 0) -> tuple[Tensor, Tensor]:
    stream = mix(mix(mix(batch.material_key, seed), epoch), view)
    return mask_atoms(batch, stream, 0.1), mask_edges(batch, mix(stream, 1), 0.1)


def test_mix_is_splitmix64() -> None:
    # The published first outputs for state 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [splitmix64(1234567, k) for k in range(5)] == known
    states = [0, 1, 1234567, 2**63 - 1, -(2**63), -1, -987654321987654321]
    for counter in (0, 1, 2, 1000, -1, 2**62):
        answers = mix(torch.tensor(states), counter)
        assert [a & MASK64 for a in answers.tolist()] == [splitmix64(s & MASK64, counter) for s in states]
    assert mix(torch.tensor([5, 5]), torch.tensor([3, 4])).tolist() == [
        mix(torch.tensor([5]), k).item() for k in (3, 4)
    ]


def test_lowest_per_segment() -> None:
    values = torch.tensor([5, 3, 9, 1, 7, 2, 2, -4])
    segment = torch.tensor([0, 0, 0, 2, 2, 2, 3, 3])
    ptr = torch.tensor([0, 3, 3, 6, 8])
    marked = lowest_per_segment(values, segment, ptr, torch.tensor([1, 1, 2, 0]))
    assert marked.tolist() == [False, True, False, True, False, True, False, False]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.15, 0.3, 0.35, 0.7])
def test_numbers_of_masked_atoms_and_edges(fraction: float) -> None:
    sizes = list(range(1, 71))
    batch = uniform_batch(sizes, 1)
    atoms = mask_atoms(batch, mix(batch.material_key, 0), fraction)
    hundredths = round(100 * fraction)
    expected = [max(1, hundredths * n // 100) for n in sizes]
    assert torch.zeros(len(sizes)).index_add(0, batch.batch, atoms.float()).tolist() == expected
    for n in range(31):
        edges = mask_edges(uniform_batch([3, 2], n), torch.tensor([1, 2]), fraction)
        assert edges.view(5, n).sum(1).tolist() == [n + (-(100 - hundredths) * n) // 100] * 5


def test_no_fraction_masks_nothing() -> None:
    batch = random_batch(4)
    assert not mask_atoms(batch, batch.material_key, 0.0).any()
    assert not mask_edges(batch, batch.material_key, 0.0).any()


def test_a_view_does_not_depend_on_the_rest_of_the_batch() -> None:
    batch = random_batch(12)
    atoms, edges = draw(batch)
    for start, stop in [(0, 1), (3, 4), (5, 11), (11, 12)]:
        part_atoms, part_edges = draw(take(batch, start, stop))
        first, last = int(batch.ptr[start]), int(batch.ptr[stop])
        assert torch.equal(part_atoms, atoms[first:last])
        assert torch.equal(part_edges, edges[int(batch.edge_ptr[first]) : int(batch.edge_ptr[last])])


def test_views_differ_between_seeds_epochs_and_views_and_are_repeatable() -> None:
    batch = uniform_batch([40] * 8, 12)
    drawn = [draw(batch, *key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, -1, 0)]]
    for which in (0, 1):
        masks = [pair[which] for pair in drawn]
        assert all(not torch.equal(a, b) for k, a in enumerate(masks) for b in masks[:k])
        # 10 % of two independent draws coincide; the same draw would coincide in all.
        overlap = (masks[0] & masks[3]).sum() / masks[0].sum()
        assert overlap < 0.3
    for one, two in zip(drawn[0], draw(batch, 0, 0, 0), strict=True):
        assert torch.equal(one, two)


def chi_square(counts: Tensor) -> float:
    expected = counts.double().mean()
    return float(((counts - expected).square() / expected).sum())


def test_every_atom_and_edge_is_as_likely_as_any_other() -> None:
    """Chi-square of 20,000 draws; choosing without replacement only makes it smaller.

    0.999 quantile for k - 1 degrees of freedom, by Wilson and Hilferty; the seed is fixed.
    """
    draws = 20_000
    batch = uniform_batch([10] * draws, 12)
    atoms, edges = draw(batch, seed=3)
    for counts in (atoms.view(draws, 10).sum(0), edges.view(draws, 10, 12).sum((0, 1)), edges.view(draws, 120).sum(0)):
        freedom = len(counts) - 1
        limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
        assert chi_square(counts) < limit
    # The masked atom is independent of its masked edges: mixing the counters leaves no correlation.
    first = edges.view(draws, 10, 12)[atoms.view(draws, 10)]
    freedom = 11
    assert chi_square(first.sum(0)) < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


def test_padding_is_neither_counted_nor_chosen() -> None:
    for padded in range(13):
        batch = uniform_batch([6, 5], 12, padded)
        edges = mask_edges(batch, mix(batch.material_key, 4), 0.25, cutoff=8.0).view(11, 12)
        assert not edges[:, 12 - padded :].any()
        assert edges.sum(1).tolist() == [math.floor(0.25 * (12 - padded))] * 11


def stacked(batch: Batch, *, reroute: bool) -> tuple[Tensor, list[tuple[Tensor, Tensor]], list[tuple]]:
    masks = [draw(batch, view=v) for v in (0, 1)]
    basis = torch.rand(len(batch.distance), 5) + 0.1
    features = (basis, torch.arange(len(basis)))
    numbers, edges = stack_views(batch, features, [a for a, _ in masks], [e for _, e in masks], reroute=reroute)
    assert edges.num_views == 2
    assert torch.equal(edges.center, torch.arange(edges.num_atoms).repeat_interleave(edges.edge_ptr.diff()))
    found = list(zip(edges.neighbor.tolist(), edges.center.tolist(), edges.basis[edges.row].tolist(), strict=True))
    expected = []
    for view, (_, mask) in enumerate(masks):
        for k, (source, center) in enumerate(batch.edge_index.T.tolist()):
            offset = view * batch.num_nodes
            if not mask[k]:
                expected.append((source + offset, center + offset, basis[k].tolist()))
            elif reroute:
                first = int(batch.ptr[batch.batch[center]])
                expected.append((first + offset, center + offset, [0.0] * 5))
    assert found == expected
    return numbers, masks, found


def test_removed_edges_are_absent_and_masked_atoms_are_number_zero() -> None:
    batch = random_batch(6)
    numbers, masks, found = stacked(batch, reroute=False)
    assert len(found) < 2 * len(batch.distance)
    for row, (atoms, _) in zip(numbers.view(2, -1), masks, strict=True):
        assert torch.equal(row == 0, atoms)
        assert torch.equal(row[~atoms], batch.atomic_numbers[~atoms])


def test_rerouted_edges_lead_to_the_first_atom_without_features() -> None:
    batch = random_batch(6)
    _, _, found = stacked(batch, reroute=True)
    assert len(found) == 2 * len(batch.distance)
