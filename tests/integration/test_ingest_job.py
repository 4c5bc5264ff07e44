"""Ingest on a cluster writes the rows of one process; and the job as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crysatom.cluster import ingest as cluster
from crysatom.config import IngestConfig, Limits
from crysatom.crystals.examine import examine_batch
from crysatom.crystals.ingest import BATCH_RECORDS, ReadCount, ingest_plain
from crysatom.crystals.sources import open_source
from crysatom.names import MATERIAL_ID
from tests.conftest import REPOSITORY
from tests.run_job import run_here
from tests.unit.broken_inputs import cif


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 listed CIFs (more than two batches), every tenth disordered, and one without a row."""
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    for i in range(300):
        occupancy = 0.5 if i % 10 == 0 else 1
        (cifs / f"c{i}.cif").write_text(
            cif(f"Na Na1 0 0 0 1\nCl Cl1 0.5 0.5 0.5 {occupancy}\n", cell=(4 + i / 100, 4, 4, 90, 90, 90))
        )
    rows = [f"c{i},{i / 7}" for i in range(299)] + ["c5,1"]
    (cifs / "id_prop.csv").write_text("\n".join(rows))
    return cifs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data sets deprecated options itself
@pytest.mark.usefixtures("ray_cluster")
def test_cluster_writes_what_one_process_writes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WINDOW_BYTES", 150_000)  # several windows
    plain = ingest_plain(IngestConfig.of(source=str(folder), out=str(tmp_path / "plain")))
    ray = cluster.ingest(IngestConfig.of(source=str(folder), out=str(tmp_path / "ray")))
    assert (ray.read, ray.accepted, ray.rejected) == (plain.read, plain.accepted, plain.rejected) == (301, 269, 32)
    assert ray.reasons == plain.reasons == {"disordered": 30, "duplicate_id": 1, "unlisted_file": 1}
    assert pq.read_table(ray.table).equals(pq.read_table(plain.table), check_metadata=True)
    assert pq.read_table(ray.quarantine).equals(pq.read_table(plain.quarantine))


def finished_last(batch: pa.Table, limits: Limits, done: Path) -> pa.Table:
    """Examine a batch; the first batch waits for the second."""
    first, second = "c0", f"c{BATCH_RECORDS}"
    names = batch[MATERIAL_ID].to_pylist()
    deadline = time.monotonic() + 60
    while first in names and not done.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    outcome = examine_batch(batch, limits)
    if second in names:
        done.touch()
    return outcome


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("windows", [1, 2])
def test_the_order_is_that_of_the_source_whichever_batch_is_finished_first(
    windows: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test one window of three batches, and windows of two batches and of one."""
    source = str(folder)
    plain = ingest_plain(IngestConfig.of(source=source, out=str(tmp_path / "plain")))
    if windows == 2:
        first = next(ReadCount().batches(open_source(source)))
        monkeypatch.setattr(cluster, "WINDOW_BYTES", first.nbytes + 1)
    done = tmp_path / "done"
    monkeypatch.setattr(cluster, "examine_batch", partial(finished_last, done=done))
    ray = cluster.ingest(IngestConfig.of(source=source, out=str(tmp_path / "ray")))
    assert done.exists(), "the second batch was examined"
    assert pq.read_table(ray.table).equals(pq.read_table(plain.table))
    assert pq.read_table(ray.quarantine).equals(pq.read_table(plain.quarantine))


def run_job(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS"}}
    command = [sys.executable, str(REPOSITORY / "jobs" / "ingest.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.usefixtures("ray_cluster")
def test_job_says_what_happened_and_where(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_here("ingest", "--source", "cifs", "--out", "table")
    assert done.returncode == 0, done.stderr
    assert "read 301 = accepted 269 + rejected 32" in done.stdout
    assert str(Path("table") / "crystals.parquet") in done.stdout
    assert "30  disordered" in done.stdout
    assert pq.read_metadata(tmp_path / "table" / "crystals.parquet").num_rows == 269
    assert folder.parent == tmp_path


def test_job_without_source_fails_in_one_line(tmp_path: Path) -> None:
    failed = run_job("--source", "nothing", "--out", "table", cwd=tmp_path)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "error: source 'nothing' does not exist" in failed.stderr


@pytest.mark.ray
def test_job_that_accepts_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.cif").write_text("nothing")
    failed = run_job("--source", "bad.cif", "--out", "table", cwd=tmp_path)
    assert failed.returncode == 2
    assert "no crystal was accepted" in failed.stderr
    assert pq.read_table(tmp_path / "table" / "quarantine.parquet")["reason"].to_pylist() == ["unreadable"]
