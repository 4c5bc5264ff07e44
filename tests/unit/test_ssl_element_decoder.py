"""The table of element vectors: masks of whole elements, and its losses against sums over single atoms and bonds.

float64; tolerance 1e-12 relative to values of order one: sums in another order.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig
from crysatom.names import BONDS, MASKING
from crysatom.nn.hashing import mix
from crysatom.ssl.element_decoder import BOND_SPREAD, BOND_TOLERANCE, MOST_BONDS, BondDecoder, ElementDecoder
from crysatom.ssl.views import mask_element
from crysatom.training.pretrain import build
from crysatom.vectors.elements import element_features
from tests.graph_crystals import batch_of, small, supercell
from tests.small_runs import one_thread, tiny  # noqa: F401
from tests.synthetic import random_batch, take

WIDTH = 5
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
SPEC = PretrainConfig().graph
CUTOFF = SPEC.cutoff


@pytest.fixture(name="crystals")
def _crystals() -> Batch:
    return batch_of(small(12, 20), SPEC)


def stream_of(batch: Batch, draw: int = 0) -> Tensor:
    return mix(batch.material_key, draw)


def test_a_mask_holds_all_atoms_of_one_element(crystals: Batch) -> None:
    masked = mask_element(crystals, stream_of(crystals))
    for crystal in range(crystals.num_graphs):
        numbers, hidden = (x[crystals.batch == crystal] for x in (crystals.atomic_numbers, masked))
        [element] = numbers[hidden].unique()
        assert torch.equal(hidden, numbers == element)


def test_each_element_of_a_crystal_is_masked_equally_often(crystals: Batch) -> None:
    """Shares over 3,000 draws; five standard deviations of a share are at most 0.046."""
    crystal = next(i for i in range(crystals.num_graphs) if len(elements_of(crystals, i)) == 3)
    one = take(crystals, crystal, crystal + 1)
    drawn = Counter(int(one.atomic_numbers[mask_element(one, stream_of(one, draw))][0]) for draw in range(3000))
    assert drawn.keys() == set(elements_of(crystals, crystal))
    assert max(abs(count / 3000 - 1 / 3) for count in drawn.values()) < 0.046


def elements_of(batch: Batch, crystal: int) -> list[int]:
    return batch.atomic_numbers[batch.batch == crystal].unique().tolist()


def test_a_supercell_has_the_same_masked_element_and_the_same_losses() -> None:
    """Distances are float32, computed for another cell: 1e-5 relative to losses of order one."""
    cells = small(8, 12)
    first, second = batch_of(cells, SPEC), batch_of([supercell(c, (2, 1, 1)) for c in cells], SPEC)
    second.material_key = first.material_key
    masked = [mask_element(batch, stream_of(batch)) for batch in (first, second)]
    chosen = [
        [elements_of_mask(batch, mask, i) for i in range(len(cells))]
        for batch, mask in zip((first, second), masked, strict=True)
    ]
    assert chosen[0] == chosen[1]
    torch.manual_seed(0)
    decoder, rows = BondDecoder(WIDTH), torch.randn(118, WIDTH)
    losses = [decoder.loss(rows, batch, CUTOFF) for batch in (first, second)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def elements_of_mask(batch: Batch, mask: Tensor, crystal: int) -> list[int]:
    return batch.atomic_numbers[mask & (batch.batch == crystal)].unique().tolist()


def test_the_loss_of_elements_is_the_mean_over_crystals_of_means_over_atoms() -> None:
    batch = random_batch(7, dtype=torch.float64)
    torch.manual_seed(0)
    decoder = ElementDecoder(WIDTH).double()
    views = torch.randn(2, batch.num_nodes, WIDTH, dtype=torch.float64)
    masked = torch.stack([mask_element(batch, stream_of(batch, view)) for view in range(2)])
    errors = []
    for h, hidden in zip(views, masked, strict=True):
        surprise = -decoder(h).log_softmax(1)[torch.arange(len(h)), batch.atomic_numbers.long() - 1]
        errors += [surprise[hidden & (batch.batch == i)].mean() for i in range(batch.num_graphs)]
    torch.testing.assert_close(decoder.loss(views, masked, batch), torch.stack(errors).mean(), **TOLERANCE)


def test_the_loss_of_bonds_is_a_sum_over_single_bonds() -> None:
    batch = random_batch(6, dtype=torch.float64)
    torch.manual_seed(0)
    decoder, rows = BondDecoder(WIDTH).double(), torch.randn(118, WIDTH, dtype=torch.float64)
    nn.init.normal_(decoder.coordination.weight)
    batch.distance = 2 + batch.distance / batch.distance.max()
    batch.distance[batch.edge_index[1] == 0] = CUTOFF + 1  # padding is no bond
    source, center = batch.edge_index.tolist()
    lengths = batch.distance.tolist()
    around: dict[int, list[int]] = {}
    for edge, atom in enumerate(center):
        around.setdefault(atom, []).append(edge)
    bonds = {
        atom: [e for e in edges if lengths[e] <= (1 + BOND_TOLERANCE) * min(lengths[k] for k in edges)]
        for atom, edges in around.items()
        if min(lengths[k] for k in edges) <= CUTOFF
    }
    z = batch.atomic_numbers.tolist()
    per_crystal: dict[int, list[float]] = {}
    for atom, edges in bonds.items():
        squares = []
        for edge in edges:
            i, j = rows[z[source[edge]] - 1], rows[z[atom] - 1]
            p, q = decoder.left.weight, decoder.right.weight
            predicted = decoder.size(i) + decoder.size(j) + ((p @ i) @ (q @ j) + (p @ j) @ (q @ i)) / 2
            for end in (source[edge], atom):
                predicted = predicted + decoder.coordination.weight[min(len(bonds.get(end, [])), MOST_BONDS)]
            squares.append(((float(predicted.detach()) - math.log(lengths[edge])) / BOND_SPREAD) ** 2 / 2)
        per_crystal.setdefault(int(batch.batch[atom]), []).append(float(np.mean(squares)))
    expected = np.mean([np.mean(values) for values in per_crystal.values()])
    assert decoder.loss(rows, batch, CUTOFF).item() == pytest.approx(expected, rel=1e-12)


def test_bond_lengths_that_are_sums_of_radii_are_learned() -> None:
    """1 % in a length is 0.005 of this loss; the loss of a constant is some hundred times larger."""
    batch = random_batch(40, dtype=torch.float64)
    radii = torch.linspace(0.5, 2, 119, dtype=torch.float64)
    source, center = batch.edge_index
    numbers = batch.atomic_numbers.long()
    batch.distance = radii[numbers[source]] * radii[numbers[center]]  # ln d is then a sum
    torch.manual_seed(0)
    table, decoder = ElementDecoder(WIDTH).double(), BondDecoder(WIDTH).double()
    optimizer = torch.optim.Adam([*table.parameters(), *decoder.parameters()], lr=0.02)
    losses = []
    for _ in range(600):
        loss = decoder.loss(table.rows, batch, CUTOFF)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.005
    assert losses[0] > 0.5


def test_the_objective_has_only_the_terms_asked_for(crystals: Batch) -> None:
    def terms(**options: object) -> set[str]:
        config = tiny(**options)
        model = build(config, element_features(config.encoder.node_features))
        return set(model(crystals, 0))

    assert not {MASKING, BONDS} & terms()
    assert {MASKING, BONDS} <= terms(element_weight=0.5, bond_weight=0.1)
    assert {MASKING, BONDS} & terms(ssl_loss="none", bond_weight=0.1) == {BONDS}


def test_a_term_has_its_weight(crystals: Batch) -> None:
    def loss_and_term(weight: float) -> tuple[float, float]:
        config = tiny(element_weight=weight)
        found = build(config, element_features(config.encoder.node_features))(crystals, 0)
        return found["loss"].item(), found[MASKING].item()

    (one, term), (two, _) = loss_and_term(0.5), loss_and_term(1.5)
    assert two - one == pytest.approx(term, rel=1e-4)
