"""The featurize job writes the same bytes if killed and resumed, with and without Ray."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from crysatom.config import FeaturizeConfig
from crysatom.graphs.featurize import featurize_plain
from tests.conftest import PLATFORM, REPOSITORY
from tests.graph_crystals import prototypes, write_table

RUN = """
import sys
from crysatom.config import FeaturizeConfig, parse
from crysatom.graphs.featurize import featurize_plain
featurize_plain(parse(FeaturizeConfig))
"""


def _digests(folder: str | Path) -> dict[str, str]:
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,880 real crystals: the embedded ones ten times with distinct ids, except one repeated id."""
    path = tmp_path_factory.mktemp("table") / "crystals.parquet"
    crystals = [replace(c, material_id=f"{c.material_id}-{k}") for k in range(10) for c in prototypes()]
    crystals[1000] = replace(crystals[1000], material_id=crystals[10].material_id)
    write_table(path, crystals, row_group_size=500)
    return path


@pytest.fixture(scope="module")
def undisturbed(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "graphs"
    report = featurize_plain(_config(table, out))
    assert (report.accepted, report.rejected) == (2879, 1)
    return out


def _config(table: Path, out: Path) -> FeaturizeConfig:
    return FeaturizeConfig.of(data=str(table), out=str(out), crystals_per_shard=64)


@pytest.mark.parametrize("shards_before_kill", [0, 7])
def test_killed_run_is_continued_to_the_same_bytes(
    table: Path, undisturbed: Path, tmp_path: Path, shards_before_kill: int
) -> None:
    out = tmp_path / "graphs"
    flags = ["--data", str(table), "--out", str(out), "--crystals-per-shard", "64"]
    process = subprocess.Popen([sys.executable, "-c", RUN, *flags], env={**os.environ, "PYTHONPATH": str(PLATFORM)})
    waited_until = time.monotonic() + 120
    while len(list(out.glob(".progress/*.json"))) < 1 + shards_before_kill and time.monotonic() < waited_until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (out / ".progress").is_dir()
    assert not (out / "manifest.json").exists()

    with pytest.raises(ValueError, match="--resume"):
        featurize_plain(_config(table, out))
    report = featurize_plain(replace(_config(table, out), resume=True))
    assert report.made <= 2880 - 64 * max(0, shards_before_kill - 2)  # finished shards were kept
    assert _digests(out) == _digests(undisturbed)


@pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning")  # Ray 2.60 warns of its own defaults
@pytest.mark.usefixtures("ray_cluster")
def test_ray_leaves_the_same_bytes(table: Path, undisturbed: Path, tmp_path: Path) -> None:
    from crysatom.cluster.featurize import featurize

    config = _config(table, tmp_path / "graphs")
    assert featurize(config).made == 2880
    assert _digests(config.out) == _digests(undisturbed)
    assert featurize(config).made == 0


def test_job_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "notes.parquet").write_text("not a table")
    command = [sys.executable, "jobs/featurize.py", "--data", str(tmp_path / "notes.parquet"), "--out", str(tmp_path)]
    result = subprocess.run([*command, "--cutoff", "-1"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "cutoff must lie in (0, 50] angstrom, got -1" in result.stderr
