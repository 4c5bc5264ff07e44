"""Pure functions of benchmarks/soak.py and benchmarks/ten_times.py, and fixes that resulted from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import soak
from perturbed_crystals import perturbed, write_copies
from watching import DRIVER, OTHER, TASKS, Slope, kind_of, memory_of, slope

from crysatom.cluster.session import ARROW_POOL, OWN_RAY
from crysatom.crystals.table import STRUCTURE_COLUMNS, read_table
from crysatom.names import ATOMIC_NUMBERS, FRAC_COORDS, LATTICE, MATERIAL_ID


@pytest.fixture
def few(prototypes: pa.Table) -> pa.RecordBatch:
    return prototypes.select(list(STRUCTURE_COLUMNS)).slice(0, 20).combine_chunks().to_batches()[0]


def test_a_perturbed_copy_has_the_same_species_and_new_places(few: pa.RecordBatch) -> None:
    copy = perturbed(few, 0, 3)
    assert copy[ATOMIC_NUMBERS].equals(few[ATOMIC_NUMBERS])
    assert copy[MATERIAL_ID].to_pylist() == [f"{name}~3" for name in few[MATERIAL_ID].to_pylist()]
    for k in range(len(few)):
        old, new = (np.array(batch[LATTICE][k].as_py()).reshape(3, 3) for batch in (few, copy))
        strain = np.linalg.solve(old, new) - np.eye(3)
        assert 0 < np.abs(strain).max() < 0.06
        assert np.allclose(strain, strain.T, atol=1e-12)
        moved = np.array(copy[FRAC_COORDS][k].as_py()) - np.array(few[FRAC_COORDS][k].as_py())
        distances = np.linalg.norm(moved.reshape(-1, 3) @ old, axis=1)
        assert (distances > 0).all()
        assert distances.max() < 0.12


def test_a_copy_depends_on_row_and_number_alone(few: pa.RecordBatch) -> None:
    assert perturbed(few, 0, 1).equals(perturbed(few, 0, 1))
    assert perturbed(few.slice(7, 2), 7, 1).equals(perturbed(few, 0, 1).slice(7, 2))
    assert not perturbed(few, 0, 1)[LATTICE].equals(perturbed(few, 0, 2)[LATTICE])
    assert not perturbed(few, 0, 1)[LATTICE].equals(perturbed(few, 1, 1)[LATTICE])


def test_a_table_of_copies_is_a_crystal_table_with_unique_ids(prototypes: pa.Table, tmp_path: Path) -> None:
    small = tmp_path / "small.parquet"
    pq.write_table(prototypes.slice(0, 30), small)
    assert write_copies(small, 3, tmp_path / "large.parquet") == 90
    ids = read_table(tmp_path / "large.parquet")[MATERIAL_ID].to_pylist()
    assert len(set(ids)) == 90
    assert {name.rpartition("~")[2] for name in ids} == {"1", "2", "3"}


def test_a_slope_is_found_in_noise_and_peaks_and_a_warm_up_is_left_out() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(0, 2700, 5.0)
    values = 300 + 24 * seconds / 3600 + rng.normal(size=len(seconds))
    values[rng.choice(len(seconds), 60, replace=False)] += 500  # peaks that last a sample
    values[seconds < 600] = 50
    found = slope(seconds, values, warm_up=600)
    assert found.per_hour == pytest.approx(24, abs=3)
    assert found.low < 24 < found.high
    assert found.high - found.low < 10
    assert found.level == pytest.approx(312, abs=5)


def test_a_slope_of_constant_memory_is_zero() -> None:
    found = slope(np.arange(0, 2000, 5.0), np.full(400, 120.0), warm_up=600)
    assert (found.per_hour, found.low, found.high) == (0, 0, 0)


def test_a_slope_needs_time() -> None:
    with pytest.raises(ValueError, match="needs three blocks of 120 s after 600 s, got 895 s"):
        slope(np.arange(0, 900, 5.0), np.zeros(180), warm_up=600)


@pytest.mark.parametrize(
    ("low", "high", "level", "verdict"),
    [
        (-3, 4, 100, "flat"),
        (-3, 8, 100, "undecided"),
        (6, 8, 100, "grows"),
        (6, 8, 500, "flat"),
        (-90, -8, 100, "flat"),
    ],
)
def test_growth_is_judged_by_the_whole_interval(low: float, high: float, level: float, verdict: str) -> None:
    assert Slope(per_hour=(low + high) / 2, low=low, high=high, level=level).verdict(5.0) == verdict


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("ray::RayTrainWorker.poll_status", "training workers"),
        ("ray::SplitCoordinator", "Ray Data: split of the stream"),
        ("ray::IDLE", TASKS),
        ("ray::ReadFilesParquetV2->MapBatches(keep)", TASKS),
        ("python ray/_private/workers/default_worker.py --node-ip-address=10.0.0.1", TASKS),
        ("/site-packages/ray/core/src/ray/raylet/raylet --gcs-address=10.0.0.1:1", "raylet"),
        ("/site-packages/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp", "GCS"),
        ("ray-dashboard-JobHead-0 (python -c)", "dashboard modules"),
        ("git describe", OTHER),
    ],
)
def test_kinds_of_processes_are_told_by_their_command_lines(line: str, kind: str) -> None:
    assert kind_of(line.split()) == kind != DRIVER


def test_memory_is_read_in_parts() -> None:
    status = "Name:\tx\nVmRSS:\t 3000 kB\nRssAnon:\t 1000 kB\nRssFile:\t 1500 kB\nRssShmem:\t 500 kB\nThreads:\t4\n"
    assert memory_of(status) == {"rss": 3.072, "private": 1.024, "store": 0.512}
    assert memory_of("Name:\tzombie\n") == {"rss": 0, "private": 0, "store": 0}


def test_the_page_of_the_soak_has_its_figures() -> None:
    assert soak.summary(json.loads(soak.RESULTS.read_text())) in soak.PAGE.read_text()


def test_ray_knows_the_variables_that_are_set_for_it() -> None:
    gcs = (Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server").read_bytes()
    assert [name for name in OWN_RAY if name.removeprefix("RAY_").encode() not in gcs] == []


def test_arrow_heeds_the_variable_that_is_set_for_it() -> None:
    command = [sys.executable, "-c", "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"]
    found = subprocess.run(
        command, env={**os.environ, ARROW_POOL: "jemalloc"}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "jemalloc"
