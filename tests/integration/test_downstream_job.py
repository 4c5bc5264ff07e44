"""``jobs/downstream.py`` from the crystals in pymatgen to an error in MLflow, as users run it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from crysatom.config import DownstreamConfig, GraphSpec, Limits
from crysatom.crystals.examine import examine
from crysatom.crystals.sources import read_source
from crysatom.crystals.table import read_table
from crysatom.crystals.targets import targets_for
from crysatom.inputs.graphs import crystal_table
from crysatom.models.files import load_model
from crysatom.names import VOLUME_PER_ATOM
from crysatom.pipelines.downstream import FinishedRun, describe, run
from crysatom.runs.folder import CHECKPOINTS
from crysatom.tracking.journal import Journal
from crysatom.tracking.models import fetch_model
from crysatom.tracking.runs import Tracker
from crysatom.tracking.store import client
from crysatom.training import metrics
from crysatom.vectors.given import given_vectors
from crysatom.vectors.spectrum import with_spectrum
from tests.conftest import REPOSITORY
from tests.graph_crystals import batch_of
from tests.run_job import run_here
from tests.small_runs import one_thread, prepared  # noqa: F401
from tests.unit.broken_inputs import cif, structure

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning"),  # mlflow.pyfunc about a class of its own
]

SMALL: dict[str, Any] = {"vectors": "onehot", "width": 16, "num_layers": 2, "hidden_dim": 16, "epochs": 6}
WAIT_S = 300.0


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], Path]) -> Path:
    return new_store(tmp_path_factory.mktemp("downstream")).parent


def config(place: Path, name: str, **changes: Any) -> DownstreamConfig:
    settings = {"out": str(place), "name": name, "tracking_uri": f"sqlite:///{place}/mlflow.db", "num_workers": 0}
    return DownstreamConfig.of(**{**SMALL, **settings, **changes})


@pytest.fixture(scope="module", name="plain")
def _plain(place: Path) -> FinishedRun:
    [finished] = run(config(place, "plain"))
    return finished


def flags_of(place: Path, name: str) -> list[str]:
    settings = config(place, name).flat()
    fields = (*SMALL, "out", "name", "tracking_uri", "num_workers")
    return [word for field in fields for word in (f"--{field.replace('_', '-')}", str(settings[field]))]


def test_the_job_does_the_whole_way_for_each_seed(place: Path, plain: FinishedRun) -> None:
    done = run_here("downstream", "--seeds", "0", "1", *flags_of(place, "job"))
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "warning" not in output.replace("warning: twins are", "").lower()
    assert output.count("epoch   6/6  train MAE ") == 2
    assert "volume_per_atom, seed 0: validation MAE " in output
    assert f"predictions: {place}/job-seed1/predictions.csv" in output
    assert "test MAE over 2 seeds, mean +- standard deviation: " in output

    folder = place / "job-seed0"
    mine, theirs = (pd.read_csv(path / "predictions.csv") for path in (folder, plain.folder))
    assert list(mine.columns) == ["material_id", "target", "prediction"]
    pd.testing.assert_frame_equal(mine, theirs)  # the name of a run changes nothing
    other = pd.read_csv(place / "job-seed1" / "predictions.csv")
    assert other["material_id"].tolist() == mine["material_id"].tolist()
    assert not np.allclose(other["prediction"], mine["prediction"])

    table = read_table(crystal_table(config(place, "job").source, prepared(config(place, "job"), place)))
    volumes = targets_for(table, VOLUME_PER_ATOM, mine["material_id"].to_list())
    np.testing.assert_allclose(mine["target"], volumes.labels)


def test_the_reported_error_is_that_of_the_predictions(plain: FinishedRun) -> None:
    table = pd.read_csv(plain.folder / "predictions.csv")
    expected = metrics.summary(table["target"].to_numpy(), table["prediction"].to_numpy(), VOLUME_PER_ATOM)
    assert {name: plain.metrics[f"test/{name}"] for name in expected} == pytest.approx(expected)
    assert f"{plain.metrics['test/mae']:.4g} angstrom^3/atom" in describe([plain])
    history = pd.read_csv(plain.folder / "history.csv")
    assert plain.metrics["val_selected/mae"] == pytest.approx(history["val/mae"].min())
    assert plain.selected_epoch == history["val/mae"].idxmin()
    assert 0 < plain.metrics["test_twin_free/num_crystals"] <= plain.metrics["test/num_crystals"]


def test_mlflow_has_everything(place: Path, plain: FinishedRun) -> None:
    store = client(f"sqlite:///{place}/mlflow.db")
    found = store.get_run(plain.run_id)
    assert found.info.status == "FINISHED"
    assert store.get_experiment(found.info.experiment_id).name == "crysatom-aflow-prototypes"
    tags = {"predictor": "cgcnn", "vectors": "onehot", "property": VOLUME_PER_ATOM, "seed": "0"}
    assert {name: found.data.tags[name] for name in tags} == tags
    assert len(found.data.tags["split_digest"]) == 64
    assert len(found.data.tags["data_digest"]) == 16
    assert found.data.params["width"] == "16"
    assert found.data.metrics["test/mae"] == pytest.approx(plain.metrics["test/mae"])
    assert len(store.get_metric_history(plain.run_id, "val/mae")) == SMALL["epochs"]
    artifacts = {item.path for item in store.list_artifacts(plain.run_id)}
    assert artifacts >= {"predictions.csv", "validation_predictions.csv", "history.csv", "figures", "model"}
    figures = {item.path for item in store.list_artifacts(plain.run_id, "figures")}
    assert figures == {"figures/parity.png", "figures/learning_curve.png"}
    model = {item.path for item in store.list_artifacts(plain.run_id, "model")}
    files = ("MLmodel", "model.json", "model.safetensors", "python_env.yaml", "requirements.txt", "served.py")
    assert model == {f"model/{file}" for file in files}


def test_the_model_is_registered_once_for_each_run(place: Path, plain: FinishedRun) -> None:
    """This includes the run that another test kills and resumes; its registration is repeated here."""
    store = client(f"sqlite:///{place}/mlflow.db")
    name, version = plain.registered.removeprefix("models:/").split("/")
    assert name == "crysatom-volume_per_atom-cgcnn"
    assert f"registered as {plain.registered}" in describe([plain])
    tags = store.get_model_version(name, version).tags
    assert (tags["unit"], tags["vectors"], float(tags["test_mae"])) == (
        "angstrom^3/atom",
        "onehot",
        pytest.approx(plain.metrics["test/mae"], rel=1e-5),
    )
    journal = Journal(plain.folder / "tracking")
    journal.mark_sent(0)  # as if MLflow had been unavailable all the time
    assert Tracker.at(plain.folder, plain.tracking_uri).flush()
    found = store.search_model_versions(f"name = '{name}' and run_id = '{plain.run_id}'")
    assert [str(found_version.version) for found_version in found] == [version]


def test_a_model_that_is_not_to_be_registered_is_with_its_run(place: Path) -> None:
    [finished] = run(config(place, "unregistered", register="", epochs=1, lr=0.002))
    assert finished.registered == ""
    assert "registered as" not in describe([finished])
    assert fetch_model(finished.run_id, finished.tracking_uri).property == VOLUME_PER_ATOM


CIF = cif(cell=(5, 5, 5, 90, 90, 90))
STRUCTURE = structure([{"element": "Na", "occu": 1}], [{"element": "Cl", "occu": 1}])


def test_mlflow_loads_the_model_without_unpickling_and_it_says_what_it_cannot_predict(
    place: Path, plain: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", plain.tracking_uri)  # MLflow sets it too, permanently
    mlflow.set_tracking_uri(plain.tracking_uri)
    mlflow.set_registry_uri(plain.tracking_uri)
    inner, info = load_model(plain.folder / "model")
    assert info.trained_ranges["volume_per_atom"][1] < 62.5, "of the crystal here"
    for uri in (plain.registered, f"runs:/{plain.run_id}/model", str(plain.folder / "model")):
        model = mlflow.pyfunc.load_model(uri)
        answer = model.predict([CIF, "no CIF", STRUCTURE, 3.0])
        assert answer.columns.tolist() == ["value", "unit", "problem", "flags"]
        assert answer["value"].isna().tolist() == [False, True, False, True]
        assert answer["flags"].tolist() == ["outside_training_volume", "", "", ""], (
            "the crystal of 4 angstrom is within"
        )
        assert answer["unit"].tolist() == ["angstrom^3/atom"] * 4
        assert answer["problem"].tolist() == [
            "",
            "crystal 1: not a CIF, it has no data_ block; is it a web page or another format?",
            "",
            "crystal 3: a float is neither the text of a CIF nor a dictionary from Structure.as_dict()",
        ]
    for same in (pd.Series([CIF, CIF], index=["a", "b"]), pd.DataFrame({"cif": [CIF, CIF]}, index=["a", "b"])):
        column = model.predict(same)
        assert column.index.tolist() == ["a", "b"]
        assert column["value"].tolist() == pytest.approx([answer["value"][0]] * 2, rel=1e-5)
    assert model.predict(CIF)["value"].tolist() == model.predict([CIF])["value"].tolist()
    assert model.predict([STRUCTURE, STRUCTURE])["problem"].tolist() == ["", ""]
    with pytest.raises(ValueError, match="a table of 2 columns; give the one column that holds the crystals"):
        model.predict(pd.DataFrame({"cif": [CIF], "id": ["a"]}))
    assert model.metadata.metadata == {"property": VOLUME_PER_ATOM, "unit": "angstrom^3/atom"}
    assert model.metadata.get_output_schema().input_names() == ["value", "unit", "problem", "flags"]
    assert not [path for path in (plain.folder / "model").iterdir() if path.suffix in {".pkl", ".pickle", ".pt"}]
    with torch.no_grad():
        crystals = [examine(record, Limits()) for record in read_source(str(write(place, CIF)))]
        expected = inner.predict(batch_of(crystals, GraphSpec()))
    assert answer["value"][0] == pytest.approx(expected.item(), rel=1e-5)


def write(place: Path, text: str) -> Path:
    (place / "one.cif").write_text(text)
    return place / "one.cif"


def test_the_model_says_what_it_is(plain: FinishedRun) -> None:
    _, info = load_model(plain.folder / "model")
    assert (info.property, info.unit) == (VOLUME_PER_ATOM, "angstrom^3/atom")
    assert info.training["metrics"]["test/mae"] == plain.metrics["test/mae"]
    assert info.versions["torch"]
    assert info.vectors["vectors"] == "onehot"
    assert set(info.trained_elements) < set(info.elements)
    assert set(info.trained_ranges) == {"volume_per_atom", "num_atoms"}


def test_a_finished_run_is_not_done_again(place: Path, plain: FinishedRun) -> None:
    [again] = run(config(place, "plain"))
    assert again == dataclasses.replace(plain, again=True)
    with pytest.raises(ValueError, match=r"another configuration \(lr 0\.003 -> 0\.5\); give this one another --name"):
        run(config(place, "plain", lr=0.5))
    with pytest.raises(ValueError, match="holds a run on other data"):
        run(config(place, "plain", vectors="random:0"))


def test_a_chosen_spectrum_is_said_and_kept(place: Path, tmp_path: Path) -> None:
    done = run_here("downstream", *flags_of(place, "auto"), "--vectors", "onehot92", "--vector-spectrum", "auto")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    folder = place / "auto-seed0"
    spectrum = json.loads((folder / "results.json").read_text())["spectrum"]
    assert f"spectrum of the vectors: power {spectrum['power']:g}, chosen on training and validation crystals" in output
    assert set(spectrum["errors"]) == {"0", "-0.5", "-1", "-2", "-3"}

    [again] = run(config(place, "auto", vectors="onehot92", vector_spectrum="auto"))
    assert again.again, "it chose the same"
    found = client(f"sqlite:///{place}/mlflow.db").get_run(again.run_id).data
    assert (found.params["vector_spectrum"], found.tags["vector_spectrum"]) == ("auto", f"{spectrum['power']:g}")

    model, info = load_model(folder / "model")
    assert info.vectors["spectrum"] == spectrum
    steep = with_spectrum(given_vectors("onehot92"), spectrum["power"]).vectors
    kept = model.predictor.table.vectors.numpy()
    factor = np.linalg.norm(steep - steep.mean(axis=0)) / np.linalg.norm(kept - kept.mean(axis=0))
    np.testing.assert_allclose((kept - kept.mean(axis=0)) * factor, steep - steep.mean(axis=0), atol=1e-5)

    table = crystal_table(config(place, "auto").source, prepared(config(place, "auto"), place))
    predicted = tmp_path / "predicted.csv"
    flags = ["--model", str(folder), "--out", str(predicted), "--num-workers", "0"]
    assert run_here("predict", str(table), *flags).returncode == 0
    theirs = pd.read_csv(folder / "predictions.csv", index_col="material_id")["prediction"]
    mine = pd.read_csv(predicted, index_col="material_id")["prediction"]
    np.testing.assert_allclose(mine[theirs.index], theirs, rtol=1e-5)


def test_a_killed_job_is_resumed_to_the_same_predictions(place: Path, plain: FinishedRun) -> None:
    command = [sys.executable, str(REPOSITORY / "jobs" / "downstream.py"), *flags_of(place, "killed")]
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS"}}
    process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    folder = place / "killed-seed0"
    deadline = time.monotonic() + WAIT_S
    while process.poll() is None and not list((folder / CHECKPOINTS).glob("epoch-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(WAIT_S) == -signal.SIGKILL
    assert not (folder / "predictions.csv").exists(), "it was killed after its work"
    with pytest.raises(ValueError, match="unfinished run of this configuration; continue it with --resume"):
        run(config(place, "killed"))
    [finished] = run(config(place, "killed", resume=True))
    assert finished.metrics == plain.metrics
    mine, theirs = (pd.read_csv(path / "predictions.csv") for path in (folder, plain.folder))
    pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    history = client(f"sqlite:///{place}/mlflow.db").get_metric_history(finished.run_id, "val/mae")
    assert sorted(metric.step for metric in history) == list(range(SMALL["epochs"]))


def test_a_job_killed_after_its_work_is_ended_and_registered_by_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Tracker, status: str) -> bool:  # noqa: ARG001 - as the method
        raise KeyboardInterrupt

    wanted = config(place, "cut", epochs=1, register="late-{predictor}")
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(wanted)
    store = client(f"sqlite:///{place}/mlflow.db")
    [finished] = run(wanted)
    assert finished.again
    assert finished.registered == "models:/late-cgcnn/1"
    assert store.get_run(finished.run_id).info.status == "FINISHED"
    records = (place / "cut-seed0" / "tracking" / "journal.jsonl").read_bytes()
    assert run(wanted) == [finished]
    assert (place / "cut-seed0" / "tracking" / "journal.jsonl").read_bytes() == records, "there was nothing to say"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_predict_what_a_process_does(
    place: Path, plain: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sums over crystals have another order: differences are float32 rounding, amplified over the steps."""
    [finished] = run(config(place, "two", num_workers=2))
    shown = capsys.readouterr().out
    assert "training on 2 x cpu, graphs in memory" in shown
    assert shown.count(" val MAE ") == SMALL["epochs"]
    for file in ("predictions.csv", "validation_predictions.csv"):
        two, one = (pd.read_csv(path / file) for path in (finished.folder, plain.folder))
        assert two["material_id"].tolist() == one["material_id"].tolist()
        np.testing.assert_allclose(two["prediction"], one["prediction"], rtol=1e-3)
    state = json.loads((finished.folder / "run.json").read_text())
    assert state["finished"]


def test_a_job_that_fails_says_why_in_one_line(place: Path) -> None:
    done = run_here("downstream", "--property", "hardness", *flags_of(place, "wrong"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: the crystal table has no column 'hardness'; columns of numbers")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stdout
