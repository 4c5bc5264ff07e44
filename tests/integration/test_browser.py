"""MLflow and the report as users see them: real jobs, a real ``mlflow ui``, a real browser."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest

from crysatom.config import IngestConfig
from crysatom.crystals.ingest import ingest_plain
from crysatom.names import EMBEDDED_SOURCE
from crysatom.report.overview import arranged
from crysatom.tracking.reading import Store, TrackedRun
from tests.browser import look, require_chromium
from tests.run_job import run_here

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning"),  # mlflow.pyfunc about a class of its own
]

CRYSTALS = "data/first/crystals.parquet"
PRETRAIN = ["--embedding-dim", "8", "--num-layers", "2", "--projection-dim", "8", "--batch-size", "64", "--epochs", "2"]
PREDICT = ["--width", "16", "--num-layers", "2", "--hidden-dim", "16", "--epochs", "2", "--property", "density"]
EXPERIMENTS = ("crysatom-pretrain", "crysatom-first")
EVIL = "<script>alert(1)</script>"
MANY_COLORS = 60
"""A rendered page has more colors, from the edges of its letters; a blank one has one."""


def succeed(name: str, *flags: str) -> str:
    done = run_here(name, *flags)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], Path]) -> Iterator[Path]:
    """Folder of a user with a pretraining, a failed one, and density predictors with two kinds of vectors."""
    folder = tmp_path_factory.mktemp("browser")
    new_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ingest_plain(IngestConfig.of(source=EMBEDDED_SOURCE, out="data/first", max_atoms=12))
        here = ["--data", CRYSTALS, "--num-workers", "0"]
        succeed("pretrain", *here, *PRETRAIN, "--name", "first", "--register", "")
        failed = run_here("pretrain", *here, *PRETRAIN, "--lr", "1e9", "--name", EVIL.replace("/", "-"))
        assert "the loss is" in failed.stderr + failed.stdout
        for vectors in ("onehot", "runs/first/vectors"):
            succeed("downstream", *here, *PREDICT, "--vectors", vectors, "--seeds", "0", "--register", "")
        yield folder


@pytest.fixture(scope="module", name="runs")
def _runs(place: Path) -> list[TrackedRun]:
    return Store.at(f"sqlite:///{place}/mlflow.db").runs(EXPERIMENTS)


@pytest.fixture(scope="module", name="report")
def _report(place: Path) -> Path:
    said = succeed("report", "--experiment", *EXPERIMENTS, "--title", "My crystals", "--out", "out/report.html")
    assert "report on 4 runs" in said
    return place / "out" / "report.html"


def test_the_report_says_what_mlflow_holds(report: Path, runs: list[TrackedRun], place: Path) -> None:
    text = report.read_text()
    [table] = arranged(runs).tables
    assert len(table.groups) == 2
    for group in table.groups:
        [run] = group.runs
        for end in ("mae", "mae_low", "mae_high"):
            assert f"{run.metrics[f'test/{end}']:#.4g}" in text
        [folder] = [path for path in (place / "runs").iterdir() if path.name == run.name]
        element_errors = pd.read_csv(folder / "element_errors.csv")
        predictions = pd.read_csv(folder / "predictions.csv")
        errors = (predictions["prediction"] - predictions["target"]).abs()
        worst = predictions.loc[errors.idxmax()]
        assert f"{worst['material_id']}: target {worst['target']:.4g}" in text
        first = element_errors.iloc[0]
        assert (
            f"{first['element']}: {first['mae']:#.4g} g/cm³, {first['num_crystals']} test crystals contain it" in text
        )
        assert element_errors["num_crystals"].max() <= len(predictions)
    assert "Map of the element vectors" in text, "vectors are among the artifacts, registered or not"
    [failed] = [run for run in runs if run.status == "FAILED"]
    assert failed.tags["reason"].startswith("NonFiniteLossError: the loss is")
    assert html.escape(failed.tags["reason"][:60], quote=False) in text
    assert EVIL not in text
    assert all(run.run_id in text for run in runs)
    assert not re.search(r"(src|href)=\"(?!#|data:image/png;base64,|http://127.0.0.1:5000/#/)", text), (
        "nothing is loaded"
    )


def test_a_store_or_experiment_that_is_not_there_is_said(place: Path) -> None:
    assert place.is_dir()
    wrong = run_here("report", "--experiment", "crysatom-firts")
    assert wrong.returncode == 1
    assert "has no experiment 'crysatom-firts'; it has Default, crysatom-first, crysatom-pretrain" in wrong.stderr
    absent = run_here("report", "--experiment", "x", "--tracking-uri", "sqlite:///absent.db")
    assert absent.returncode == 1
    assert "there is no such file; name the store by --tracking-uri" in absent.stderr
    assert not (place / "absent.db").exists()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        away = f"http://me:secret@127.0.0.1:{probe.getsockname()[1]}"  # bound, but not listening
        silent = run_here("report", "--experiment", "x", "--tracking-uri", away)
    assert silent.returncode == 1
    warning, error = silent.stderr.splitlines()
    assert warning.startswith("warning: a URI on the command line holds a password")
    assert error.startswith("error: http://...@127.0.0.1:")
    assert "could not be read: its runs" in silent.stderr
    assert "secret" not in silent.stderr + silent.stdout


@pytest.mark.slow
def test_the_report_in_a_browser(report: Path, tmp_path: Path) -> None:
    brightness = {}
    for name, width, flags in (("light", 1280, ()), ("dark", 1280, ("--force-dark-mode",)), ("phone", 390, ())):
        seen = look(
            report.as_uri(),
            tmp_path / f"{name}.png",
            size=(width, 1400),
            until=lambda dom: "My crystals" in dom,
            flags=flags,
        )
        assert seen.colors > MANY_COLORS
        assert seen.picture.shape[:2] == (1400, width)
        assert "Security Policy" not in seen.console, "its own script may run"
        brightness[name] = seen.picture.mean()
    assert brightness["dark"] < 80
    assert brightness["light"] > 200


def test_the_report_fits_a_phone_and_its_tables_sort(report: Path, tmp_path: Path) -> None:
    asks = """<script>
    const button = [...document.querySelectorAll("#runs th button")].find((b) => b.textContent === "Run");
    const names = () => [...document.querySelectorAll("#runs tbody tr")].map((row) => row.cells[0].textContent);
    button.click(); const up = names(); button.click(); const down = names();
    document.body.insertAdjacentText("beforeend", "ASKED" + JSON.stringify({ up, down,
      over: document.documentElement.scrollWidth - document.documentElement.clientWidth }) + "ASKED");
    </script>"""
    page = tmp_path / "asked.html"
    text = re.sub(r"<meta http-equiv=[^>]*>", "", report.read_text())  # the policy allows only the page's own script
    page.write_text(text.replace("</body>", f"{asks}</body>"))
    dom = look(page.as_uri(), tmp_path / "phone.png", size=(390, 900), until=lambda dom: dom.count("ASKED") > 2).dom
    found = json.loads(html.unescape(dom.rsplit("ASKED", 2)[1]))
    assert found["over"] == 0, "only tables scroll sideways, in their boxes"
    assert len(found["up"]) == 4
    assert found["up"] == found["down"][::-1] == sorted(found["up"], key=str.lower)


@pytest.fixture(scope="module", name="ui")
def _ui(place: Path) -> Iterator[str]:
    """``mlflow ui`` on the store."""
    require_chromium()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (place / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{place}/mlflow.db"],
            stdout=log, stderr=log, cwd=place, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (place / "ui.log").read_text()
                time.sleep(0.5)
        else:
            raise AssertionError((place / "ui.log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


@pytest.mark.slow
def test_mlflow_in_a_browser(ui: str, runs: list[TrackedRun], tmp_path: Path) -> None:
    predictors = [run for run in runs if "predictor" in run.tags]
    experiment = predictors[0].experiment_id
    table = look(
        f"{ui}/#/experiments/{experiment}/runs?workflowType=machine_learning",
        tmp_path / "runs.png",
        size=(1800, 800),
        until=lambda dom: all(run.name in dom for run in predictors),
    )
    assert table.colors > MANY_COLORS
    for run in predictors:
        assert run.name in table.dom
        assert f"first ({run.tags['data_digest']})" in table.dom, "MLflow's column of data sets"
    assert table.dom.count("downstream.py") >= 2, "MLflow's column of sources"
    both = quote(json.dumps([run.run_id for run in predictors]))
    compared = look(
        f"{ui}/#/compare-runs?runs={both}&experiments={quote(json.dumps([experiment]))}",
        tmp_path / "compare.png",
        size=(1600, 2600),
        until=lambda dom: "test/mae" in dom,
    )
    assert compared.colors > MANY_COLORS
    assert "Comparing 2 Runs" in compared.dom
    assert "test/mae_over_mad" in compared.dom
    for run in predictors:
        assert f"{run.metrics['test/mae']:.3f}" in compared.dom


SPACE = """
from crysatom.config import Choice, SearchSpace

