"""Small real trainings of a predictor for tests: volumes per atom of embedded crystals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crysatom.config import DownstreamConfig
from crysatom.inputs.labels import Labeled, labeled
from tests.small_runs import make_shards

SMALL: dict[str, Any] = {
    "vectors": "onehot",
    "width": 8,
    "num_layers": 2,
    "hidden_dim": 8,
    "batch_size": 9,
    "epochs": 4,
    "num_workers": 0,
}


def tiny(**options: Any) -> DownstreamConfig:
    """Return a configuration whose epoch takes milliseconds."""
    return DownstreamConfig.of(**{**SMALL, **options})


def volumes(folder: Path, config: DownstreamConfig, count: int = 50) -> Labeled:
    """Return volumes per atom of some small crystals, read as in the job."""
    if not (folder / "graphs").exists():
        make_shards(folder, count=count)
    return labeled(config, folder / "graphs", folder / "crystals.parquet", "")
