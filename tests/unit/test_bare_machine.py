"""Models, losses and the loop need torch, PyG, numpy, pandas and pyarrow only: a GPU machine may have nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.bare_machine import bare_python
from tests.conftest import PLATFORM
from tests.small_runs import make_shards, one_thread  # noqa: F401

FOLDERS = ("config", "nn", "predictors", "ssl", "training", "vectors")
READING = ("crysatom.graphs.batch", "crysatom.graphs.shards", "crysatom.distributed")
ELSEWHERE = {
    *("crysatom.vectors.atom2vec", "crysatom.vectors.structure.expanded", "crysatom.vectors.structure.geometry"),
    *("crysatom.vectors.structure.learn", "crysatom.nn.kernels.numba_cpu", "crysatom.nn.kernels.triton_cuda"),
}
"""Vectors from counts, which need scipy, and kernels that are used where their compiler is installed."""


def test_hidden_packages_cannot_be_imported() -> None:
    found = bare_python("import crysatom.crystals.ingest")
    assert found.returncode != 0
    assert "No module named 'pymatgen'" in found.stderr


def test_models_losses_and_the_loop_are_imported_without_other_packages() -> None:
    files = sorted(file for folder in FOLDERS for file in (PLATFORM / "crysatom" / folder).rglob("*.py"))
    names = [".".join(f.relative_to(PLATFORM).with_suffix("").parts).removesuffix(".__init__") for f in files]
    modules = [*(name for name in names if name not in ELSEWHERE), *READING]
    assert len(modules) > 50
    script = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    found = bare_python(script, *modules)
    assert found.returncode == 0, found.stderr


TRAINING = """
import sys
from pathlib import Path
from gpu_speed import Unsaved
from crysatom.config import PretrainConfig
from crysatom.training.pretrain import pretrain, resident_data
import torch

config = PretrainConfig.of(
    embedding_dim=8, num_layers=2, projection_dim=4, batch_size=5, epochs=2, holdout_fraction=0.2, num_workers=0
)
device = torch.device("cpu")
outcome = pretrain(config, resident_data(config, Path(sys.argv[1]), device), Unsaved(device))
print(len(outcome.history), outcome.vectors.dim)
"""


def test_a_pretraining_runs_from_shards_to_vectors(tmp_path: Path) -> None:
    found = bare_python(TRAINING, make_shards(tmp_path))
    assert found.stdout.split() == ["2", "8"], found.stderr
