"""A run's data in MLflow: its name and digest, in the column of data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

from crysatom.tracking.fields import DATA, DATA_DIGEST

_DIGEST_LENGTH = 36
"""Characters of a digest that MLflow keeps."""


def data_name(data: str) -> str:
    """Return a short name of data: the last part of their path that is specific."""
    if "/" not in data and not data.endswith(".parquet"):
        return data  # the name of a source
    path = PurePath(data)
    return (path.parent if path.stem in {"crystals", "graphs"} and path.parent.name else path).stem


def log_dataset(mlflow: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Log a run's data as a data set, if its tags name them; repeating it changes nothing."""
    data, digest = tags.get(DATA, ""), tags.get(DATA_DIGEST, "")
    if not (data_name(data) and digest):
        return
    source = json.dumps({"uri": data})
    known = Dataset(name=data_name(data), digest=digest[:_DIGEST_LENGTH], source_type="local", source=source)
    mlflow.log_inputs(run_id, [DatasetInput(known, [InputTag("mlflow.data.context", "training")])])