def space():
    fixed = {"epochs": 2, "embedding_dim": 8, "num_layers": 2, "projection_dim": 8, "batch_size": 64}
    return SearchSpace(objective="pretrain", settings={"lr": Choice((1e-3, 3e-3))}, fixed=fixed)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
def test_a_sweep_in_a_browser(place: Path, ui: str, tmp_path: Path) -> None:
    (place / "mine.py").write_text(SPACE)
    probes = ["--probes", "1", "--probe-epochs", "2", "--max-concurrent", "1", "--properties", "density"]
    succeed("tune", "--space", "mine.py", "--data", CRYSTALS, "--name", "sweep", *probes)
    [sweep] = arranged(Store.at(f"sqlite:///{place}/mlflow.db").runs(["crysatom-tune"])).sweeps
    assert len(sweep.ranked) == 2
    table = look(
        f"{ui}/#/experiments/{sweep.run.experiment_id}/runs?workflowType=machine_learning",
        tmp_path / "sweep.png",
        size=(1800, 800),
        until=lambda dom: "sweep" in dom and "matching run" in dom,
    )
    assert table.colors > MANY_COLORS
    assert ">sweep<" in table.dom
    succeed("report", "--experiment", "crysatom-tune", "--out", "sweep.html")
    best, other = (f"{trial.metrics['probe/mae_over_mad']:.4f}" for trial in sweep.ranked)
    seen = look(
        (place / "sweep.html").as_uri(), tmp_path / "report.png", size=(1280, 1400), until=lambda dom: "sweep" in dom
    )
    assert seen.colors > MANY_COLORS
    assert seen.dom.index(best) < seen.dom.index(other)
    for trial in sweep.ranked:
        assert f"<title>{trial.name}: " in seen.dom, "a line of the drawing"
