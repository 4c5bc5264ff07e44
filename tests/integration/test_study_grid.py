"""``jobs/study.py`` on the crystals in pymatgen: run, reused, killed, failed, evaluated."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from crysatom.config import GridConfig
from crysatom.crystals.splits import reduced_compositions
from crysatom.crystals.table import read_table, write_table
from crysatom.models.files import load_model
from crysatom.studies.grid import pipeline
from crysatom.studies.grid.finished import read_run
from crysatom.studies.grid.loading import load_grid
from crysatom.studies.grid.pipeline import GridReport, describe
from crysatom.studies.grid.statistics import TIE, errors_of
from crysatom.studies.grid.tables.table8 import CALCULATED_ONLY, FINE_TUNED, MEASURED_ONLY
from crysatom.tracking.store import client
from tests.run_job import run_here
from tests.small_runs import one_thread  # noqa: F401

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning"),  # mlflow.pyfunc about a class of its own
]

PROPERTIES = ("density", "volume_per_atom")


def config(place: Path, **changes: Any) -> GridConfig:
    settings: dict[str, Any] = {
        "columns": ("onehot92", "onehot"),
        "properties": PROPERTIES,
        "seeds": (0,),
        "epochs": 1,
        "out": str(place / "runs"),
        "tracking_uri": f"sqlite:///{place}/mlflow.db",
        "num_workers": 0,
    }
    return GridConfig.of(**{**settings, **changes})


def run(config: GridConfig) -> GridReport:
    return pipeline.run(config, load_grid(config))


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], Path]) -> Path:
    return new_store(tmp_path_factory.mktemp("grid")).parent


@pytest.fixture(scope="module", name="report")
def _report(place: Path) -> GridReport:
    return run(config(place))


def test_a_study_says_what_its_runs_say(place: Path, report: GridReport) -> None:
    assert (report.finished, report.wanted, report.again, report.left) == (4, 4, 0, 0)
    assert not report.failed
    cells = json.loads((report.folder / "cells.json").read_text())["cells"]
    assert [(c["property"], c["column"]) for c in cells] == [(p, c) for p in PROPERTIES for c in ("onehot92", "onehot")]
    for cell in cells:
        [of] = cell["of"]
        results = json.loads((Path(of["folder"]) / "results.json").read_text())
        assert cell["test_mae"] == results["metrics"]["test/mae"]
        assert results["property"] == cell["property"]
    errors = {}
    for cell in cells[:2]:
        rows = pd.read_csv(Path(cell["of"][0]["folder"]) / "predictions.csv", index_col="material_id")
        errors[cell["column"]] = (rows["prediction"] - rows["target"]).abs()
    expected = (errors["onehot"] - errors["onehot92"]).mean()
    assert cells[1]["difference"] == pytest.approx(expected)
    assert cells[1]["relative_gain"] == pytest.approx(-expected / errors["onehot92"].mean())
    assert cells[0]["difference"] is None

    table = pd.read_csv(report.folder / "table.csv")
    np.testing.assert_allclose(table["test_mae"], [c["test_mae"] for c in cells])
    assert f"{cells[1]['test_mae']:.4g}" in (report.folder / "table.md").read_text()
    assert f"{cells[1]['test_mae']:.4g}" in (report.folder / "table.tex").read_text()
    found = client(f"sqlite:///{place}/mlflow.db").get_run(report.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["test_mae/density/onehot"] == pytest.approx(cells[1]["test_mae"])
    artifacts = {item.path for item in client(f"sqlite:///{place}/mlflow.db").list_artifacts(report.run_id)}
    assert artifacts >= {"cells.json", "table.md", "table.csv", "table.tex", "figure.png"}


def test_what_is_finished_is_not_repeated(place: Path, report: GridReport) -> None:
    """A study of fewer properties in another folder reuses the runs."""
    written = {path: path.stat().st_mtime_ns for path in (place / "runs").glob("cgcnn-*/predictions.csv")}
    again = run(config(place, properties=("density",)))
    assert (again.finished, again.again, again.left) == (2, 2, 0)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    mine = {c.column: c.mean for c in again.cells}
    assert mine == {c.column: c.mean for c in report.cells if c.row.property == "density"}


def test_all_tables_get_the_same_spectrum(place: Path, report: GridReport) -> None:
    steep = run(config(place, properties=("density",), vector_spectrum=-1.0))
    assert (steep.finished, steep.again) == (2, 0)
    for cell, before in zip(steep.cells, report.cells[:2], strict=True):
        [of] = cell.runs
        assert of.config.vectors.vector_spectrum == -1
        assert load_model(of.folder / "model")[1].vectors["spectrum"]["power"] == -1
        assert (cell.mean == pytest.approx(before.mean, rel=1e-4)) == (cell.column == "onehot")


def test_other_studies_take_the_same_runs(place: Path, report: GridReport) -> None:
    """A learning curve at all labels, and the cost of runs."""
    mae = report.cells[0].mean
    same = {"columns": ("onehot92", "ours"), "properties": ("density",), "vectors": ("ours=onehot92",)}
    curve = run(config(place, study="learning_curve", train_fraction=(1.0,), **same))
    assert (curve.finished, curve.left) == (2, 0)  # by one existing run
    assert [c.mean for c in curve.cells] == [mae, mae]
    assert curve.cells[1].comparison is not None
    assert curve.cells[1].comparison.verdict == TIE
    assert (curve.folder / "figure.png").exists()


def test_costs_are_those_of_the_run(place: Path, report: GridReport) -> None:
    costs = run(config(place, study="table11", columns=("cgcnn",), properties=("density",), vectors=("ours=onehot92",)))
    assert costs.again == 1
    [cost] = json.loads((costs.folder / "cells.json").read_text())["costs"]["cgcnn"]
    folder = report.cells[0].runs[0].folder
    history = pd.read_csv(folder / "history.csv")
    assert cost["training_seconds"] == pytest.approx(history["seconds"].sum())
    assert 0 < cost["test_seconds"] < 60
    trained = sum(p.numel() for p in load_model(folder / "model")[0].parameters() if p.requires_grad)
    assert cost["megabytes"] == pytest.approx(4e-6 * trained)
    assert "not measured" not in (costs.folder / "table.md").read_text()


def test_runs_of_other_places_are_taken_only_with_equal_settings_vectors_and_data(
    place: Path, report: GridReport, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    for cell in report.cells:
        shutil.copytree(cell.runs[0].folder, copies / cell.runs[0].folder.name)
    data = str(next((place / "runs" / "data").glob("aflow*/crystals.parquet")))
    store = f"sqlite:///{place}/mlflow.db"
    given = config(tmp_path, data=data, finished=(str(copies),), budget=1e-9, tracking_uri=store)
    taken = run(given)
    assert (taken.finished, taken.again) == (4, 4)
    assert [c.mean for c in taken.cells] == [c.mean for c in report.cells]

    changed = copies / report.cells[0].runs[0].folder.name / "model" / "model.json"
    model = json.loads(changed.read_text())
    changed.write_text(json.dumps({**model, "vectors": {**model["vectors"], "sha256": "0" * 64}}))
    other = run(given)  # its budget ends before any start
    assert (other.finished, other.left) == (3, 1)
    assert "the same command goes on" in describe(other)
    assert read_run(changed.parents[1]) is not None


def test_a_failed_run_is_reported_and_the_others_go_on(
    place: Path, report: GridReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors that lack elements of the data; graphs are made for a predictor with another specification."""
    few = tmp_path / "few.csv"
    few.write_text("element,0,1\nH,0.5,1.0\nO,1.0,0.5\n")
    monkeypatch.chdir(tmp_path)
    flags = ["--study", "table5", "--columns", "cgcnn", "cgcnn_ours", "matformer", "--vectors", f"ours={few}"]
    flags += ["--properties", "density", "--seeds", "0", "--epochs", "1", "--num-workers", "0"]
    flags += ["--out", str(report.folder.parent), "--tracking-uri", f"sqlite:///{place}/mlflow.db"]
    process = run_here("study", *flags)
    assert process.returncode == 3, process.stdout + process.stderr
    assert "2 of 3 runs finished, 1 of them before" in process.stdout
    assert "failed: density, cgcnn_ours" in process.stdout
    assert "no vector for elements of the data" in process.stdout
    tables = list(report.folder.parent.glob("study-table5-*/table.md"))
    assert "Failed:" in tables[0].read_text()


