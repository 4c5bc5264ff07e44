"""Shared fixtures: seeds, threads, the embedded crystals, one Ray and one pool of gloo workers."""

from __future__ import annotations

import logging
import os
import random
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from crysatom import cluster  # noqa: F401 - before Ray, so that it listens on loopback only
from crysatom.config import IngestConfig
from crysatom.names import EMBEDDED_SOURCE
from tests import gloo

REPOSITORY = Path(__file__).resolve().parents[1]
PLATFORM = REPOSITORY / "platform"

torch.set_num_threads(1)  # tensors in tests are small: more threads would only wait
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor in processes that tests start
os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's default of 15, other load starves the workers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code draws from the global generator
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _gloo_workers() -> Iterator[None]:
    yield
    gloo.close()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of labeled crystals, which are not in the repository."""
    folder = os.environ.get("CRYSATOM_TEST_DATA")
    if not folder:
        pytest.skip("needs labeled crystals: set CRYSATOM_TEST_DATA to the folder of jarvis_dft_3d.parquet")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"CRYSATOM_TEST_DATA={folder} is not a folder")
    return path


@pytest.fixture(scope="session")
def prototypes(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The 288 real crystals in pymatgen, as a crystal table."""
    from crysatom.crystals.ingest import ingest_plain
    from crysatom.crystals.table import read_table

    report = ingest_plain(IngestConfig.of(source=EMBEDDED_SOURCE, out=str(tmp_path_factory.mktemp("prototypes"))))
    return read_table(report.table)


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Function that puts an empty MLflow store into a folder, as a job makes it. Copying it saves two seconds."""
    from crysatom.tracking.store import client

    made = tmp_path_factory.mktemp("store") / "mlflow.db"

    def put(folder: Path) -> Path:
        if not made.exists():
            client(f"sqlite:///{made}")
        return Path(shutil.copy(made, folder))

    return put


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests that need it: its start takes ten seconds."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))  # else Ray writes one into the home folder
    import ray

    pythonpath = os.pathsep.join([str(PLATFORM), str(REPOSITORY)])
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": {"PYTHONPATH": pythonpath}},
    )
    yield
    ray.shutdown()
