"""Identity of a run: its settings and the content of its data, wherever it is stored."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from crysatom.config import PretrainConfig, digest
from crysatom.graphs.shards import read_manifest
from crysatom.names import SYMBOLS
from crysatom.pipelines.pretraining import default_name, input_digest
from crysatom.vectors.files import write_vectors
from crysatom.vectors.table import AtomVectors
from tests.small_runs import make_shards


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), count=6)


def name_of(config: PretrainConfig) -> str:
    return default_name(config, input_digest(config, read_manifest(config.source.data)))


def test_the_same_shards_elsewhere_are_the_same_run(shards: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shards, tmp_path / "copy")
    assert name_of(PretrainConfig.of(data=str(copy))) == name_of(PretrainConfig.of(data=str(shards)))


def test_other_data_or_settings_are_another_run(shards: Path, tmp_path: Path) -> None:
    config = PretrainConfig.of(data=str(shards))
    fewer = config.replace(data=str(make_shards(tmp_path, count=4)))
    faster = config.replace(lr=0.01)
    assert len({name_of(c) for c in (config, fewer, faster)}) == 3
    assert digest(fewer) == digest(config), "the same settings, to compare data sets by"


def test_the_digest_is_of_all_shards_and_of_no_settings(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, count=6, crystals_per_shard=3)
    config, manifest = PretrainConfig.of(data=str(folder)), read_manifest(folder)
    known = input_digest(config, manifest)
    assert input_digest(config.replace(lr=0.01, seed=5, embedding_dim=8), manifest) == known
    for shard in manifest["shards"]:
        other = {**manifest, "shards": [{**s, "sha256": "0" * 64} if s is shard else s for s in manifest["shards"]]}
        assert input_digest(config, other) != known


def features_file(folder: Path, symbols: str, rows: np.ndarray) -> str:
    numbers = np.array([SYMBOLS.index(symbol) + 1 for symbol in symbols.split()])
    write_vectors(AtomVectors(atomic_numbers=numbers, vectors=rows.astype(np.float32)), folder)
    return str(folder / "vectors.csv")


def test_features_are_identified_by_their_content(shards: Path, tmp_path: Path) -> None:
    rows = np.arange(8).reshape(2, 4) / 8
    files = [
        features_file(tmp_path / "a", "Na Cl", rows),
        features_file(tmp_path / "elsewhere", "Na Cl", rows),
        features_file(tmp_path / "values", "Na Cl", rows[::-1]),
        features_file(tmp_path / "elements", "Na Br", rows),
    ]
    names = [name_of(PretrainConfig.of(data=str(shards), node_features=file)) for file in files]
    assert names[0] == names[1]
    assert len(set(names)) == 3
