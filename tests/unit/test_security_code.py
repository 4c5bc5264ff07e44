"""Our code never executes the content of a file: scan the source for calls that could."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDERS = ("platform", "jobs", "tune_spaces", "tools", "benchmarks")

MODULES = frozenset({"pickle", "_pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve", "runpy", "jsonpickle"})
"""Modules that are never imported, under any name."""

CALLS = frozenset(
    {
        "eval",
        "exec",
        "compile",
        "__import__",
        "builtins.eval",
        "builtins.exec",
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "pandas.read_pickle",
        "ray.cloudpickle.load",
        "ray.cloudpickle.loads",
        "importlib.import_module",
        "importlib.util.spec_from_file_location",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "os.system",
    }
)

METHODS = frozenset({"exec_module", "load_module", "read_pickle"})
"""Methods that are never called, on any object."""

ONLY_WITH = {"numpy.load": ("allow_pickle", "False"), "torch.load": ("weights_only", "True")}
"""Explicit arguments, so that the result does not depend on defaults of a version."""

ALLOWED = {
    "platform/crysatom/config/user_code.py: importlib.util.spec_from_file_location": "the user names the file as code",
    "platform/crysatom/config/user_code.py: exec_module": "the same",
    "platform/crysatom/crystals/sources/registry.py: importlib.import_module": "of names in a table in that file",
    "platform/crysatom/crystals/sources/sandbox.py: importlib.import_module": "of a reader that the job names",
    "tools/mutants.py: importlib.import_module": "of names in that file",
    "tools/walk.py: runpy": "of a job that the caller names",
    "platform/crysatom/ssl/losses/__init__.py: importlib.import_module": "of names in crysatom/names.py",
    "platform/crysatom/predictors/registry.py: importlib.import_module": "of names in a table in that file",
    "platform/crysatom/nn/kernels/__init__.py: importlib.import_module": "of names in that file",
    "benchmarks/series.py: importlib.import_module": "of names in that file",
}


def unsafe(source: str) -> Iterator[str]:
    """Yield the full names of calls and imports that may execute loaded code, including aliases."""
    tree = ast.parse(source)
    names = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            name = names.get(first, first) + dot + rest
            method = name.rpartition(".")[2]
            if name in CALLS or (name.startswith("mlflow.") and method == "load_model"):
                yield name
            elif isinstance(node.func, ast.Attribute) and method in METHODS:
                yield method
            elif name in ONLY_WITH:
                keyword, must = ONLY_WITH[name]
                if {k.arg: ast.unparse(k.value) for k in node.keywords}.get(keyword) != must:
                    yield name
            if any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords):
                yield f"{name}(shell=...)"


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.asname, a.name) if a.asname else (a.name.partition(".")[0],) * 2 for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((a.asname or a.name, f"{node.module}.{a.name}") for a in node.names)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("import cloudpickle as json", "cloudpickle"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("import torch\ntorch.load(path, weights_only=False)", "torch.load"),
        ("import torch\ntorch.load(path, weights_only=True)", ""),
        ("from torch import load as read\nread(path)", "torch.load"),
        ("import numpy as np\nnp.load(path)", "numpy.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "numpy.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=False)", ""),
        ("import pandas as pd\npd.read_pickle(path)", "pandas.read_pickle"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("import yaml\nyaml.safe_load(text)", ""),
        ("import mlflow\nmlflow.pyfunc.load_model(uri)", "mlflow.pyfunc.load_model"),
        ("from mlflow import pyfunc\npyfunc.load_model(uri)", "mlflow.pyfunc.load_model"),
        ("from mlflow.pytorch import load_model\nload_model(uri)", "mlflow.pytorch.load_model"),
        ("from crysatom.models.files import load_model\nload_model(folder)", ""),
        ("eval(text)", "eval"),
        ("model.eval()", ""),
        ("def f():\n  exec(text)", "exec"),
        ("import re\nre.compile(text)", ""),
        ("import ray\nray.cloudpickle.loads(data)", "ray.cloudpickle.loads"),
        ("from ray import cloudpickle as c\nc.loads(data)", "ray.cloudpickle.loads"),
        ("spec.loader.exec_module(module)", "exec_module"),
        ("import subprocess\nsubprocess.run(text, shell=True)", "subprocess.run(shell=...)"),
    ],
)
def test_what_runs_code_is_recognized(source: str, found: str) -> None:
    assert list(unsafe(source)) == [found] * bool(found)


def found_in(root: Path) -> set[str]:
    files = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    return {f"{path.relative_to(root)}: {name}" for path in files for name in unsafe(path.read_text())}


def test_a_planted_one_is_found(tmp_path: Path) -> None:
    place = tmp_path / "platform" / "crysatom" / "deep"
    place.mkdir(parents=True)
    (place / "innocent.py").write_text(
        '"""Nothing."""\n\n\ndef read(p):\n    import pickle\n    return pickle.load(p)\n'
    )
    assert found_in(tmp_path) == {"platform/crysatom/deep/innocent.py: pickle"}


def test_nothing_of_ours_runs_code_of_files_but_where_it_is_said() -> None:
    assert found_in(REPOSITORY) == set(ALLOWED)
