"""Recipe ``paper`` equals the published procedure: same losses, same gradients.

The reference is benchmarks/published_procedure.py: loops over crystals, every pair of atoms and every edge
materialized, torch's own batch normalization. Both have the same weights, crystals and masks, in float64.
Tolerance: 1e-10 relative to the largest entry, a hundred times the observed rounding through five layers.
"""

from __future__ import annotations

import re

import published_procedure as published
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.config import PretrainConfig, paper
from crysatom.names import CONNECTIVITY, FEATURES, LOSS, SSL
from crysatom.nn.bases import gaussian_centers
from crysatom.nn.hashing import mix
from crysatom.ssl.objective import Objective
from crysatom.ssl.views import mask_atoms, mask_edges
from tests.synthetic import make_batch

WIDTH = 10
EPOCH = 4
TOLERANCE = 1e-10
NAMES = {
    "encoder.embedding": "embedding",
    "encoder.convs": "convolutions",
    "fc_full": "linear",
    "bn1": "edge_norm",
    "bn2": "node_norm",
    "connectivity.bilinear": "bilinear",
    "connectivity.mix": "classifier",
    "features": "feature_decoder",
}
"""Our parameter names and those of the published procedure."""


def _padded_batch(generator: torch.Generator) -> Batch:
    """Return crystals of 1 to 21 atoms with 12 edges each; a few have found fewer neighbors."""
    sizes = torch.tensor([1, 2, 21, 5, 8, 4, 13])
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    first = ptr[:-1].repeat_interleave(sizes)
    num_atoms = len(first)
    found = torch.where(torch.rand(num_atoms, generator=generator) < 0.2, 9, 12)
    found[:2] = torch.tensor([0, 10])
    padding = torch.arange(12) >= found[:, None]
    own = torch.rand(num_atoms, 12, generator=generator) * sizes.repeat_interleave(sizes)[:, None]
    distance = torch.rand(num_atoms, 12, generator=generator, dtype=torch.float64) * 4 + 2
    neighbor = first[:, None] + own.long().masked_fill(padding, 0)
    return make_batch(
        ptr=ptr,
        atomic_numbers=torch.randint(1, 101, (num_atoms,), generator=generator),
        degree=torch.full((num_atoms,), 12),
        edge_ptr=torch.arange(num_atoms + 1) * 12,
        edge_index=torch.stack([neighbor.flatten(), torch.arange(num_atoms).repeat_interleave(12)]),
        distance=distance.masked_fill(padding, published.PADDING_DISTANCE).flatten(),
        material_key=torch.randint(-(2**62), 2**62, (len(sizes),), generator=generator),
    )


def _their_batch(model: Objective, batch: Batch) -> published.Batch:
    ranges = [range(int(a), int(b)) for a, b in zip(batch.ptr[:-1], batch.ptr[1:], strict=True)]
    neighbors, atoms = batch.edge_index[0].view(-1, 12), model.encoder.features[batch.atomic_numbers]
    first_atom = batch.ptr[batch.batch]
    features, row = model.encoder.basis(batch.distance)
    edges = features[row].view(-1, 12, 41)
    views = []
    for view in range(2):
        stream = mix(mix(mix(batch.material_key, model.config.seed), EPOCH), view)
        masked = mask_atoms(batch, stream, model.config.views.atom_mask_fraction)
        dropped = mask_edges(
            batch, mix(stream, 1), model.config.views.edge_mask_fraction, model.config.graph.cutoff
        ).view(-1, 12)
        views.append(
            published.Graph(
                atoms.masked_fill(masked[:, None], 0.0),
                torch.where(dropped, first_atom[:, None], neighbors),
                edges.masked_fill(dropped[:, :, None], 0.0),
            )
        )
    counts = [published._connectivity((neighbors[r.start : r.stop] - r.start).numpy()).flatten() for r in ranges]
    return published.Batch(
        crystal=published.Graph(atoms, neighbors, edges),
        views=(views[0], views[1]),
        connectivity=torch.cat(counts),
        ranges=ranges,
    )


def _their_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = re.sub(rf"(^|(?<=\.)){re.escape(ours)}(?=\.)", theirs, name)
    return name


def _config() -> PretrainConfig:
    return paper().replace(node_features="elements", embedding_dim=WIDTH)


@pytest.fixture(scope="module")
def both() -> tuple[Objective, dict[str, Tensor], published.Reference, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    features = (torch.rand(100, 92, generator=generator) < 0.1).float()
    torch.manual_seed(3)
    ours = Objective(_config(), features, torch.arange(1, 101)).double()
    ours.encoder.centers = gaussian_centers(8.0)
    theirs = published.Reference(WIDTH).double()
    theirs.load_state_dict({_their_name(name): p for name, p in ours.named_parameters()}, strict=False)
    batch = _padded_batch(generator)
    our_terms = ours(batch, EPOCH)
    our_terms[LOSS].backward()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        their_terms = published.losses(theirs, _their_batch(ours, batch))
    finally:
        torch.set_default_dtype(default)
    their_terms["loss"].backward()
    return ours, our_terms, theirs, their_terms


def test_every_parameter_has_its_counterpart(both: tuple[Objective, dict, published.Reference, dict]) -> None:
    ours, _, theirs, _ = both
    shapes = {_their_name(name): p.shape for name, p in ours.named_parameters()}
    assert shapes == {name: p.shape for name, p in theirs.named_parameters()}


@pytest.mark.parametrize("term", [LOSS, CONNECTIVITY, FEATURES, SSL])
def test_losses_are_equal(both: tuple[Objective, dict, published.Reference, dict], term: str) -> None:
    _, our_terms, _, their_terms = both
    assert our_terms[term].item() == pytest.approx(their_terms[term].item(), rel=TOLERANCE)


def test_gradients_are_equal(both: tuple[Objective, dict, published.Reference, dict]) -> None:
    ours, _, theirs, _ = both
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    compared = 0
    for name, parameter in ours.named_parameters():
        reference = expected[_their_name(name)]
        if name.endswith("fc_full.bias"):
            # Before a batch normalization: zero except for rounding, and not trained by us.
            assert reference.abs().max() < 1e-10 * max(g.abs().max() for g in expected.values())
            continue
        scale = reference.abs().max().item()
        torch.testing.assert_close(parameter.grad, reference, rtol=0, atol=TOLERANCE * scale, msg=name)
        compared += 1
    assert compared == len(expected) - _config().encoder.num_layers
