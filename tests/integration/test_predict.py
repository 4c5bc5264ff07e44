"""``jobs/predict.py`` as users run it, and prediction on a cluster against that in one process."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from crysatom.config import IngestConfig, PredictConfig
from crysatom.crystals import rejections
from crysatom.crystals.csv_files import as_it_was, csv_line
from crysatom.crystals.ingest import ingest_plain
from crysatom.crystals.table import read_table
from crysatom.crystals.targets import targets_from_csv
from crysatom.models.inference import Ensemble
from crysatom.names import MATERIAL_ID
from crysatom.pipelines import predicting
from crysatom.pipelines.predicting import describe, run
from tests.conftest import REPOSITORY
from tests.run_job import run_here
from tests.saved_models import ALL, write_model
from tests.unit.broken_inputs import cif
from tests.unit.test_predictors_published import checkpoint, written

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

BROKEN = {
    "b0": ("nothing", "unreadable"),
    "b1": (cif("Na Na1 0 0 0 0.8\nCl Cl1 0.5 0.5 0.5 1\n"), "disordered"),
    "b2": (cif("Na Na1 0 0 0 1\nCl Cl1 0.02 0 0 1\n"), "overlapping_atoms"),
    "b3": (cif("Pu Pu1 0 0 0 1\n"), "no_vector"),
}
TOLD = ["untrained_elements", "flags"]
WITHOUT_PU = [symbol for symbol in ALL if symbol != "Pu"]


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """300 CIFs (more than two batches), four of them broken, and a model."""
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    for i in range(296):
        (cifs / f"a{i:03}.cif").write_text(cif(cell=(4 + i / 100, 4, 4, 90, 90, 90)))
    for name, (text, _) in BROKEN.items():
        (cifs / f"a1{name}.cif").write_text(text)  # between a199 and a200
    ranges = {"volume_per_atom": (32.0, 35.0), "num_atoms": (1, 4)}
    write_model(tmp_path / "model", elements=WITHOUT_PU, trained=["Na"], trained_ranges=ranges)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the job in its own process."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    command = [sys.executable, str(REPOSITORY / "jobs" / "predict.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def predict(*inputs: str, model: str | tuple[str, ...] = "model", **options: Any) -> Any:
    models = (model,) if isinstance(model, str) else model
    return run(PredictConfig.of(inputs=inputs, model=models, **{"num_workers": 0, **options}))


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_write_the_bytes_of_one_process(place: Path) -> None:
    write_model(place / "other", 1)
    models = ("model", "other")
    plain = predict("cifs", model=models, out="plain.csv")
    two = predict("cifs", model=models, out="two.csv", num_workers=2)
    assert (two.read, two.predicted, two.rejected) == (plain.read, plain.predicted, plain.rejected)
    for kind in ("", ".quarantine"):
        assert (place / f"two{kind}.csv").read_bytes() == (place / f"plain{kind}.csv").read_bytes()


@pytest.mark.usefixtures("ray_cluster")
def test_the_order_is_that_of_the_input_whichever_batch_is_finished_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = place / "done"

    class LastFirst(Ensemble):  # in here, so that workers are sent it with the path
        """Predicts the first batch after another; the second may wait in the queue of the same worker."""

        def predict_records(self, records: pa.Table) -> pa.Table:
            names, deadline = records[MATERIAL_ID].to_pylist(), time.monotonic() + 60
            while "a000" in names and not done.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            if "a000" not in names:
                done.touch()
            return super().predict_records(records)

    plain = predict("cifs", out="plain.csv")
    monkeypatch.setattr(predicting, "Ensemble", LastFirst)
    two = predict("cifs", out="two.csv", num_workers=2)
    assert done.exists(), "another batch was predicted"
    assert two.predicted == plain.predicted
    assert (place / "two.csv").read_bytes() == (place / "plain.csv").read_bytes()


class Deadly(Ensemble):
    """Kills the predicting process, as a crystal that needs too much memory may."""

    def predict_records(self, records: pa.Table) -> pa.Table:  # noqa: ARG002
        os._exit(1)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "place")
def test_a_batch_that_kills_its_workers_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crysatom.cluster.predict.MAX_DEATHS", 1)
    monkeypatch.setattr(predicting, "Ensemble", Deadly)
    with pytest.raises(RuntimeError, match=r"prediction workers died more than 1 times, the last with: .*; if memory"):
        predict("cifs", out="p.csv", num_workers=1)
    assert not list(Path().glob("p*.csv"))


@pytest.mark.usefixtures("ray_cluster")
def test_the_job_predicts_what_it_can_and_says_what_it_cannot(place: Path) -> None:
    done = run_here("predict", "--model", "model", "cifs", "--out", "results/p.csv", "--num-workers", "2")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "starting Ray ..." in done.stdout
    assert "read 300 = predicted 296 + rejected 4, in " in done.stdout
    assert "crystals/s" in done.stdout
    assert "  a1b1: cifs/a1b1.cif: site 1 has occupancy 0.8; only ordered crystals can be used" in done.stdout

    table = pd.read_csv(place / "results" / "p.csv")
    assert list(table.columns) == ["material_id", "source", "prediction", "property", "unit", *TOLD]
    assert table["material_id"].tolist() == [f"a{i:03}" for i in range(296)]
    assert table["source"].tolist() == [f"cifs/a{i:03}.cif" for i in range(296)]
    assert np.isfinite(table["prediction"]).all()
    assert table["prediction"].nunique() > 200
    assert set(table["property"]) == {"bulk_modulus_kv"}
    assert set(table["unit"]) == {"GPa"}
    assert set(table["untrained_elements"]) == {"Cl"}
    larger = [";outside_training_volume" * (i > 37) for i in range(296)]  # 32 + 0.08 i cubic angstrom per atom
    assert table["flags"].tolist() == [f"untrained_element{and_this}" for and_this in larger]
    assert "by column flags:\n       296  untrained_element\n       258  outside_training_volume\n" in done.stdout
    quarantine = pd.read_csv(place / "results" / "p.quarantine.csv")
    assert list(quarantine.columns) == ["material_id", "source", "reason", "detail"]
    assert quarantine["material_id"].tolist() == [f"a1{name}" for name in BROKEN]
    assert quarantine["reason"].tolist() == [reason for _, reason in BROKEN.values()]
    assert quarantine["source"].tolist() == [f"cifs/a1{name}.cif" for name in BROKEN]
    assert "model has no vector for Pu" in quarantine["detail"].iloc[-1]
    assert {path.name for path in (place / "results").iterdir()} == {"p.csv", "p.quarantine.csv"}


def test_exit_codes_and_what_is_left_behind(place: Path) -> None:
    good = job("--model", "model", "cifs/a000.cif", "cifs/a001.cif", "--out", "p.csv")
    assert (good.returncode, good.stderr) == (0, "")
    assert not (place / "p.quarantine.csv").exists()
    bad = run_here("predict", "--model", "model", "cifs/a1b0.cif", "--out", "p.csv")
    quarantine = place / "p.quarantine.csv"
    assert (bad.returncode, bad.stderr) == (2, f"error: no crystal was predicted; see {quarantine}\n")
    assert (place / "p.csv").read_text() == "material_id,source,prediction,property,unit,untrained_elements,flags\n"
    before = (place / "p.csv").read_bytes()
    wrong = run_here("predict", "--model", "nothing", "cifs", "--out", "p.csv")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: model 'nothing' does not exist; name the folder of a run")
    assert (place / "p.csv").read_bytes() == before
    flags = run_here("predict", "cifs")
    assert flags.returncode == 2
    assert "give a model: --model" in flags.stderr
    assert predict("cifs/a000.cif", out="p.csv").quarantine is None
    assert not (place / "p.quarantine.csv").exists(), "it was of an earlier run"


def test_several_inputs_come_in_the_order_given_and_ids_may_repeat(place: Path) -> None:
    (place / "more").mkdir()
    (place / "more" / "a005.cif").write_text(cif(cell=(9, 9, 9, 90, 90, 90)))
    (place / "more" / "z.cif").write_text(cif())
    report = predict("cifs/a007.cif", "more", "cifs/a005.cif", "cifs/a1b0.cif", "cifs/a007.cif", out="p.csv")
    table = pd.read_csv(place / "p.csv")
    assert table["material_id"].tolist() == ["a007", "a005", "z", "a005", "a007"]
    files = ["cifs/a007.cif", "more/a005.cif", "more/z.cif", "cifs/a005.cif", "cifs/a007.cif"]
    assert table["source"].tolist() == files
    assert table["prediction"][1] != table["prediction"][3], "crystals of one id are crystals nevertheless"
    assert [(rejected.material_id, rejected.reason) for rejected in report.first_rejected] == [("a1b0", "unreadable")]
    assert report.read == 6


def test_an_input_without_crystals_is_named(place: Path) -> None:
    (place / "none.json").write_text("[]")
    empty = run_here("predict", "--model", "model", "none.json", "--out", "p.csv")
    assert (empty.returncode, empty.stderr) == (2, "error: no crystal was predicted; there was none in the input\n")
    assert "warning: none.json: it contains no crystal" in empty.stdout
    assert not (place / "p.quarantine.csv").exists()


def test_a_model_that_is_not_in_mlflow_makes_no_store(place: Path) -> None:
    failed = run_here("predict", "--model", "models:/mistyped/1", "cifs/a000.cif", "--out", "p.csv")
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: models:/mistyped/1: not found in sqlite:///{place}/mlflow.db (there is no")
    assert not list(place.glob("*.db"))


def test_what_cannot_be_written_is_an_error_in_one_line_and_replaces_nothing(place: Path) -> None:
    (place / "p.csv").write_text("of an earlier run")
    (place / "p.quarantine.csv").mkdir()
    for out, inputs in (("p.csv", "cifs"), ("p.csv", "cifs/a000.cif"), ("model/model.json/p.csv", "cifs/a000.cif")):
        failed = run_here("predict", "--model", "model", inputs, "--out", out)
        assert failed.returncode == 1
        assert re.fullmatch(r"error: [^\n]*(p.quarantine.csv|model.json)[^\n]*\n", failed.stderr), failed.stderr
        assert (place / "p.csv").read_text() == "of an earlier run"
        assert not list(place.glob("*.partial"))


def test_inputs_of_hardly_anything_but_rejected_records_are_given_up(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejections, "MOST_REJECTED", 5)
    for name in ("p.csv", "p.quarantine.csv"):
        (place / name).write_text("of an earlier run")
    (place / "a.jsonl").write_text("{}\n" * 7)
    failed = run_here("predict", "--model", "model", "cifs/a000.cif", "a.jsonl", "--out", "p.csv")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: 7 inputs were rejected and 1 accepted; this is given up, since")
    for name in ("p.csv", "p.quarantine.csv"):
        assert (place / name).read_text() == "of an earlier run"
    monkeypatch.setattr(rejections, "MOST_REJECTED", 6)
    assert run_here("predict", "--model", "model", "cifs/a000.cif", "a.jsonl", "--out", "p.csv").returncode == 3


def test_a_full_disk_leaves_the_earlier_results(place: Path) -> None:
    for name in ("p.csv", "p.quarantine.csv"):
        (place / name).write_text("of an earlier run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the predictions take twice as much
    try:
        with pytest.raises(OSError, match="File too large"):
            predict("cifs", out="p.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for name in ("p.csv", "p.quarantine.csv"):
        assert (place / name).read_text() == "of an earlier run"
    assert not list(place.glob("*.partial"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_few_crystals_for_workers_with_gpus_are_predicted_here(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert predict("cifs/a000.cif", out="p.csv", use_gpu=True, num_workers=2).predicted == 1
    assert "no CUDA device here: they are predicted on the CPU" in caplog.text
    with pytest.raises(ValueError, match="torch finds no CUDA device"):
        predict("cifs/a000.cif", out="q.csv", use_gpu=True)
    assert not (place / "q.csv").exists()


@pytest.mark.usefixtures("place")
def test_long_reads_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On a cluster, a whole window is read before the first prediction."""
    monkeypatch.setattr(predicting, "PROGRESS_SECONDS", 0)
    monkeypatch.setattr(
        predicting, "_predict_all", lambda _, ensemble, batches: map(ensemble.predict_records, list(batches))
    )
    caplog.set_level("INFO")
    predict("cifs", out="p.csv")
    told = [message for message in caplog.messages if message.startswith("predict: ")]
    assert told[:2] == [f"predict: {read} of 300 read, 0 predicted, 0 rejected" for read in (128, 256)]
    assert re.fullmatch(r"predict: 300 of 300 read, 296 predicted, 4 rejected, [\d,]+ crystals/s, 0 s left", told[-1])


