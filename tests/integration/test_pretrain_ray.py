"""Pretraining on real Ray workers: the same vectors on any number of workers, even if some are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from crysatom.config import PretrainConfig
from crysatom.graphs.shards import MANIFEST, file_sha256, is_held_out
from crysatom.names import DISTANCE, MATERIAL_ID, MATERIAL_KEY
from crysatom.pipelines.pretraining import FinishedRun, run
from crysatom.runs.folder import CHECKPOINTS
from crysatom.tracking.journal import Journal
from crysatom.tracking.store import client
from crysatom.training.loop import NonFiniteLossError
from crysatom.training.machine import hardware
from tests.conftest import REPOSITORY
from tests.faults.world import wait_for
from tests.run_job import run_here
from tests.small_runs import prepared

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(900),
    # Ray Data and MLflow use options deprecated by themselves or by SQLAlchemy
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

EPOCHS = 6
MEANS = {"element_weight": 0.0, "bond_weight": 0.0, "mask_unit": "atoms", "extraction": "eval_mean"}
"""Means of hidden states: their rounding is not amplified as that of the decoders' principal axes is."""

SMALL: dict[str, Any] = {
    "embedding_dim": 16,
    "projection_dim": 16,
    "batch_size": 64,
    "epochs": EPOCHS,
    "register": "",
    **MEANS,
}
WAIT_S = 300.0
"""Timeout of operations that take ten seconds on an idle machine."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], Path]) -> Path:
    """Folder of this file's runs, with graphs and a tracking store."""
    folder = tmp_path_factory.mktemp("pretrain")
    shards = prepared(PretrainConfig.of(num_workers=0), folder)
    shards.rename(folder / "graphs")
    new_store(folder)
    return folder


def store(place: Path) -> str:
    return f"sqlite:///{place}/mlflow.db"


def config(place: Path, name: str, **changes: Any) -> PretrainConfig:
    settings = {"data": str(place / "graphs"), "out": str(place), "name": name, "tracking_uri": store(place)}
    return PretrainConfig.of(**{**SMALL, **settings, "num_workers": 2, **changes})


@pytest.fixture(scope="module")
def undisturbed(place: Path, ray_cluster: None) -> FinishedRun:
    assert ray_cluster is None
    return run(config(place, "undisturbed"))


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def difference(one: FinishedRun, other: FinishedRun) -> float:
    """Return the largest relative difference between the vectors of two runs."""
    assert one.vectors.symbols == other.vectors.symbols
    a, b = one.vectors.vectors.astype(np.float64), other.vectors.vectors.astype(np.float64)
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


def epochs_in_mlflow(finished: FinishedRun) -> list[int]:
    history = MlflowClient(finished.tracking_uri).get_metric_history(finished.run_id, "train/loss")
    return sorted(metric.step for metric in history)


@pytest.mark.usefixtures("_threads")
def test_no_worker_one_and_two_give_the_same_vectors(place: Path, undisturbed: FinishedRun) -> None:
    plain = run(config(place, "plain", num_workers=0))
    one = run(config(place, "one", num_workers=1))
    assert difference(one, plain) == 0, "Ray must not change what a process computes"
    # Sums over crystals have another order: float32 rounding, amplified over the steps. A relative change of 1e-7 of
    # the initial weights changes these vectors by 4e-4 and the loss of the second epoch by 1.1e-4.
    assert difference(undisturbed, one) < 1e-3
    drift = (undisturbed.history["train/loss"] / one.history["train/loss"] - 1).abs()
    assert drift[1] < 5e-4
    assert drift.drop(1).max() < 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("_threads")
def test_a_process_and_two_workers_agree_at_the_default_width(place: Path) -> None:
    settings = PretrainConfig.of(epochs=2, register="").flat()
    kept = {k: settings[k] for k in ("embedding_dim", "projection_dim", "batch_size", "epochs", "register")}
    plain = run(config(place, "wide-plain", **kept, num_workers=0))
    two = run(config(place, "wide-two", **kept))
    assert plain.vectors.dim == 200
    assert difference(two, plain) < 1e-3  # as above


