"""Data of a run in MLflow: the digest of the training data, and the number of crystals of each part.

They are read from the journal, which is written before anything is sent. There is no MLflow store here, since making
one takes seconds; tests/integration/test_tracking.py tests that a journal arrives.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crysatom.config import VectorsConfig, digest
from crysatom.graphs.shards import read_manifest
from crysatom.inputs.labels import labeled
from crysatom.names import TEST, TRAIN, VAL
from crysatom.pipelines import downstream, pretraining, vectors
from crysatom.tracking.journal import Journal
from crysatom.training.intervals import UNKNOWN
from crysatom.vectors.card import CARD_MD
from tests import small_regressions
from tests.small_runs import make_shards, one_thread, prepared, tiny  # noqa: F401


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    make_shards(folder, count=50, crystals_per_shard=20)
    return folder


@pytest.fixture(name="away")
def _away(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def told(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the tags and the last value of each metric."""
    tags: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    for record, _ in Journal(folder / "tracking").records():
        tags |= record.get("tags", {})
        metrics |= record.get("values", {})
    return tags, metrics


def test_a_predictor_tells_its_data_and_how_many_crystals_each_part_has(place: Path, away: str) -> None:
    run = {"epochs": 1, "out": str(place), "name": "property", "tracking_uri": away, "register": ""}
    config = small_regressions.tiny(data=str(place / "crystals.parquet"), **run)
    [finished] = downstream.run(config)
    tags, metrics = told(finished.folder)
    data = labeled(config, prepared(config, place), place / "crystals.parquet", "")
    assert tags["data_digest"] == data.data_digest
    assert tags["vectors_digest"] == data.vectors_digest
    assert tags["split_digest"] == data.split.digest()
    assert tags["config_digest"] == digest(config)
    assert len({tags[f"{what}_digest"] for what in ("data", "vectors", "split", "config")}) == 4
    files = {TEST: "predictions.csv", VAL: "validation_predictions.csv"}
    rows = {part: len(pd.read_csv(finished.folder / file)) for part, file in files.items()}
    rows[TRAIN] = 50 - rows[TEST] - rows[VAL]
    assert len(set(rows.values())) == 3, "else one could be told for another"
    assert {part: metrics[f"num_{part}"] for part in rows} == rows
    assert metrics["test/num_crystals"] == rows[TEST]


def test_a_part_of_one_crystal_has_an_error_and_no_interval() -> None:
    finished = downstream.FinishedRun(
        folder=Path("run"),
        seed=0,
        property="density",
        unit="g/cm^3",
        metrics={"val_selected/mae": 1.0, "test/mae": 2.0, "test/num_crystals": 1.0},  # NaN is left out
        selected_epoch=0,
        epochs=1,
        tracking_uri="sqlite:///mlflow.db",
        run_id="r",
    )
    assert f"test MAE 2 g/cm^3, 95 % interval {UNKNOWN}, MAE/MAD nan, 1 crystals" in downstream.describe([finished])


def test_a_pretraining_tells_its_data(place: Path, away: str) -> None:
    config = tiny(
        data=str(place / "graphs"), out=str(place), name="pretrained", epochs=1, tracking_uri=away, register=""
    )
    finished = pretraining.run(config)
    tags, _ = told(finished.folder)
    known = pretraining.input_digest(config, read_manifest(place / "graphs"))
    assert (tags["data"], tags["data_digest"], tags["config_digest"]) == (config.source.data, known, digest(config))
    assert finished.vectors.provenance["data_digest"] == known != digest(config)
    assert f"`{known}`" in (finished.folder / "vectors" / CARD_MD).read_text()


def test_vectors_of_older_methods_tell_their_data(place: Path, away: str) -> None:
    """The digest changes with any shard, but not with settings."""
    config = VectorsConfig.of(
        data=str(place / "graphs"), out=str(place), name="older", method="onehot", num_workers=0, tracking_uri=away
    )
    finished = vectors.run(config)
    tags, metrics = told(finished.folder)
    known = vectors._data_digest(place / "graphs")
    assert (tags["data_digest"], tags["config_digest"]) == (known, digest(config))
    assert finished.vectors.provenance["data_digest"] == known
    assert metrics["crystals"] == 50
    manifest = place / "graphs" / "manifest.json"
    kept = manifest.read_text()
    for number in range(3):
        other = json.loads(kept)
        other["shards"][number]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(other))
        assert vectors._data_digest(place / "graphs") != known
    manifest.write_text(kept)
