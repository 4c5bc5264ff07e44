"""Runs as read from MLflow, for tests that need many or unusual ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from crysatom.tracking.reading import TrackedRun


def tracked(number: int, **changes: Any) -> TrackedRun:
    """Return a finished training of a predictor; ``number`` is its seed by default."""
    tags = {
        "data": "data/mine/crystals.parquet",
        "data_digest": "d1",
        "predictor": "cgcnn",
        "property": "density",
        "unit": "g/cm^3",
        "vectors": "onehot",
        "vectors_digest": "v1",
        "seed": str(number),
        "split": "random:seed=0",
    }
    metrics = {"test/mae": 1.0 + number, "test/mae_low": 0.5 + number, "test/mae_high": 1.5 + number, "num_train": 20.0}
    values: dict[str, Any] = {
        "run_id": f"{number:032x}",
        "experiment_id": "1",
        "experiment": "mine",
        "name": f"run-{number}",
        "status": "FINISHED",
        "started": datetime(2026, 11, 25, tzinfo=UTC) + timedelta(minutes=number),
        "seconds": 60.0,
        "params": {"lr": "0.003", "epochs": "2", "out": f"place{number}", "seeds": f"({number},)"},
        "parent": "",
        "tags": {**tags, **changes.pop("tags", {})},
        "metrics": {**metrics, **changes.pop("metrics", {})},
    }
    return TrackedRun(**{**values, **changes})
