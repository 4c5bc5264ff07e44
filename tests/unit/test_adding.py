"""CONTRIBUTING's lists of files are complete: a toy of each family is added by them to a copy, and passes its tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("platform", "jobs", "tests", "tune_spaces", "docs", "pyproject.toml")
Edit = Callable[[str], str]

LOSS = """
from torch import Tensor

from crysatom.distributed import all_reduce_sum


def toy(z_a: Tensor, z_b: Tensor) -> Tensor:
    n = all_reduce_sum(z_a.new_tensor([len(z_a)]))[0]
    near = all_reduce_sum((z_a - z_b).square().sum())
    spread = sum(all_reduce_sum((z - all_reduce_sum(z.sum(0)) / n).square().sum()) for z in (z_a, z_b))
    return near / (spread + 1e-9)
"""

PREDICTOR = """
from torch import Tensor
from torch_geometric.data import Batch

from crysatom.predictors.cgcnn import CGCNN


class Toy(CGCNN):
    def readout(self, atoms: Tensor, batch: Batch) -> Tensor:
        return 2 * super().readout(atoms, batch)
"""

SOURCE = """
import json
from collections.abc import Iterator
from pathlib import Path

from crysatom.crystals.quarantine import Reason, Rejected
from crysatom.crystals.record import Record
from crysatom.crystals.sources.base import Source, rejected


def open_toy(path: str) -> Source:
    return Source(name=path, records=lambda: _records(path))


def _records(path: str) -> Iterator[Record | Rejected]:
    \"\"\"Yield a cubic crystal of one atom for each line: element and length.\"\"\"
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError as error:
        yield rejected(Reason.UNREADABLE, str(error), material_id="toy-1", source=path)
        return
    for number, line in enumerate(lines, start=1):
        name, where = f"toy-{number}", f"{path}:{number}"
        try:
            element, length = line.split()
            lattice = [[float(length) * (i == j) for i in range(3)] for j in range(3)]
        except ValueError:
            message = "the line is not an element and a length; correct it"
            yield rejected(Reason.UNREADABLE, message, material_id=name, source=where)
            continue
        site = {"species": [{"element": element, "occu": 1}], "abc": [0, 0, 0]}
        content = json.dumps({"@class": "Structure", "lattice": {"matrix": lattice}, "sites": [site]}).encode()
        yield Record(material_id=name, source=where, format="json", content=content)
"""

STUDY = """
from crysatom.studies.grid.design import Column, Grid


def grid() -> Grid:
    columns = {
        "shallow": Column(label="One layer", vectors="onehot92", settings={"num_layers": 1}),
        "deep": Column(label="Two layers", vectors="onehot92", settings={"num_layers": 2}, baseline="shallow"),
    }
    return Grid(title="A toy", columns=columns, properties=("density",))
"""


def new(content: str) -> Edit:
    """Write a new file."""
    return lambda _: content


def before(marker: str, line: str) -> Edit:
    """Insert a line in front of the one that begins with a marker."""

    def edit(text: str) -> str:
        assert text.count(f"\n{marker}") == 1, marker
        return text.replace(f"\n{marker}", f"\n{line}\n{marker}")

    return edit


EDITS: dict[str, dict[str, Edit]] = {
    "loss": {
        "platform/crysatom/ssl/losses/NAME.py": new(LOSS),
        "platform/crysatom/names.py": lambda text: text.replace("SSLLoss = Literal[", 'SSLLoss = Literal["toy", '),
    },
    "predictor": {
        "platform/crysatom/predictors/NAME.py": new(PREDICTOR),
        "platform/crysatom/predictors/registry.py": before(
            '    "cgcnn": ', '    "toy": "crysatom.predictors.toy:Toy",'
        ),
    },
    "source": {
        "platform/crysatom/crystals/sources/NAME.py": new(SOURCE),
        "platform/crysatom/crystals/sources/registry.py": before(
            '    Kind(name="folder"',
            '    Kind(name=".toy", opener="toy:open_toy", accepts=ending(".toy"), known="a toy (.toy)"),',
        ),
        "tests/contract/source_examples.py": before('    "folder": ', '    ".toy": _file("a.toy", "Na 4\\nCl 5\\n"),'),
        "docs/ingest.md": before("| `mp:QUERY` |", "| `.toy` | a cubic crystal per line | number of the line |"),
    },
    "study": {
        "platform/crysatom/studies/grid/tables/NAME.py": new(STUDY),
        "docs/studies.md": before("| `chemistry` |", "| `toy` | layers | |"),
    },
}

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k")
TRAINING = "--epochs 1 --num-workers 0 --embedding-dim 8 --num-layers 2 --max-atoms 6"
COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "loss": (
        (*PYTEST, "toy", "tests/contract/test_losses.py", "tests/distributed/test_objective.py"),
        ("jobs/pretrain.py", "--ssl-loss", "toy", *TRAINING.split()),
    ),
    "predictor": ((*PYTEST, "toy-onehot or toy and heart", "tests/contract/test_predictors.py"),),
    "source": (
        (
            *PYTEST,
            "toy or every or document",
            "tests/contract/test_sources.py",
            "tests/unit/test_crystals_broken_inputs.py",
        ),
    ),
    "study": (
        (*PYTEST, "toy or documentation", "tests/contract/test_studies.py"),
        ("jobs/study.py", "--study", "toy", "--seeds", "0", "--epochs", "1", "--num-workers", "0"),
    ),
}
"""What must succeed in the copy."""


def listed(family: str) -> set[str]:
    """Return the files that CONTRIBUTING lists for a family."""
    rows = re.findall(r"^\| (\w+) \| `([^`]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return {file for name, file in rows if name == family}


@pytest.mark.parametrize("family", EDITS)
def test_contributing_lists_the_files_that_are_edited_here(family: str) -> None:
    assert listed(family) == EDITS[family].keys()


@pytest.mark.slow
@pytest.mark.timeout(600)  # two commands, each of which may take a minute on a busy machine
@pytest.mark.parametrize("family", EDITS)
def test_a_toy_is_added_by_the_list_of_contributing(family: str, tmp_path: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    for name, edit in EDITS[family].items():
        path = tmp_path / name.replace("NAME", "toy")
        text = path.read_text() if path.exists() else ""
        assert (text == "") == ("NAME" in name)
        path.write_text(edit(text))
        assert path.read_text() != text
    paths = os.pathsep.join(str(tmp_path / name) for name in ("platform", "."))
    for command in COMMANDS[family]:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