@pytest.fixture(scope="module", name="measured")
def _measured(place: Path, report: GridReport) -> GridConfig:
    """Densities of some compounds, as if measured 5 % larger."""
    calculated = next(report.folder.parent.glob("data/aflow*/crystals.parquet"))
    table = read_table(calculated)
    first = np.unique(reduced_compositions(table)[1], return_index=True)[1][::2]
    chosen = table.take(pa.array(np.sort(first)))
    write_table(chosen.append_column("exp_density", pc.multiply(chosen["density"], 1.05)), place / "measured.parquet")
    return config(
        place,
        study="table8",
        data=str(calculated),
        measured=str(place / "measured.parquet"),
        columns=("cgcnn",),
        properties=("density",),
        further_epochs=1,
    )


def test_a_study_in_two_steps_knows_all_its_runs(measured: GridConfig) -> None:
    begun = run(dataclasses.replace(measured, budget=1e-9))
    assert (begun.finished, begun.wanted, begun.left) == (0, 16, 16), "one, and three times five folds"


@pytest.mark.slow
def test_measured_values_are_learned_after_calculated_ones(measured: GridConfig) -> None:
    report = run(measured)
    assert (report.finished, report.wanted, report.left, report.failed) == (16, 16, 0, {})
    by_row = {cell.row.label: cell for cell in report.cells}
    assert list(by_row) == [CALCULATED_ONLY, MEASURED_ONLY, *FINE_TUNED.values()]
    num_measured = read_table(measured.measured).num_rows
    for label, cell in by_row.items():
        errors = errors_of(cell.runs)
        assert len(errors) == num_measured, "each compound is judged once"
        assert set(errors.index) == {f"exp_{i}" for i in read_table(measured.measured)["material_id"].to_pylist()}
        assert len(cell.runs) == (1 if label == CALCULATED_ONLY else 5)
    [start] = by_row[CALCULATED_ONLY].runs
    for label in FINE_TUNED.values():
        assert {run.config.start.init_model for run in by_row[label].runs} == {str(start.folder)}
    assert run(measured).again == 16