def test_files_of_one_name_in_several_folders_are_told_apart(place: Path) -> None:
    """As in folders of calculations: ids made from file names are equal."""
    poscar = "NaCl\n1\n{a} 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    for k in range(2):
        (place / f"calc{k}").mkdir()
        (place / f"calc{k}" / "POSCAR").write_text(poscar.format(a=4 + k))
    report = predict("calc0/POSCAR", "calc1/POSCAR", out="p.csv")
    assert (report.read, report.predicted, report.rejected) == (2, 2, 0)
    table = pd.read_csv(place / "p.csv")
    assert table["material_id"].tolist() == ["POSCAR-1", "POSCAR-1"]
    assert table["source"].tolist() == ["calc0/POSCAR#1", "calc1/POSCAR#1"]


EVIL = ["=1+1", "-2+3", "@SUM(A1)", "+x", "'=1", "a;=2", "a\nb", "NA", "-5", "007"]


def test_ids_are_no_formulas_for_a_spreadsheet_and_can_be_joined(place: Path) -> None:
    """Test accepted and rejected ids; the file can be used as targets for the original ids."""
    atoms = {"lattice_mat": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "coords": [[0, 0, 0]], "elements": ["Na"]}
    records = [{"id": name, "atoms": atoms} for name in EVIL] + [{"id": name, "atoms": {}} for name in EVIL]
    (place / "evil.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert (predict("evil.jsonl", out="p.csv").predicted, predict("evil.jsonl", out="p.csv").rejected) == (10, 10)
    for file in ("p.csv", "p.quarantine.csv"):
        with (place / file).open(newline="") as stream:
            rows = list(csv.reader(stream))[1:]
        cells = [cell for row in rows for cell in row]
        assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r") and not re.fullmatch(r"[-+]?[\d.e+-]+", cell)]
        assert [as_it_was(row[0]) for row in rows] == EVIL
        assert '"a;=2"' in (place / file).read_text()
    table = ingest_plain(IngestConfig.of(source="evil.jsonl", out="table")).table
    (place / "targets.csv").write_text("material_id,gap\n" + "".join(csv_line([name, 1.5]) for name in EVIL))
    assert targets_from_csv(place / "targets.csv", read_table(table), EVIL).labels.tolist() == [1.5] * 10


def test_an_ensemble_gives_mean_and_spread_and_each_prediction(place: Path) -> None:
    models = ("model", str(write_model(place / "b", 1)), str(write_model(place / "run" / "model", 2).parent))
    report = predict("cifs", model=models, out="p.csv")
    table = pd.read_csv(place / "p.csv")
    each = [f"prediction_{k}" for k in (1, 2, 3)]
    assert list(table.columns)[:7] == ["material_id", "source", "prediction", "spread", *each]
    np.testing.assert_allclose(table["prediction"], table[each].mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(table["spread"], table[each].std(axis=1), rtol=1e-9)
    assert (table["spread"] > 0).all()
    for column, model in zip(each, models, strict=True):
        predict("cifs", model=model, out="one.csv")
        alone = pd.read_csv(place / "one.csv").set_index("material_id")["prediction"]
        np.testing.assert_allclose(table[column], alone[table["material_id"]], rtol=1e-5)
        assert f"  {column}: {model}" in describe(report)


def test_models_of_other_properties_are_refused_before_anything_is_written(place: Path) -> None:
    write_model(place / "other", property="ehull", unit="eV/atom")
    failed = run_here("predict", "--model", "model", "--model", "other", "cifs", "--out", "p.csv")
    assert failed.returncode == 1
    expected = "these predict: model bulk_modulus_kv (GPa), other ehull (eV/atom); run them one at a time\n"
    assert failed.stderr.endswith(expected)
    assert not (place / "p.csv").exists()


def test_a_published_checkpoint_of_cgcnn(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(place, checkpoint())
    caplog.set_level("WARNING")
    report = predict("aflow:prototypes", model="model.pth.tar", out="p.csv")
    assert (report.predicted, report.property, report.unit) == (288, "energy", "")
    assert report.flags["unknown_training"] == 288
    told = (
        "model.pth.tar does not record all elements and ranges of its training crystals: its predictions are flagged "
    )
    assert caplog.messages.count(f"{told}unknown_training") == 1
    table = pd.read_csv(place / "p.csv", keep_default_na=False)
    assert set(table["unit"]) == {""}
    assert table["flags"].str.endswith("unknown_training").all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ()}, "give the crystals to predict"),
        ({"model": ()}, "give a model"),
        ({"out": "folder"}, "out must name a .csv file, got 'folder'"),
        ({"num_workers": -1}, "num_workers must not be negative"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PredictConfig.of(**{"inputs": ("a.cif",), "model": ("model",), **options})
