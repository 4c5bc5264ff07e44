"""For any sizes of shards and batches, every atom of every crystal is extracted, counted and loaded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crysatom.cluster.data import streamed_data
from crysatom.config import PretrainConfig
from crysatom.graphs.shards import load, load_atoms, shard_files
from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.pipelines.pretraining import crystals_per_element
from crysatom.training.context import PlainContext
from crysatom.training.loaders import Loader
from crysatom.training.pretrain import build, extract, pretrain, resident_data
from crysatom.vectors.counts import Counts, count_file
from crysatom.vectors.elements import element_features
from tests.graph_crystals import small
from tests.small_runs import CPU, data_of, make_shards, one_thread, tiny  # noqa: F401

COUNT = 20


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_shards(tmp_path_factory.mktemp("shards"), count=COUNT, crystals_per_shard=6)
    assert len(shard_files(folder)) == 4, "the last has two crystals"
    return folder


@pytest.fixture(scope="module", name="sites")
def _sites() -> np.ndarray:
    """Number of atoms of each element in the crystals."""
    return np.bincount(np.concatenate([c.atomic_numbers for c in small(8, COUNT)]), minlength=MAX_ATOMIC_NUMBER + 1)


def everything(loader: str, config: PretrainConfig, shards: Path) -> Loader:
    """Return the loader of all crystals from which a pretraining extracts vectors."""
    return {"resident": resident_data, "streamed": streamed_data}[loader](config, shards, CPU).everything


@pytest.mark.parametrize("loader", ["resident", "streamed"])
@pytest.mark.parametrize("batch_size", [2, 7, 9, 19, 20, 64])
def test_every_atom_is_extracted(loader: str, batch_size: int, shards: Path, sites: np.ndarray) -> None:
    config = tiny(batch_size=batch_size)
    torch.manual_seed(0)
    model = build(config, element_features(config.encoder.node_features))
    table = extract(model, everything(loader, config, shards))
    assert table.atomic_numbers.tolist() == np.flatnonzero(sites).tolist()
    assert table.site_counts is not None
    assert table.site_counts.tolist() == sites[sites > 0].tolist()
    at_once = extract(model, everything("resident", tiny(batch_size=COUNT), shards))
    np.testing.assert_allclose(table.vectors, at_once.vectors, rtol=1e-4, atol=1e-6)


def test_the_published_table_counts_the_atoms_that_were_trained_on(shards: Path, tmp_path: Path) -> None:
    config = tiny(extraction="algorithm_1", epochs=2, batch_size=7)
    data = data_of(config, shards)
    outcome = pretrain(config, data, PlainContext(tmp_path))
    trained = np.concatenate([batch.atomic_numbers.numpy() for batch in data.train.epoch(1)])
    assert outcome.vectors.site_counts is not None
    assert outcome.vectors.site_counts.sum() == len(trained)


def test_a_decoder_gives_rows_to_the_elements_of_all_crystals(shards: Path, sites: np.ndarray, tmp_path: Path) -> None:
    config = tiny(extraction="decoder", element_weight=1.0, mask_unit="element", epochs=1, holdout_fraction=0.3)
    vectors = pretrain(config, data_of(config, shards), PlainContext(tmp_path)).vectors
    assert vectors.site_counts is not None
    assert dict(zip(vectors.atomic_numbers, vectors.site_counts, strict=True)) == {
        z: sites[z] for z in np.flatnonzero(sites)
    }
    assert np.linalg.norm(vectors.vectors, axis=1).min() > 0.1


def test_every_crystal_is_counted(shards: Path, sites: np.ndarray) -> None:
    crystals = small(8, COUNT)
    holding = np.bincount(np.concatenate([np.unique(c.atomic_numbers) for c in crystals]), minlength=len(sites))
    assert crystals_per_element(shards) == {int(z): int(holding[z]) for z in np.flatnonzero(holding)}
    counts = Counts.total(count_file(file, 0.15, 8.0) for file in shard_files(shards))
    assert counts.crystals == COUNT
    assert counts.sites.tolist() == sites[1:].tolist()
    assert counts.crystals_of.tolist() == holding[1:].tolist()


def test_every_crystal_is_loaded(shards: Path) -> None:
    names = [c.material_id for c in small(8, COUNT)]
    assert load(shards).material_ids.tolist() == names
    assert load_atoms(shards)[0].tolist() == names
