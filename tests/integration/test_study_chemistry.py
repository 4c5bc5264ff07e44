"""``jobs/study.py`` as users run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crysatom.names import ELEMENT_BINS, SYMBOLS
from crysatom.vectors.elements import element_features
from crysatom.vectors.files import write_vectors
from crysatom.vectors.table import AtomVectors
from tests.run_job import run_here

FLAGS = (
    "--maps",
    "components",
    "--vector-scale",
    "standardize",
    "--draws",
    "199",
    "--probe-draws",
    "99",
    "--name",
    "periodic",
)
TABLES = ("--vectors", "facts=facts/vectors.csv", "random:0:16", "shuffled=permuted:elements")
MAIN_GROUPS = [*range(1, 21), *range(31, 39), *range(49, 57)]
"""A subset of the elements, to be fast: their labels are placed in each map."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_chemistry_is_found_where_it_is_and_told_to_mlflow(
    tmp_path: Path, new_store: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRYSATOM_HOME", raising=False)
    features = element_features(ELEMENT_BINS).lookup(MAIN_GROUPS)
    write_vectors(AtomVectors(atomic_numbers=np.array(MAIN_GROUPS), vectors=features), tmp_path / "facts")
    again = (*TABLES, *FLAGS)
    done = run_here("study", "--study", "chemistry", *again)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "periodic"
    probes = pd.read_csv(folder / "probes.csv").set_index(["table", "property", "method"]).sort_index()
    assert probes.loc[("facts", "covalent_radius_pm", "ridge"), "score"] > 0.9
    assert probes.loc["facts", "p"].max() == 0.01
    for blind in ("random:0:16", "shuffled"):
        assert probes.loc[blind, "score"].max() < 0.4
    statements = pd.read_csv(folder / "statements.csv")
    assert set(statements.loc[statements["table"] != "facts", "verdict"]) <= {"not supported", "not tested"}
    alkali = statements[statements["statement"].str.startswith("Alkali metals")].set_index(["table", "distance"])
    assert alkali.loc[("facts", "cosine"), "at_most"] < 0.05
    results = json.loads((folder / "results.json").read_text())
    assert len(results["statements"]) == len(statements)
    assert results["elements"] == [SYMBOLS[z - 1] for z in MAIN_GROUPS]
    assert len(results["left_out"]["random:0:16"]) == 118 - len(MAIN_GROUPS)
    assert r"\toprule" in (folder / "ridge.tex").read_text()
    assert {path.name for path in (folder / "figures").glob("*.png")} == {
        "predictions.png",
        *(f"{table}-components-{fact}.png" for table in ("facts", "random-0-16", "shuffled") for fact in FACTS),
    }
    assert f"report: {folder / 'report.md'}" in done.stdout

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("crysatom-studies")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    score = probes.loc[("facts", "ionization_energy_ev", "neighbors"), "score"]
    assert run.data.metrics["facts/neighbors/ionization_energy_ev/score"] == pytest.approx(score)
    assert {"report.md", "results.json", "statements.csv", "figures"} <= {
        file.path for file in client.list_artifacts(run.info.run_id)
    }

    assert "Nothing to do" in run_here("study", "--study", "chemistry", *again).stdout
    other = run_here("study", "--study", "chemistry", *again, "--seed", "1")
    assert other.returncode == 1
    assert "holds a run of another configuration (seed 0 -> 1)" in other.stderr


FACTS = ("group", "block", "period")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (("nothing.csv",), "nothing.csv"),
        (("unheardof",), "no vectors are known as 'unheardof'"),
        (("random:0", "Random-0=random:1"), "too similar"),
    ],
)
def test_tables_that_cannot_serve_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectors: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_here("study", "--study", "chemistry", "--maps", "none", "--vectors", *vectors)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()
