"""Small real pretrainings for tests: crystals, shards, configurations, and comparable metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from crysatom.config import DownstreamConfig, FeaturizeConfig, PretrainConfig
from crysatom.graphs.featurize import featurize_plain
from crysatom.inputs.graphs import prepare
from crysatom.training.pretrain import PretrainData, resident_data
from tests.graph_crystals import small, write_table

CPU = torch.device("cpu")
TIMINGS = {"seconds", "crystals_per_second", "data_wait_share"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread. Import this where batches are small: a second thread only waits, on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_shards(folder: Path, *, count: int = 20, max_atoms: int = 8, **graph: Any) -> Path:
    """Featurize some small embedded crystals; return the folder of shards."""
    write_table(folder / "crystals.parquet", small(max_atoms, count))
    featurize_plain(FeaturizeConfig.of(data=str(folder / "crystals.parquet"), out=str(folder / "graphs"), **graph))
    return folder / "graphs"


def tiny(**options: Any) -> PretrainConfig:
    """Return a configuration whose epoch takes milliseconds."""
    base = {
        "embedding_dim": 8,
        "num_layers": 2,
        "projection_dim": 4,
        "batch_size": 5,
        "epochs": 4,
        "holdout_fraction": 0.2,
        "num_workers": 0,
    }
    return PretrainConfig.of(**{**base, **options})


def prepared(config: PretrainConfig | DownstreamConfig, out: Path) -> Path:
    """Build the graphs that a configuration asks for, as its job does."""
    how = {"num_workers": config.workers.num_workers, "resume": config.output.resume}
    return prepare(config.source, config.limits, config.graph, out, **how)


def data_of(config: PretrainConfig, shards: Path) -> PretrainData:
    return resident_data(config, shards, CPU)


def comparable(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the metrics that do not depend on the speed of the machine."""
    return [{k: v for k, v in metrics.items() if k not in TIMINGS} for metrics in history]
