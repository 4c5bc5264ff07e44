"""The benchmark's baseline equals the published procedure (otherwise the comparison is meaningless)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import published_procedure as published
import pytest
import torch
from ase.build import bulk
from ase.io import write
from ase.neighborlist import neighbor_list
from pymatgen.core import Structure

ELEMENTS = {z: row for z, row in enumerate(np.random.default_rng(0).integers(0, 2, (101, 92)).astype(np.float32)) if z}


@pytest.fixture(scope="module")
def cif(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen atoms without symmetry, so that no two distances tie."""
    atoms = bulk("NaCl", "rocksalt", a=5.64).repeat(2)
    atoms.rattle(0.1, seed=1)
    path = tmp_path_factory.mktemp("cif") / "nacl.cif"
    write(path, atoms)
    return path


def test_parameter_count_is_the_published_one() -> None:
    assert sum(parameter.numel() for parameter in published.Reference(200).parameters()) == 1_225_692


def test_edges_are_the_twelve_nearest_neighbors(cif: Path) -> None:
    in_order_of_pymatgen = Structure.from_file(cif).to_ase_atoms()
    center, neighbor, distance = neighbor_list("ijd", in_order_of_pymatgen, published.CUTOFF)
    sample = published.load_crystal(cif, ELEMENTS, np.random.default_rng(0))
    for i, edges in enumerate(sample.crystal.edges.numpy()):
        own = np.flatnonzero(center == i)
        own = own[np.argsort(distance[own])][:12]
        assert sample.crystal.neighbors[i].tolist() == neighbor[own].tolist()
        expected = np.exp(-(((distance[own][:, None] - np.arange(41) * 0.2) / 0.2) ** 2))
        # The features are float32, and the CIF's coordinates have about eight digits.
        np.testing.assert_allclose(edges, expected, atol=1e-6)
        counts = np.bincount(neighbor[own], minlength=16).clip(max=5)
        assert sample.connectivity[i].tolist() == counts.tolist()


def test_views_mask_one_atom_in_ten_and_one_edge_in_twelve(cif: Path) -> None:
    sample = published.load_crystal(cif, ELEMENTS, np.random.default_rng(0))
    first, second = sample.views
    for view in (first, second):
        assert (view.atoms.sum(dim=1) == 0).sum() == 1
        rerouted = view.edges.sum(dim=2) < 1e-9
        assert rerouted.sum(dim=1).tolist() == [1] * 16
        assert view.neighbors[rerouted].tolist() == [0] * 16
    assert not torch.equal(first.neighbors, second.neighbors)


def test_an_isolated_atom_is_padded_with_featureless_edges(tmp_path: Path) -> None:
    path = tmp_path / "he.cif"
    write(path, bulk("He", "sc", a=20.0))
    sample = published.load_crystal(path, ELEMENTS, np.random.default_rng(0))
    assert sample.crystal.neighbors.tolist() == [[0] * 12]
    assert sample.crystal.edges.max() < 1e-9
    assert sample.connectivity.tolist() == [[5]]


def test_bilinear_decoder_is_asymmetric_and_in_row_major_order(cif: Path) -> None:
    sample = published.load_crystal(cif, ELEMENTS, np.random.default_rng(0))
    batch = published.collate([sample, sample])
    torch.manual_seed(0)
    model = published.Reference(8).double()
    h = torch.randn(32, 8, dtype=torch.float64)
    classes, _ = model.decode(h, batch.ranges)
    unit = h[16:] / h[16:].norm(dim=1, keepdim=True)
    scores = torch.einsum("id,kde,je->ijk", unit, model.bilinear.weight, unit) + model.bilinear.bias
    expected = model.classifier(scores).log_softmax(dim=-1)
    torch.testing.assert_close(classes[256:].view(16, 16, 6), expected)
    assert batch.connectivity[256:].tolist() == sample.connectivity.flatten().tolist()


def test_training_reduces_the_loss(cif: Path) -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = published.Reference(16)
    optimizer = published.make_optimizer(model)
    batch = published.collate([published.load_crystal(cif, ELEMENTS, rng) for _ in range(4)])
    steps = [published.train_step(model, optimizer, batch) for _ in range(10)]
    assert steps[0]["features"] == pytest.approx(np.log(2), abs=0.02)
    assert steps[-1]["connectivity"] < steps[0]["connectivity"]
    assert steps[-1]["features"] < 0.7 * steps[0]["features"]
