"""``ray job submit --working-dir . -- python jobs/pretrain.py``, exactly so, from a clean clone."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from crysatom.vectors.files import read_vectors
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WAIT_S = 600.0
"""Timeout of a job that takes a minute on an idle machine."""

MARKER = "Qx-marker-of-a-key"
"""A key in the environment of the head and of the submitting user, as for the Materials Project."""

MAX_UPLOAD_BYTES = 2_000_000


def free_ports(count: int) -> list[int]:
    """Return unused ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


@dataclass(frozen=True)
class Head:
    """Running head node, and the environment to reach it.

    Attributes:
        environment: Environment of the submitting shell.
        home: Home folder of the user that the head runs as.
        session: Ray's folder.

    """

    environment: dict[str, str]
    home: Path
    session: Path


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean clone of the commit, with typical untracked files: an environment and results."""
    folder = tmp_path_factory.mktemp("clone") / "crysatom"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, folder], check=True)
    for name in (".venv/lib/big.so", "runs/old/vectors.npz", "mlflow.db", "data/mine.parquet"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(secrets.token_bytes(MAX_UPLOAD_BYTES))
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """``ray start --head --dashboard-host 127.0.0.1`` with token authentication, separate from other Ray clusters."""
    home = tmp_path_factory.mktemp("home")
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(secrets.token_hex(16))
    ours = {"HOME", "PATH", "PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "CRYSATOM_HOME", "MLFLOW_TRACKING_URI"}
    environment = {k: v for k, v in os.environ.items() if k not in ours} | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "MP_API_KEY": MARKER,
    }
    gcs, dashboard, agent, agent_grpc, metrics, runtime, client = free_ports(7)
    command = ["ray", "start", "--head", "--block", "--dashboard-host", "127.0.0.1", "--disable-usage-stats"]
    command += ["--num-cpus", "2", "--port", str(gcs), "--dashboard-port", str(dashboard)]
    command += ["--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(agent_grpc)]
    command += ["--metrics-export-port", str(metrics), "--runtime-env-agent-port", str(runtime)]
    command += ["--ray-client-server-port", str(client)]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        log = Path(folder) / "start.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--temp-dir", folder], env=environment, stdout=file, stderr=file, start_new_session=True
            )
        try:
            wait_for_line(process, log, "Ray runtime started")
            yield Head({**environment, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}, home, Path(folder))
        finally:
            stop(process)


def wait_for_line(process: subprocess.Popen[bytes], log: Path, text: str) -> None:
    deadline = time.monotonic() + WAIT_S / 3
    while time.monotonic() < deadline and process.poll() is None:
        if text in log.read_text():
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a head and all its child processes, and nothing else."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    psutil.wait_procs([process, *family], timeout=5)
    for child in family:
        if child.is_running():
            child.send_signal(signal.SIGKILL)
    process.kill()
    process.wait()


def submit(head: Head, clone: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ray", "job", "submit", "--working-dir", ".", "--", *command],
        cwd=clone,
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


PROBE = """
import sys; sys.path.insert(0, "jobs")
import bootstrap, platform, ray
bootstrap.start_ray()
def where():
    import platform, crysatom
    return platform.system(), platform.__file__, crysatom.__file__
print("driver:", *where())
print("worker:", *ray.get(ray.remote(where).remote()))
"""


def test_main_command(head: Head, clone: Path) -> None:
    """Run the main job and, to save time, failing jobs and an inspecting job at the same time."""
    jobs = {
        "main": submit(head, clone, "python", "jobs/pretrain.py"),
        "flag": submit(head, clone, "python", "jobs/pretrain.py", "--embedding-dim", "none"),
        "data": submit(head, clone, "python", "jobs/pretrain.py", "--data", "absent.parquet"),
        "probe": submit(head, clone, "python", "-c", PROBE),
    }
    output = {name: job.communicate(timeout=WAIT_S)[0] for name, job in jobs.items()}
    code = {name: job.returncode for name, job in jobs.items()}

    assert code == {"main": 0, "flag": 1, "data": 1, "probe": 0}, output
    main = output["main"]
    assert "epoch   1/" in main
    assert "succeeded" in main
    folder = head.home / "crysatom"  # documented: the job's working directory is a copy that Ray deletes
    [found] = re.findall(r"69 vectors of 200 dimensions: (.+)", main)
    assert Path(found).is_relative_to(folder / "runs")
    assert len(read_vectors(Path(found) / "vectors.safetensors").symbols) == 69
    assert (folder / "mlflow.db").is_file()

    assert "--embedding-dim" in output["flag"]
    assert "error: " in output["data"]
    assert "absent.parquet" in output["data"]
    assert "Traceback" not in main + output["flag"] + output["data"]

    listed = subprocess.run(
        ["ray", "job", "list"],
        cwd=clone,
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    assert "jobs/pretrain.py" in listed.stdout
    token = (head.home / ".ray" / "auth_token").read_text()
    logs = [path.read_text(errors="replace") for path in head.session.glob("session_latest/logs/job-driver-*")]
    assert logs
    for text in (listed.stdout + listed.stderr, *output.values(), *logs):
        assert MARKER not in text
        assert token not in text

    standard_library = str(Path(os.__file__).parent)
    for process in ("driver", "worker"):
        [line] = re.findall(f"^{process}: (.+)$", output["probe"], re.MULTILINE)
        system, platform_file, crysatom_file = line.split()
        assert system == {"linux": "Linux", "darwin": "Darwin"}[sys.platform]
        assert platform_file.startswith(standard_library)
        assert Path(crysatom_file).is_relative_to(head.session), "the submitted code, not what is installed here"


def test_upload_is_small(head: Head) -> None:
    packages = head.session.glob("session_latest/runtime_resources/working_dir_files/_ray_pkg_*")
    uploaded = [
        [f for f in p.rglob("*") if f.is_file() and "__pycache__" not in f.parts] for p in packages if p.is_dir()
    ]
    sizes = [sum(file.stat().st_size for file in files) for files in uploaded]  # without what the job has compiled
    assert sizes
    assert max(sizes) < MAX_UPLOAD_BYTES


def test_submitting_without_the_token_is_refused(head: Head, clone: Path) -> None:
    stranger = {k: v for k, v in head.environment.items() if k != "RAY_AUTH_MODE"}
    refused = subprocess.run(
        ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/pretrain.py"],
        cwd=clone,
        env=stranger,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert refused.returncode == 1
    assert "authentication token" in (refused.stdout + refused.stderr)
