"""Sweeps with real Ray Tune and MLflow: killed and resumed, with a failing trial, stopped by halving, nested."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import ray
from ray.util import placement_group_table

from crysatom.config import Choice, PretrainConfig, SearchSpace, TuneConfig, load_space, parse
from crysatom.names import PROBE
from crysatom.pipelines.pretraining import run as pretrain
from crysatom.sweeps.record import TRIAL_JSON
from crysatom.sweeps.sweep import BEST_JSON, RESULTS_CSV, FinishedSweep, describe, run
from crysatom.sweeps.trial import TRIALS, VECTORS
from crysatom.tracking.store import client
from crysatom.vectors.files import read_vectors
from tests.conftest import REPOSITORY

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(900),
    # Ray Tune and MLflow use options deprecated by themselves or by SQLAlchemy
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

WAIT_S = 300.0
FAST = {"epochs": 6, "embedding_dim": 16, "num_layers": 2, "projection_dim": 16, "batch_size": 64}
RATES = (3e-3, 1e9, 1e-3)
SPACE = f"""
from crysatom.config import Choice, SearchSpace

def space():
    return SearchSpace(objective="pretrain", settings={{"lr": Choice({RATES})}}, fixed={FAST})
"""


def config(place: Path, name: str, **changes: Any) -> TuneConfig:
    where = {"space": "mine.py", "out": str(place), "name": name, "tracking_uri": f"sqlite:///{place}/mlflow.db"}
    return TuneConfig.of(**{**where, "probes": 2, "probe_epochs": 2, "max_concurrent": 1, **changes})


def start(wanted: TuneConfig, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "jobs" / "tune.py")]
    names = ("space", "out", "name", "tracking_uri", "probes", "probe_epochs", "max_concurrent")
    command += [f"--{name.replace('_', '-')}={wanted.flat()[name]}" for name in names]
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS"}}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_when(process: subprocess.Popen[str], condition: Callable[[], Any], number: signal.Signals) -> None:
    """Send a signal once the condition holds; no process may remain."""
    family = psutil.Process(process.pid)
    try:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        descendants = family.children(recursive=True)
        # workers of a killed job take a while to notice
        late = ("ray::DashboardAgent", "ray::RuntimeEnvAgent") if number == signal.SIGKILL else ()
        agents = [each for each in descendants if any(name.startswith(each.name()) for name in late)]
        process.send_signal(number)
        process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode != 0
    try:
        alive = psutil.wait_procs([each for each in descendants if each not in agents], timeout=60)[1]
        assert not alive, [left.name() for left in alive]
    finally:
        for left in psutil.wait_procs(descendants, timeout=0)[1]:
            left.kill()


def trial_folders(sweep: Path) -> list[Path]:
    return sorted((sweep / TRIALS).glob("*"))


def known(folder: Path) -> dict[str, Any]:
    file = folder / TRIAL_JSON
    return json.loads(file.read_text()) if file.exists() else {"ended": "", "history": []}


def of_third(sweep: Path) -> list[Any]:
    """Checkpoints of the third trial, which starts when the first has finished and the second has failed."""
    folders = trial_folders(sweep)
    return list((folders[2] / "checkpoints").glob("epoch-*")) if len(folders) == 3 else []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_sweep_repeats_no_finished_trial(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, file = tmp_path / "runs", tmp_path / "mine.py"
    file.write_text(SPACE)
    wanted = config(place, "sweep", space=str(file), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    sweep = place / "sweep"
    kill_when(start(wanted, tmp_path), lambda: of_third(sweep), number)
    first, second, third = trial_folders(sweep)
    assert [known(folder)["ended"] for folder in (first, second, third)] == ["finished", "failed", ""]
    before = (first / TRIAL_JSON).stat().st_mtime_ns
    [done] = json.loads((of_third(sweep)[-1] / "state.json").read_text())["history"][:1]
    space = load_space(str(file), tmp_path)
    with pytest.raises(ValueError, match="holds an unfinished sweep; continue it with --resume"):
        run(wanted, space)

    capsys.readouterr()
    finished = run(wanted.replace(resume=True), space)
    shown = capsys.readouterr().out
    assert (first / TRIAL_JSON).stat().st_mtime_ns == before
    assert f"trial {first.name}: started" not in shown
    assert "failed: NonFiniteLossError: the loss is nan" in shown
    # the interrupted trial resumed from its checkpoint: earlier work was not repeated
    history = known(third)["history"]
    assert [epoch["epoch"] for epoch in history] == list(range(FAST["epochs"]))
    assert history[0]["seconds"] == done["seconds"]
    check_results(finished, tmp_path)
    check_mlflow(finished)
    check_best(finished, tmp_path)


def check_results(finished: FinishedSweep, tmp_path: Path) -> None:
    best, other, failed = finished.trials
    assert [best.ended, other.ended, failed.ended] == ["finished", "finished", "failed"]
    assert best.score < other.score < 1.2
    table = pd.read_csv(finished.folder / RESULTS_CSV)
    np.testing.assert_allclose(table["mae_over_mad"][:2], [best.score, other.score])
    np.testing.assert_allclose(table["difference"][:2], [0, other.score - best.score], atol=1e-12)
    assert "NonFiniteLossError" in table["reason"][2]
    assert sorted(table["lr"]) == sorted(RATES)
    assert str(finished.folder / BEST_JSON) in describe(finished)
    assert tmp_path in finished.folder.parents


def check_mlflow(finished: FinishedSweep) -> None:
    mlflow = client(finished.tracking_uri)
    parent = mlflow.get_run(finished.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials/failed"] == 1
    runs = mlflow.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{finished.run_id}'")
    assert {run.data.params["lr"]: run.info.status for run in runs} == {
        "0.003": "FINISHED",
        "1000000000.0": "FAILED",
        "0.001": "FINISHED",
    }
    for trial in finished.trials:
        [mine] = [run for run in runs if run.data.params["lr"] == str(trial.settings["lr"])]
        points = mlflow.get_metric_history(mine.info.run_id, PROBE)
        expected = [(int(probe["epoch"]), probe[PROBE]) for probe in trial.probes]
        assert sorted((point.step, point.value) for point in points) == expected
        assert mine.data.tags["ended"] == trial.ended
        assert mine.data.tags["reason"] == trial.reason


def check_best(finished: FinishedSweep, tmp_path: Path) -> None:
    """Check that the best trial's vectors equal those of the pretraining job with the preset file."""
    flags = ["--config", str(finished.folder / BEST_JSON), "--num-workers", "0", "--name", "best", "--register", ""]
    wanted = parse(PretrainConfig, [*flags, "--out", str(tmp_path), "--tracking-uri", finished.tracking_uri])
    table = read_vectors(finished.trials[0].folder / VECTORS)
    np.testing.assert_array_equal(pretrain(wanted).vectors.vectors, table.vectors)


@pytest.mark.slow
def test_halving_ends_nested_trials_in_good_order(tmp_path: Path) -> None:
    space = SearchSpace(
        objective="pretrain",
        settings={"lr": Choice((3e-3, 1e-2, 1e-3, 1e-7))},
        fixed={**FAST, "epochs": 8},
        halving=2,
    )
    # 2 workers and a hundredth of a CPU: one trial at a time on 3 CPUs. Without the dashboard, as here, Ray does not
    # release the reservation of a trial that Tune kills, and the next would wait forever.
    wanted = config(tmp_path, "nested", num_workers=2, max_concurrent=0, probes=4)
    finished = run(wanted, space)
    ended = [trial.ended for trial in finished.trials]
    assert ended.count("finished") + ended.count("stopped") == 4
    assert ended.count("stopped") >= 1
    assert all(len(trial.history) < 8 for trial in finished.trials if trial.ended == "stopped")
    left = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    assert left == []
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
    with pytest.raises(
        ValueError, match=r"not one trial fits: it needs 3 workers of 1 CPU, and 0.01 CPU, this cluster"
    ):
        run(config(tmp_path, "large", num_workers=3), space)
