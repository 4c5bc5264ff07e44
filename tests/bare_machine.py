"""A new Python that sees only what a GPU machine has: torch, PyG, numpy, pandas, pyarrow, and what they require."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PLATFORM, REPOSITORY

BARE = ("torch", "torch-geometric", "numpy", "pandas", "pyarrow")

_HIDE = """
import sys
from importlib import metadata
from re import findall, sub

def normal(name):
    return sub("[-_.]+", "-", name).lower()

allowed, waiting = {"crysatom"}, list(sys.argv.pop(1).split())
while waiting:
    name = normal(waiting.pop())
    if name not in allowed:
        allowed.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            required = []
        waiting += [findall("^[A-Za-z0-9_.-]+", line)[0] for line in required if "extra ==" not in line]

HIDDEN = {
    module for module, names in metadata.packages_distributions().items() if not allowed & set(map(normal, names))
}
assert {"ray", "mlflow", "pymatgen", "safetensors", "scipy", "tyro"} <= HIDDEN
assert not {"torch", "torch_geometric", "psutil", "filelock"} & HIDDEN

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN or not hasattr(self.finder, "find_spec"):
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""


def bare_python(script: str, *arguments: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a script that may import ``crysatom`` and the modules of ``benchmarks``."""
    paths = [str(PLATFORM), str(REPOSITORY / "benchmarks")]
    return subprocess.run(
        [sys.executable, "-c", _HIDE + script, " ".join(BARE), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
