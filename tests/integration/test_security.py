"""What strangers may try on whole jobs: models in MLflow that are pickles, secrets in what jobs leave, open ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crysatom.tracking.encoders import fetch_encoder
from crysatom.tracking.models import describe_to_mlflow, fetch_model, fetch_trained
from crysatom.tracking.runs import Tracker
from crysatom.tracking.store import client
from crysatom.tracking.vectors import load_vectors
from crysatom.training.model_files import load_model
from crysatom.vectors.files import write_vectors
from crysatom.vectors.given import given_vectors
from tests.conftest import REPOSITORY
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
def _store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    client(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


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
        "encoder": ("encoder.safetensors",),
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
        with pytest.raises(ValueError, match=r"vectors"):
            load_vectors(name, uri)
    with pytest.raises(ValueError, match=f"runs:/{run.run_id}.* no pretrained encoder"):
        fetch_encoder(f"runs:/{run.run_id}", uri)
    assert not trap.exists()


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
    """Return the files that hold one of some words."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if any(word.encode() in path.read_bytes() for word in words)]


@pytest.mark.parametrize("reachable", [True, False])
def test_a_job_shows_and_keeps_no_secret(reachable: bool, store: Path, tmp_path: Path) -> None:
    make_shards(tmp_path, count=10)
    if reachable:
        shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db" if reachable else f"http://user:{IN_URI}@127.0.0.1:9"
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS", "CRYSATOM_HOME"}}
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "jobs" / "pretrain.py"), "--data", "graphs", *TINY],
        cwd=tmp_path,
        env={**environment, **SECRETS, "MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    words = [*(value for value in SECRETS.values() if value.startswith("Qx")), IN_URI]
    assert [word for word in words if word in said] == []
    assert holding(tmp_path, words) == []
    [record] = tmp_path.glob("runs/*/run.json")
    if reachable:
        assert client(uri).get_run(json.loads(record.read_text())["run_id"]).info.status == "FINISHED"
        assert list(tmp_path.glob("mlartifacts/*/*"))
    else:
        assert "http://...@127.0.0.1:9" in said, "the place is shown, its password is not"


# ports


PORTS = """
import json, os, psutil
from crysatom.cluster.session import start_ray
start_ray()
import ray
me = psutil.Process()
family = [me, *me.children(recursive=True)]
listening = sorted({c.laddr.ip for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN})
ports = [c.laddr.port for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
stranger = '''
import os, sys, ray
os.environ["RAY_AUTH_MODE"] = "token"
try:
    ray.init(address=sys.argv[1], logging_level="ERROR")
except Exception as error:
    print("refused", type(error).__name__)
else:
    print("let in")
'''
import subprocess, sys
environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
told = {}
for who, token in (("without", {}), ("wrong", {"RAY_AUTH_TOKEN": "0" * 32})):
    done = subprocess.run([sys.executable, "-c", stranger, ray.get_runtime_context().gcs_address],
        env={**environment, "HOME": os.environ["EMPTY"], **token}, capture_output=True, text=True, timeout=120)
    told[who] = (done.stdout + done.stderr).strip()
print(json.dumps({"addresses": listening, "ports": len(ports), "told": told}))
"""


@pytest.mark.ray
def test_a_ray_of_the_jobs_own_listens_on_the_loopback_and_asks_for_its_token(tmp_path: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}
    done = run_script(PORTS, RAY_ADDRESS="", EMPTY=str(tmp_path), **token)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["addresses"]) <= {"127.0.0.1", "::1"}, found
    assert found["ports"] >= 5, "Ray's processes were looked at"
    for who, said in found["told"].items():
        assert said, who
        assert "let in" not in said, who
