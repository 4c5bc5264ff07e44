"""The Slurm script on one node: stopped before its end, requeued, finished.

Slurm is not installed: ``srun`` runs the command here, and ``scontrol`` records its arguments. ``ray symmetric-run``
stops every Ray of its machine, so it runs in its own namespaces of processes and networks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1500)]

ISOLATED = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
SCRIPT = "ip link set lo up && exec bash deploy/slurm.sh"
JOB = ["python", "jobs/pretrain.py", "--num-workers", "2", "--batch-size", "48", "--embedding-dim", "16"]
JOB += ["--projection-dim", "16", "--name", "run", "--register", "", "--resume", "--epochs"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    if subprocess.run([*ISOLATED, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to give a process its own view of the machine (unshare), as root has")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (programs / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> "{tmp_path}/scontrol"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    (tmp_path / "home").mkdir()
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "CRYSATOM_HOME": str(tmp_path),
        "CRYSATOM_VENV": sys.prefix,
        "CRYSATOM_HEAD_IP": "127.0.0.1",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
        "RAY_raylet_start_wait_time_s": "120",
        "PYTHONUNBUFFERED": "1",
    }


def start(environment: dict[str, str], log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [*ISOLATED, "bash", "-c", f'{SCRIPT} "$@"', "slurm", *arguments]
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=file, stderr=file)


def test_a_job_is_stopped_queued_again_and_finished(environment: dict[str, str], tmp_path: Path) -> None:
    log, history = tmp_path / "log", tmp_path / "runs" / "run" / "history.csv"
    job = start(environment, log, *JOB, "20")
    while "epoch   2/20" not in log.read_text() and job.poll() is None:
        time.sleep(0.2)
    [script] = psutil.Process(job.pid).children()
    script.send_signal(signal.SIGTERM)  # as Slurm does, to the script alone
    assert job.wait() == 128 + signal.SIGTERM, log.read_text()
    assert "SIGTERM: saving after this step, then stopping" in log.read_text()
    assert "stopped before its end; requeued" in log.read_text()
    assert (tmp_path / "scontrol").read_text() == f"requeue {os.getpid()}\n"
    assert not history.exists(), "it was written at the end of the run"

    job = start(environment, log, *JOB, "20")
    assert job.wait() == 0, log.read_text()
    assert len(pd.read_csv(history)) == 20
    for epoch in range(1, 21):
        assert log.read_text().count(f"epoch {epoch:3d}/20") == 1, "it went on from where it was stopped"
    assert (tmp_path / "scontrol").read_text().count("requeue") == 1
    token = tmp_path / "home" / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text().strip() not in log.read_text()


def test_a_job_fails_if_ray_does_not_start(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = start({**environment, "SLURM_GPUS_ON_NODE": "many"}, log, "python", "--version")
    assert job.wait() == 1, log.read_text()
    assert "Ray did not start, so nothing ran" in log.read_text()
