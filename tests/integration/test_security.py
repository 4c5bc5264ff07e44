"""Security of whole jobs: pickled models in MLflow, secrets in output files, open ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from crysatom.models.files import load_model
from crysatom.tracking.encoders import fetch_encoder
from crysatom.tracking.models import describe_to_mlflow, fetch_model, fetch_trained
from crysatom.tracking.reading import Store
from crysatom.tracking.runs import Tracker
from crysatom.tracking.store import client
from crysatom.tracking.vectors import load_vectors
from crysatom.vectors.files import write_vectors
from crysatom.vectors.given import given_vectors
from tests.conftest import REPOSITORY
from tests.run_job import run_here
from tests.run_script import run_script
from tests.saved_models import write_model
from tests.small_runs import make_shards
from tests.traps import FORMS

pytestmark = [  # third parties' own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning"),  # mlflow.pyfunc about a class of its own
]


@pytest.fixture(name="store", scope="module")
def _store(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], Path]) -> Path:
    return new_store(tmp_path_factory.mktemp("store")).parent


def tracker(store: Path, folder: Path) -> Tracker:
    made = Tracker.at(folder, f"sqlite:///{store}/mlflow.db")
    return made.start(experiment="tests", run_name=folder.name, params={}, tags={})


# pickles in MLflow


CODE = """
import pickle, sys
from pathlib import Path
pickle.loads(Path(__file__).with_name("model.pkl").read_bytes())
"""


@pytest.mark.parametrize("form", FORMS)
def test_what_a_tracking_server_holds_is_not_unpickled_and_its_code_is_not_run(
    form: str, store: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    content = FORMS[form](trap)
    run = tracker(store, tmp_path / "run")
    uri = run.uri
    for to, names in {
        "model": ("model.safetensors",),
        "vectors": ("vectors.safetensors", "vectors.csv", "atom_init.json"),
        "encoder": ("encoder.safetensors", "encoder.json"),
    }.items():
        folder = write_model(tmp_path / to) if to == "model" else tmp_path / to
        folder.mkdir(exist_ok=True)
        for name in (*names, "model.pkl", "python_model.pkl", "data.pt"):
            (folder / name).write_bytes(content)
        (folder / "served.py").write_text(CODE)
        (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n")
        run.register(f"{form}-{to}", {}, folder, to=to)
    for name in (f"models:/{form}-model/1", f"runs:/{run.run_id}", run.run_id):
        for fetch in (fetch_model, fetch_trained):
            with pytest.raises(ValueError, match=f"^{name} holds a damaged model"):
                fetch(name, uri)
    for name in (f"models:/{form}-vectors/1", f"runs:/{run.run_id}"):
        with pytest.raises(ValueError, match=f"^{name}: "):
            load_vectors(name, uri)
    with pytest.raises(ValueError, match=f"runs:/{run.run_id} holds a damaged encoder"):
        fetch_encoder(f"runs:/{run.run_id}", uri)
    assert not trap.exists()


@pytest.mark.parametrize("run_id", ["../../x", "/x", "..", "a/b"])
def test_ids_of_runs_that_lead_elsewhere_are_refused(run_id: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the id of a run must be the name of one folder or file"):
        Store.at(f"sqlite:///{store}/mlflow.db").artifact(run_id, "a.csv", tmp_path / "deep")
    assert not list(tmp_path.iterdir())


# what we log ourselves


def test_nothing_of_a_logged_model_is_a_pickle(store: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    describe_to_mlflow(folder, load_model(folder)[1])
    run = tracker(store, tmp_path / "run")
    run.register("ours", {}, folder, to="model")
    write_vectors(given_vectors("onehot"), tmp_path / "vectors")
    run.register("ours-vectors", {}, tmp_path / "vectors", to="vectors")
    assert fetch_model("models:/ours/1", run.uri).property == "bulk_modulus_kv"
    artifacts = Path(client(run.uri).get_run(run.run_id).info.artifact_uri.removeprefix("file://"))
    files = {path.relative_to(artifacts).as_posix(): path for path in artifacts.rglob("*") if path.is_file()}
    assert set(files) >= {"model/MLmodel", "model/served.py", "model/model.safetensors", "vectors/vectors.csv"}
    for name, path in files.items():
        head = path.read_bytes()[:4]
        assert not head.startswith((b"\x80", b"PK", b"\x1f\x8b")), f"{name} is a pickle, a zip or a gzip file"
        assert path.suffix in {"", ".json", ".csv", ".safetensors", ".txt", ".yaml", ".py", ".md"}, name
    code = (REPOSITORY / "platform" / "crysatom" / "tracking" / "model_code.py").read_bytes()
    assert files["model/served.py"].read_bytes() == code, "the only code, and it reads safetensors and JSON"
    description = files["model/MLmodel"].read_text()
    assert "loader_module: mlflow.pyfunc.loaders.code_model" in description
    assert "pickle" not in description


# secrets


SECRETS = {
    "MP_API_KEY": "Qx1-mp-marker",
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": "Qx2-password-marker",
    "RAY_AUTH_TOKEN": "Qx3-ray-marker-0123456789abcdef",
    "AWS_SECRET_ACCESS_KEY": "Qx4-aws-marker",
}
IN_URI = "Qx5-uri-marker"
TINY = ("--num-workers", "0", "--epochs", "1", "--batch-size", "5", "--embedding-dim", "8", "--num-layers", "1")


def holding(folder: Path, words: list[str]) -> list[str]:
    """Return the files that contain any of the words."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if any(word.encode() in path.read_bytes() for word in words)]