def test_mlflow_is_told_of_the_machines_of_the_workers(place: Path, undisturbed: FinishedRun) -> None:
    records = [record for record, _ in Journal(place / "undisturbed" / "tracking").records()]
    assert "hardware" not in records[0]["tags"], "the job may run on another machine than its workers"
    assert [record["tags"] for record in records if record["op"] == "tags"] == [{"hardware": hardware()}]
    mlflow = client(store(place))
    assert mlflow.get_run(undisturbed.run_id).data.tags["hardware"] == hardware()
    assert undisturbed.vectors.provenance["hardware"] == hardware()
    for name in ("system/cpu_utilization_percentage", "system/process_memory_megabytes"):
        found = mlflow.get_metric_history(undisturbed.run_id, name)
        assert sorted(metric.step for metric in found) == list(range(EPOCHS))
        assert all(metric.value > 0 for metric in found), "measured over the epoch, by those who computed it"


def train_workers(parent: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in parent.children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::RayTrainWorker"]:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / CHECKPOINTS).glob("epoch-*"))


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch_changes_nothing(
    place: Path, undisturbed: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    killed: list[list[str]] = []

    def kill_one() -> None:
        wait_for(lambda: checkpoints(place / "killed"), "the first checkpoint")
        time.sleep(0.2)  # into the next epoch
        train_workers(psutil.Process())[-1].kill()
        killed.append(checkpoints(place / "killed"))

    killer = threading.Thread(target=kill_one)
    killer.start()
    finished = run(config(place, "killed"))
    killer.join()
    assert killed[0][-1] < f"epoch-{EPOCHS - 1:06d}", "it was killed after its work"
    shown = capsys.readouterr().out
    assert "training resumes from the last checkpoint" in shown
    assert shown.count("training on 2 x cpu") == 2
    assert difference(finished, undisturbed) <= 1e-6
    assert epochs_in_mlflow(finished) == list(range(EPOCHS))


def flags_of(place: Path, **changes: Any) -> list[str]:
    settings = config(place, "").flat() | changes
    flags = {name: settings[name] for name in (*SMALL, "data", "out", "name", "tracking_uri", "num_workers")}
    return [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def job(place: Path, name: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS"}}
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "jobs" / "pretrain.py"), *flags_of(place, name=name)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def interrupt(process: subprocess.Popen[str], folder: Path, number: int, *, after: str) -> str:
    """Send a signal once the job has finished an epoch after the given checkpoint; return its output."""
    family = psutil.Process(process.pid)
    try:
        wait_for(lambda: process.poll() is not None or checkpoints(folder)[-1:] > [after], f"an epoch after {after!r}")
        assert process.poll() is None, process.communicate()[0]
        descendants, workers = family.children(recursive=True), train_workers(family)
        time.sleep(0.2)  # into the next one
        process.send_signal(number)
        output, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode not in (0, -signal.SIGABRT)
        assert checkpoints(folder)[-1] < f"epoch-{EPOCHS - 1:06d}", "it was interrupted after its work"
        assert len(workers) == 2
        assert not psutil.wait_procs(workers, timeout=60)[1], "they would go on writing checkpoints"
        for process_of_ray in psutil.wait_procs(descendants, timeout=5)[1]:
            process_of_ray.kill()  # its agents take a while to notice
    finally:
        process.kill()
    return output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_job_is_resumed_and_nothing_else_takes_its_folder(
    number: signal.Signals, place: Path, tmp_path: Path, undisturbed: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"job-{number.value}"
    folder = place / name
    output = interrupt(job(place, name, cwd=tmp_path), folder, number, after="")
    assert "Traceback" not in output
    assert "*** SIGTERM" not in output, "a user who stops a job needs no stack trace of Ray"
    if number != signal.SIGKILL:
        assert f"{number.name}: saving after this step, then stopping; a second one stops at once\n" in output
        assert re.search(r"stopped after (step \d of )?epoch \d, as requested; continue with --resume\n", output)
        in_the_midst = "stopped after step" in output  # otherwise the request came at the last step of an epoch
        assert bool(list((folder / CHECKPOINTS).glob("step-*"))) >= in_the_midst
    run_id = json.loads((folder / "tracking" / "state.json").read_text())["run_id"]
    assert ("\nto continue: " in output) == (number == signal.SIGINT)
    status = "RUNNING" if number == signal.SIGKILL else "KILLED"
    assert client(store(place)).get_run(run_id).info.status == status

    with pytest.raises(ValueError, match="unfinished run of this configuration; continue it with --resume"):
        run(config(place, name))
    with pytest.raises(ValueError, match=r"holds a run of another configuration \(lr 0.003 -> 0.001\)"):
        run(config(place, name, resume=True, lr=0.001))
    with other_crystals(place / "graphs"), pytest.raises(ValueError, match="holds a run on other data"):
        run(config(place, name, resume=True))
    capsys.readouterr()
    finished = run(config(place, name, resume=True))
    assert "epoch   1/6" not in capsys.readouterr().out
    assert finished.run_id == run_id
    assert difference(finished, undisturbed) <= 1e-6
    assert epochs_in_mlflow(finished) == list(range(EPOCHS))
    assert client(store(place)).get_run(run_id).info.status == "FINISHED"

    again = run(config(place, name, num_workers=1))
    assert again.again
    assert difference(again, finished) == 0


def rewrite(place: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Return a copy of the graphs with a changed table and a manifest that fits it."""
    folder = place / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "graphs", folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    [shard] = manifest["shards"]
    path = folder / shard["file"]
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    shard.update(bytes=path.stat().st_size, sha256=file_sha256(path))
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@contextmanager
def other_crystals(graphs: Path) -> Iterator[None]:
    """Temporarily replace the graphs in a folder."""
    fewer = rewrite(graphs.parent, "fewer", lambda table: table.slice(0, 200))
    aside = graphs.rename(graphs.parent / "aside")
    fewer.rename(graphs)
    yield
    graphs.rename(fewer)
    aside.rename(graphs)


def train_keys(place: Path) -> pa.Table:
    [path] = (place / "graphs").glob("shard-*.parquet")
    table = pq.read_table(path, columns=[MATERIAL_ID, MATERIAL_KEY])
    return table.filter(pa.array(~is_held_out(table[MATERIAL_KEY].to_numpy(), PretrainConfig.of().holdout_fraction)))


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["auto", "speed"])
def test_streamed_batches_reach_all_crystals(
    balance: str, place: Path, undisturbed: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"streamed_{balance}"
    finished = run(config(place, name, epochs=2, batch_size=55, loader="auto", memory_gb=1e-4, balance=balance))
    shown = capsys.readouterr().out
    assert "graphs streamed" in shown
    assert ("shares of each batch, by measured speed: worker 0 " in shown) == (balance == "speed")
    seen = (finished.history["crystals_per_second"] * finished.history["seconds"]).round().tolist()
    count = len(train_keys(place))
    assert all(count - 1 <= crystals <= count for crystals in seen)
    state = json.loads((place / name / CHECKPOINTS / "epoch-000001" / "state.json").read_text())
    assert state["step"] == 2 * (count // 55)
    assert count // 55 < count // (2 * (55 // 2)), "batches of twice 27 would have been more"
    assert finished.history["data_wait_share"].between(0, 1).all()
    # Other batches, hence another run of the same kind
    for term in ("connectivity", "features"):
        streamed, resident = (done.history[f"train/{term}"] for done in (finished, undisturbed))
        np.testing.assert_allclose(streamed[0], resident[0], rtol=0.02)
        assert streamed[1] < streamed[0]
    assert finished.vectors.symbols == undisturbed.vectors.symbols


def broken(place: Path) -> tuple[Path, str]:
    """Return graphs with one NaN distance, and the id of the crystal."""
    name = train_keys(place)[MATERIAL_ID][100].as_py()

    def spoil(table: pa.Table) -> pa.Table:
        row = table[MATERIAL_ID].to_pylist().index(name)
        distances = table[DISTANCE].to_pylist()
        distances[row][0] = float("nan")
        index = table.schema.get_field_index(DISTANCE)
        return table.set_column(index, table.schema.field(DISTANCE), pa.array(distances, pa.list_(pa.float32())))

    return rewrite(place, "spoiled", spoil), name


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_ends_the_run_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, name = broken(place)
    with pytest.raises(NonFiniteLossError, match=rf"loss is nan in epoch 0, batch \d, with crystals {name};"):
        run(config(place, "broken", data=str(data), loader="streamed", balance="speed"))
    shown = capsys.readouterr().out
    assert "shares of each batch, by measured speed: worker 0 " in shown
    assert shown.count("training on 2 x cpu") == 1, "another attempt would meet the same crystal"
    assert checkpoints(place / "broken") == []


def test_a_job_that_fails_says_why_in_one_line(place: Path) -> None:
    data, name = broken(place)
    failed = run_here("pretrain", *flags_of(place, name="broken-job", data=data, num_workers=0))
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: the loss is nan in epoch 0, batch ")
    assert name in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_more_workers_than_the_machine_has_are_refused_at_once(place: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match="16 workers of 1 CPU need 16, this cluster has 3; use fewer --num-workers"):
        run(config(place, "many", num_workers=16))
    assert time.monotonic() - start < 10
    with pytest.raises(ValueError, match="2 workers of 1 GPU need 2, this cluster has 0"):
        run(config(place, "gpu").replace(use_gpu=True))
