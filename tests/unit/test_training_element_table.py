"""Vectors from decoders: their inner products are covariances of scores, and they do not depend on parts of batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crysatom.training.element_table import covariance_of, decoded_vectors, root
from crysatom.training.pretrain import PretrainData, build
from crysatom.vectors.elements import element_features
from tests.small_runs import data_of, make_shards, one_thread, tiny  # noqa: F401


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), count=30)


def model_and_data(shards: Path, **options: Any) -> tuple[Any, PretrainData]:
    config = tiny(element_weight=1.0, mask_unit="element", extraction="decoder", batch_size=9, **options)
    model = build(config, element_features(config.encoder.node_features)).double()
    return model, data_of(config, shards)


def test_inner_products_are_covariances_of_scores(shards: Path) -> None:
    """float64, sums of a hundred atoms in another order: 1e-12 of values of order one."""
    model, data = model_and_data(shards)
    model.train()
    scores, weights = [], []
    with torch.no_grad():
        for batch in data.everything.epoch(0):
            batch.distance = batch.distance.double()
            masked, _ = model.masks(batch, 4)
            h = model.encode(batch, *model.masks(batch, 4))[1:]
            for view, hidden in zip(h, masked, strict=True):
                scores.append(model.element(view[hidden]))
                crystal = batch.batch[hidden]
                weights.append(1 / torch.bincount(crystal)[crystal].double())
    expected = np.cov(torch.cat(scores).T.numpy(), aweights=torch.cat(weights).numpy(), ddof=0)
    _, covariance = covariance_of(model, InDouble(data.everything), 4, 0)
    vectors = model.element.rows.detach().numpy() @ root(covariance)
    np.testing.assert_allclose(vectors @ vectors.T, expected, rtol=0, atol=1e-12 * np.abs(expected).max() + 1e-12)


class InDouble:
    """A loader whose distances are float64."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def epoch(self, number: int) -> Any:
        for batch in self.loader.epoch(number):
            batch.distance = batch.distance.double()
            yield batch


@pytest.mark.parametrize("bond_weight", [0.0, 0.5])
def test_parts_of_batches_change_nothing(bond_weight: float, shards: Path) -> None:
    """float64; 1e-9 of the largest entry: eigenvectors amplify rounding by the ratio of value and gap."""
    model, data = model_and_data(shards, bond_weight=bond_weight)
    whole, parts = (decoded_vectors(model, InDouble(data.everything), 4, limit) for limit in (0, 60))  # type: ignore[arg-type]
    np.testing.assert_array_equal(whole.atomic_numbers, parts.atomic_numbers)
    products = [table.vectors.astype(np.float64) @ table.vectors.T.astype(np.float64) for table in (whole, parts)]
    np.testing.assert_allclose(*products, rtol=0, atol=1e-6 * np.abs(products[0]).max())  # float32 vectors


def test_vectors_have_the_length_asked_for(shards: Path) -> None:
    """Also with more dimensions than elements, when the others are zero."""
    for dim in (4, 90):
        model, data = model_and_data(shards, embedding_dim=dim, bond_weight=0.5)
        table = decoded_vectors(model, InDouble(data.everything), 4)  # type: ignore[arg-type]
        assert table.dim == dim
        lengths = np.linalg.norm(table.vectors, axis=0)
        used = min(dim, len(table.symbols) - 1)
        assert (lengths[:used] > 0).all()
        assert (np.diff(lengths) <= 1e-6 * lengths[0]).all(), "the largest component is first"


def test_the_statistics_of_the_encoder_stay(shards: Path) -> None:
    model, data = model_and_data(shards)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decoded_vectors(model, InDouble(data.everything), 4)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
