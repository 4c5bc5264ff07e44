"""Printed commands can be copied into a shell, for any folder names."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest

from crysatom.pipelines import downstream
from crysatom.runs.lifecycle import where_to_look
from crysatom.sweeps import sweep as sweeps
from crysatom.sweeps.record import FINISHED, Trial
from crysatom.tracking.runs import Tracker

PLACES = ["/plain/place", "/two words", "/it's", "/$HOME", '/say "so"', "/a;b&c", "/#x*?"]


@pytest.mark.parametrize("place", PLACES)
def test_where_runs_are_looked_at(place: str) -> None:
    said = where_to_look(f"sqlite:///{place}/mlflow.db", "id").partition("with: ")[2]
    assert shlex.split(said) == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{place}/mlflow.db"]


@pytest.mark.parametrize("place", PLACES)
def test_how_to_predict(place: str) -> None:
    finished = downstream.FinishedRun(
        folder=Path(place),
        seed=0,
        property="density",
        unit="",
        metrics={"val_selected/mae": 1.0},
        selected_epoch=0,
        epochs=1,
        tracking_uri="sqlite:///x.db",
        run_id="",
    )
    [said] = [line for line in downstream.describe([finished]).splitlines() if "to predict: " in line]
    command = shlex.split(said.partition("to predict: ")[2])
    assert command == ["python", "jobs/predict.py", "--model", place, "CIFS"]


@pytest.mark.parametrize("place", PLACES)
def test_how_to_use_the_best_settings(place: str, tmp_path: Path) -> None:
    trial = Trial.at(tmp_path / "000", {"dim": 8})
    trial.ended = FINISHED
    sweep = sweeps.FinishedSweep(
        folder=Path(place),
        objective="pretrain",
        data=f"{place}/x.parquet",
        trials=[trial],
        differences={},
        num_validation=1,
        tracking_uri="sqlite:///x.db",
        run_id="",
    )
    [said] = [line for line in sweeps.describe(sweep).splitlines() if "jobs/pretrain.py" in line]
    expected = ["python", "jobs/pretrain.py", "--data", f"{place}/x.parquet", "--config", f"{place}/best.json"]
    assert shlex.split(said) == expected


@pytest.mark.parametrize("name", ["plain", "two words", "it's $HOME"])
def test_how_to_tell_mlflow_later(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, uri = tmp_path / name, f"sqlite:///{tmp_path}/{name}/no/such/folder.db"
    folder.mkdir()
    with caplog.at_level(logging.WARNING):
        Tracker.at(folder, uri)._warn(RuntimeError("away"))
    said = caplog.messages[0].partition("or by: ")[2]
    assert shlex.split(said) == ["python", "-m", "crysatom.tracking.flush", str(folder), "--tracking-uri", uri]