def test_what_a_study_cannot_show_is_said(place: Path, report: GridReport) -> None:
    """Vectors that are in no package, and differences from a column that was not requested."""
    shown = run(config(place, columns=("onehot", "official"), properties=("density",)))
    assert [cell.mean for cell in shown.cells] == [
        c.mean for c in report.cells if (c.row.property, c.column) == ("density", "onehot")
    ]
    assert shown.missing == {
        "CrysAtom, the authors' vectors": "its vectors have to be given: --vectors official=FILE",
        "difference of One-hot": "its baseline onehot92 is not among --columns",
    }
    assert "Baselines" not in (shown.folder / "table.md").read_text()
    with pytest.raises(ValueError, match="baseline: onehot92 is not among --columns onehot"):
        run(config(place, columns=("onehot",), baseline="onehot92"))


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    for changes, message in (
        ({"columns": ("onehto",)}, "columns: table7 has no onehto; it has onehot92, ours"),
        ({"baseline": "nothing"}, "baseline: table7 has no nothing"),
        ({"vectors": ("our=x.csv",)}, "vectors: there are no our; there are ours"),
        ({"properties": ("color",)}, "the crystal table has no column 'color'"),
        ({"finished": (str(tmp_path / "nowhere"),)}, "nowhere is no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            run(config(tmp_path, **changes))


@pytest.mark.slow
def test_on_ray_a_pretraining_comes_before_the_runs_that_take_it(
    ray_cluster: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    settings = {"study": "table9", "columns": ("ours", "ours50"), "properties": ("density",), "seeds": (0,)}
    report = run(config(tmp_path, **settings, pretrain_epochs=1, num_workers=2))
    assert not report.failed
    assert (report.finished, report.left) == (2, 0)
    dims = {c.column: {r.config.vectors.vectors for r in c.runs} for c in report.cells}
    assert len(dims["ours"]) == len(dims["ours50"]) == 1
    assert dims["ours"] != dims["ours50"]
    again = run(config(tmp_path, **settings, pretrain_epochs=1, num_workers=2))
    assert again.again == 2
    assert [c.mean for c in again.cells] == [c.mean for c in report.cells]
