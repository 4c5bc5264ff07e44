"""``jobs/study.py --study few_labels`` on the crystals in pymatgen: run, resumed, reused; no test crystal is read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from crysatom.config import FewLabelsConfig
from crysatom.crystals.table import write_table
from crysatom.crystals.targets import targets_for
from crysatom.names import MATERIAL_ID
from crysatom.studies.few_labels import pipeline
from crysatom.studies.few_labels.cells import CELLS_CSV, Cell, read_cells
from crysatom.studies.few_labels.pools import by_hash
from crysatom.tracking.store import client
from crysatom.vectors.spectrum_choice import POWERS
from tests.run_job import run_here
from tests.small_runs import one_thread  # noqa: F401

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SALT = "a"
FLAGS = (
    *("--study", "few_labels", "--name", "few", "--num-workers", "0", "--salt", SALT, "--epochs", "2"),
    *("--labels", "40", "--validation-labels", "8", "--draws", "2", "--vectors", "onehot92", "onehot"),
)


@pytest.fixture(name="place")
def empty_place(tmp_path: Path, new_store: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    new_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRYSATOM_HOME", raising=False)
    return tmp_path


def study(*flags: str, fails: int = 0) -> str:
    done: subprocess.CompletedProcess[str] = run_here("study", *FLAGS, *flags)
    assert done.returncode == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def cells(place: Path) -> dict[str, Cell]:
    return {cell.identity: cell for cell in read_cells(place / "runs" / "few" / CELLS_CSV)}


def errors(place: Path) -> list[tuple[str, int, float, float]]:
    """Return table, draw, error and validation error of each cell."""
    return [(c.table, c.draw, c.mae, c.val_mae) for c in cells(place).values()]


def test_a_study_is_run_resumed_and_reused(place: Path) -> None:
    predictors = ("--predictors", "cgcnn", "composition")
    said = study(*predictors, "--budget", "0.005", fails=3)  # no cell starts after 0.3 seconds
    done = len(cells(place))
    assert 0 < done < 8
    assert f"left to do: {8 - done} of 8 cells; the same command goes on with them" in said
    said = study(*predictors)
    assert f"{done} of 8 cells are there, {8 - done} to do" in said
    assert (
        f"cell {8 - done}/{8 - done}: volume_per_atom, 40 labels, composition, onehot, draw 1, seed 0: test MAE" in said
    )
    assert "2 comparisons (2 tables, 2 tasks); everything tried in this study is in the table." in said
    folder = place / "runs" / "few"
    table = pd.read_csv(folder / "table.csv").set_index(["predictor", "table"])
    finished = pd.DataFrame([vars(cell) for cell in cells(place).values()])
    mae = finished.pivot_table(index=["predictor", "draw"], columns="table", values="mae")
    for predictor in ("cgcnn", "composition"):
        assert table.loc[(predictor, "onehot92"), "mae"] == pytest.approx(mae.loc[predictor, "onehot92"].mean())
        paired = mae.loc[predictor, "onehot"] - mae.loc[predictor, "onehot92"]
        assert table.loc[(predictor, "onehot"), "difference"] == pytest.approx(paired.mean())
        assert np.isfinite(table.loc[(predictor, "onehot"), "crystals_percent_low"])
    assert "| onehot92 |" in (folder / "table.md").read_text()
    assert r"\toprule" in (folder / "table.tex").read_text()
    assert {path.name for path in folder.glob("figure*.png")} == {"figure-1.png", "figure-2.png"}

    database = client(f"sqlite:///{place / 'mlflow.db'}")
    experiment = database.get_experiment_by_name("crysatom-studies")
    assert experiment is not None
    [run] = database.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    logged = {name: value for name, value in run.data.metrics.items() if name.startswith("percent/")}
    assert list(logged.values()) == pytest.approx(
        [table.loc[(predictor, "onehot"), "percent"] for predictor in ("cgcnn", "composition")]
    )

    said = study(*predictors, "--name", "more", "--draws", "3")
    assert "8 of 12 cells are there, 4 to do" in said
    alone = place / "kept"
    alone.mkdir()
    shutil.copy(folder / CELLS_CSV, alone)
    shutil.copytree(place / "runs" / "data", place / "new" / "data")
    said = study(*predictors, "--out", "new", "--finished", "kept")
    assert "8 of 8 cells are there, 0 to do" in said
    again = pd.read_csv(place / "new" / "few" / "table.csv").set_index(["predictor", "table"])
    assert np.isnan(again.loc[("cgcnn", "onehot"), "crystals_percent_low"])
    columns = ["mae", "difference", "low", "high", "p_value", "p_holm"]
    pd.testing.assert_frame_equal(again[columns], table[columns])


def test_no_test_crystal_is_read_for_choices_between_variants(place: Path, prototypes: pa.Table) -> None:
    ids = np.array(prototypes[MATERIAL_ID].to_pylist(), dtype=object)
    tested = by_hash(ids, np.ones(len(ids), dtype=bool), SALT, test=True).evaluated
    labels = targets_for(prototypes, "volume_per_atom", ids).labels
    wrong = labels.copy()
    wrong[tested] = 1e6
    without = np.setdiff1d(np.arange(len(ids)), tested)
    tables = {
        "good": prototypes.append_column("y", pa.array(labels)),
        "wrong": prototypes.append_column("y", pa.array(wrong)),
        "less": prototypes.append_column("y", pa.array(labels)).take(pa.array(without)),
    }
    found: dict[str, Sequence[object]] = {}
    for name, table in tables.items():
        (place / name).mkdir()
        write_table(table, place / f"{name}.parquet")
        flags = ("--data", f"{name}.parquet", "--out", f"{name}/runs", "--properties", "y")
        study(*flags, "--evaluate", "validation")
        found[name] = errors(place / name)
    assert found["good"] == found["wrong"] == found["less"]
    assert len(found["good"]) == 4
    study("--data", "wrong.parquet", "--out", "wrong/runs", "--properties", "y", "--name", "test")
    assert all(cell.mae > 1e5 for cell in read_cells(place / "wrong" / "runs" / "test" / CELLS_CSV))


def test_held_out_elements_and_chosen_spectra(place: Path) -> None:
    tables = ("onehot92", "random=random:{draw}", "onehot92@auto")
    study("--held-out", "none", "group:17", "--draws", "1", "--split", "composition", "--vectors", *tables)
    powers = [cell.power for cell in cells(place).values() if cell.table == "onehot92@auto"]
    assert len(powers) == 2
    assert set(powers) <= set(POWERS)
    held = {cell.held_out: cell for cell in cells(place).values()}
    assert {cell.salt for cell in held.values()} == {f"composition:{SALT}"}
    assert held["group:17"].elements == "F Cl Br I At Ts"
    assert held["group:17"].num_crystals < held["none"].num_crystals
    assert "cgcnn, 40 labels, held out: group:17" in (place / "runs" / "few" / "table.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--draws", "9"), "volume_per_atom, 40 labels: 9 draws of 40 training and 8 validation crystals are needed"),
        (("--properties", "unheard_of"), "the crystal table has no column 'unheard_of'"),
        (("--predictors", "unheard_of"), "unheard_of"),
        (("--predictors", "composition", "--labels", "0"), "predictor composition takes up to 6,000 labels, not all"),
        (("--vectors", "onehot92", "x=x.csv"), "x has no vectors for "),
        (("--finished", "nothing"), "nothing is no file and no folder with a cells.csv"),
        (("--split", "official"), "has no column split_volume_per_atom"),
    ],
)
def test_what_cannot_be_done_is_said(place: Path, flags: tuple[str, ...], message: str) -> None:
    (place / "x.csv").write_text("element,a,b\nO,1,2\nNa,3,4\n")
    assert message in study(*flags, fails=1)
    assert not (place / "runs" / "few").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_of_a_cluster_give_the_same_errors(place: Path) -> None:
    """Two predictors with graphs of different kinds, in this process and on two workers."""
    settings = {
        "draws": 1,
        "labels": (20,),
        "validation_labels": 10,
        "max_test": 10,
        "epochs": 1,
        "vectors": ("onehot92", "onehot"),
        "predictors": ("cgcnn", "potnet"),
        "salt": SALT,
        "tracking_uri": f"sqlite:///{place / 'mlflow.db'}",
    }
    found = []
    for workers in (0, 2):
        out = place / f"runs{workers}"
        if workers:
            shutil.copytree(place / "runs0" / "data", out / "data")
        said, code = pipeline.run(FewLabelsConfig.of(**settings, num_workers=workers, out=str(out), name="few"))
        assert code == 0, said
        read = read_cells(out / "few" / CELLS_CSV)
        found.append({cell.identity: (cell.mae, cell.val_mae) for cell in read})
    assert len(found[0]) == 4
    assert found[1] == {identity: pytest.approx(mine, rel=1e-5) for identity, mine in found[0].items()}