WORDS = [*(value for value in SECRETS.values() if value.startswith("Qx")), IN_URI]


def test_a_job_keeps_no_secret(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path, count=10)
    shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    done = run_here("pretrain", "--data", "graphs", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [word for word in WORDS if word in done.stdout + done.stderr] == []
    [record] = tmp_path.glob("runs/*/run.json")
    run_id = json.loads(record.read_text())["run_id"]
    assert client(f"sqlite:///{tmp_path}/mlflow.db").get_run(run_id).info.status == "FINISHED"
    assert list(tmp_path.glob("mlartifacts/*/*"))
    assert holding(tmp_path, WORDS) == []
    assert holding(tmp_path, [run_id]), "files are looked into"


@pytest.mark.slow
def test_a_job_shows_no_secret_though_its_server_is_away(tmp_path: Path) -> None:
    make_shards(tmp_path, count=10)
    ours = {"PYTHONPATH", "RAY_ADDRESS", "CRYSATOM_HOME"}
    away = {"MLFLOW_TRACKING_URI": f"http://user:{IN_URI}@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "jobs" / "pretrain.py"), "--data", "graphs", *TINY],
        cwd=tmp_path,
        env={**{k: v for k, v in os.environ.items() if k not in ours}, **SECRETS, **away},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert [word for word in WORDS if word in said] == []
    assert "http://...@127.0.0.1:9" in said, "the place is shown, its password is not"
    assert list(tmp_path.glob("runs/*/run.json"))
    assert holding(tmp_path, WORDS) == []


# ports


PORTS = """
import json, sys, grpc, psutil
from crysatom.cluster.session import start_ray
start_ray()
import ray
me = psutil.Process()
open_ = [c for p in [me, *me.children(recursive=True)] for c in p.net_connections("tcp") if c.status == "LISTEN"]
call = grpc.insecure_channel(ray.get_runtime_context().gcs_address).unary_unary(
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
told = {}
for token in ("", "0" * 32, sys.argv[1]):
    try:
        call(b"", timeout=20, metadata=(("authorization", f"Bearer {token}"),) if token else ())
        told[token] = "let in"
    except grpc.RpcError as error:
        told[token] = error.code().name
print(json.dumps({"addresses": sorted({c.laddr.ip for c in open_}), "ports": len(open_), "told": told}))
"""
"""Queries the head as anybody with access to its port can, without Ray's client."""


@pytest.mark.ray
def test_a_job_starts_a_ray_of_its_own_that_listens_on_the_loopback_and_asks_for_its_token() -> None:
    token = "f" * 32
    with TemporaryDirectory(prefix="ray") as folder:  # a short path: Ray makes sockets below it
        others = Path(folder, "ray", "ray_current_cluster")
        others.parent.mkdir()
        others.write_text("127.0.0.1:1")  # as `ray start` leaves it; Ray would join, and fail here
        environment = {"RAY_TMPDIR": folder, "RAY_ADDRESS": "", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        done = run_script(PORTS, token, **environment)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["addresses"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, found
    assert found["ports"] >= 3, "Ray's processes were looked at"
    assert found["told"] == {"": "UNAUTHENTICATED", "0" * 32: "UNAUTHENTICATED", token: "let in"}
