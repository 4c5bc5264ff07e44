"""The GPU benchmark: its comparisons see differences, its counter sees waits, and it ends in time on a bare machine."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import agreement
import gpu
import gpu_data
import pyarrow as pa
import pytest
import syncs
import torch
from torch import Tensor

from crysatom.crystals.table import read_table, write_table
from crysatom.graphs.batch import GraphTensors, select
from tests.bare_machine import bare_python
from tests.conftest import REPOSITORY
from tests.graph_crystals import small
from tests.graph_crystals import write_table as write_crystals
from tests.small_runs import one_thread  # noqa: F401

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (torch.tensor([1.0, -4.0]), torch.tensor([1.0, -4.0]), 0.0),
        (torch.tensor([1.0, -4.0]), torch.tensor([2.0, -4.0]), 0.25),
        (torch.tensor([1.0]), torch.tensor([1.0, 1.0]), math.inf),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), 0.0),
        (torch.tensor([1.0]), torch.tensor([1]), math.inf),
        (torch.tensor([1]), torch.tensor([1], dtype=torch.int32), math.inf),
        (torch.tensor([3, 4]), torch.tensor([3, 4]), 0.0),
        (torch.tensor([3, 4]), torch.tensor([3, 5]), math.inf),
        (torch.zeros(3), torch.zeros(3), 0.0),
        (torch.zeros(0), torch.zeros(0), 0.0),
    ],
)
def test_differences_are_relative_to_the_largest_value(found: Tensor, wanted: Tensor, expected: float) -> None:
    assert agreement.difference(found, wanted) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("wrong", [1e-8, math.nan, math.inf])
def test_a_device_that_computes_something_else_is_noticed(wrong: float) -> None:
    calls = itertools.count()

    def case(device: torch.device, dtype: torch.dtype) -> agreement.Results:
        error = wrong if next(calls) == 0 else 0.0
        return {"loss": torch.ones(2, device=device, dtype=dtype), "gradient": torch.ones((), dtype=dtype) + error}

    found = agreement.compare("case", case, CPU, torch.float64)
    assert set(found.wrong) == {"gradient"}


def test_waits_are_counted_by_operation() -> None:
    x = torch.arange(6)
    counts = torch.tensor([1, 2, 3])
    waiting = {
        "_local_scalar_dense": lambda: int(x.sum()),
        "nonzero": (x > 2).nonzero,
        "index": lambda: x[x > 2],
        "_unique2": lambda: torch.unique(x, return_inverse=True),
        "repeat_interleave": lambda: torch.arange(3).repeat_interleave(counts),
        "tolist": x.tolist,
        "new_tensor": lambda: x.new_tensor([1, 2]),
    }
    for operation, call in waiting.items():
        with syncs.estimated() as found:
            call()
        assert dict(found) == {f"elsewhere {operation}": 1}, operation
    with syncs.estimated() as found:
        torch.bincount(x, minlength=9)
    assert found.total() == 2
    with syncs.estimated() as found:
        torch.arange(3).repeat_interleave(counts, output_size=6)
        x[counts].sort()[0].cumsum(0).masked_fill(x[:3] > 2, 0).new_full((2,), 5) + 1
    assert found == {}


def test_a_backward_pass_and_not_the_optimizer_is_counted() -> None:
    weight = torch.ones(4, requires_grad=True)
    optimizer = torch.optim.AdamW([weight])
    with syncs.estimated() as found:
        weight[weight.detach() > 0].sum().backward()
        optimizer.step()
    assert set(found) == {"elsewhere index", "elsewhere index_put"}


def test_a_section_is_skipped_when_its_time_is_over_and_errors_are_recorded(tmp_path: Path) -> None:
    report = gpu.Report(tmp_path / "new" / "g.json", seconds=20.0)

    def broken(_: float) -> dict[str, Any]:
        raise RuntimeError("out of memory")

    report.section("first", 10, lambda seconds: {"given": seconds})
    report.section("broken", 10, broken)
    report.start -= 16
    report.section("late", 10, lambda _: {"never": 1})
    report.section("short", 4, lambda _: {"value": 2})
    found = json.loads(report.path.read_text())["sections"]
    assert found["first"]["given"] == 10
    assert {name: section["state"] for name, section in found.items()} == {
        "first": "done",
        "broken": "failed",
        "late": "skipped",
        "short": "done",
    }
    [problem] = report.problems()
    assert "out of memory" in problem


def test_a_section_that_does_not_end_is_interrupted(tmp_path: Path) -> None:
    report = gpu.Report(tmp_path / "g.json", seconds=20.0)

    def endless(_: float) -> dict[str, Any]:
        while True:
            pass

    report.section("endless", 0.1, endless)
    report.section("next", 1, lambda _: {})
    found = json.loads(report.path.read_text())["sections"]
    assert (found["endless"]["state"], found["endless"]["why"]) == ("cut", "interrupted after 0 s")
    assert report.problems() == []
    assert found["next"]["state"] == "done"


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small crystals of pymatgen, with the largest atomic number of each as its label."""
    folder = tmp_path_factory.mktemp("gpu")
    write_crystals(folder / "all.parquet", small(8, 60))
    table = read_table(folder / "all.parquet")
    labels = [float(max(numbers)) for numbers in table["atomic_numbers"].to_pylist()]
    labels[3] = math.nan
    column = pa.array([None if math.isnan(x) else x for x in labels], pa.float64())
    write_table(table.append_column("label", column), folder / "labeled.parquet")
    out = folder / "bundle"
    gpu_data.pack(folder / "all.parquet", folder / "labeled.parquet", "label", out, sizes=(48, 59))
    return out


def test_a_bundle_holds_graphs_of_every_predictor_with_labels(bundle: Path) -> None:
    assert len(gpu_data.read_pool(bundle).material_ids) == 48
    for name in agreement.PREDICTORS:
        data = gpu_data.read_labeled(bundle, name)
        assert len(data.targets) == len(data.arrays.material_ids) == 59
        largest = [data.arrays.atomic_numbers[a:b].max() for a, b in itertools.pairwise(data.arrays.atom_ptr)]
        assert data.targets.tolist() == largest
        part = gpu_data.first(data.arrays, 7)
        wanted, found = (select(GraphTensors.of(x), torch.arange(7)) for x in (data.arrays, part))
        assert all(torch.equal(wanted[key], found[key]) for key in wanted.keys() if isinstance(wanted[key], Tensor))  # noqa: SIM118 - no dict
    assert gpu_data.read_labeled(bundle, "alignn").arrays.vector is not None
    assert gpu_data.read_labeled(bundle, "potnet").arrays.potential is not None


@pytest.mark.slow
def test_the_whole_run_on_a_bare_machine(bundle: Path, tmp_path: Path) -> None:
    script = f"import runpy; runpy.run_path({str(REPOSITORY / 'benchmarks' / 'gpu.py')!r}, run_name='__main__')"
    out = tmp_path / "g.json"
    arguments = ("run", "--device", "cpu", "--small", "--bundle", bundle, "--out", out, "--seconds", "200")
    done = bare_python(script, *arguments, timeout=290)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["problems"] == []
    assert "no figure to quote" in found["environment"]["device"]
    sections = found["sections"]
    assert {section["state"] for section in sections.values()} == {"done"}
    correctness = sections["correctness"]
    assert correctness["left_out"] == []
    assert correctness["compared"] == 2 * len(agreement.NAMES)
    for name in agreement.PREDICTORS:
        assert sections[f"{name}, batch 8"]["crystals_per_second"] > 0
        assert sections[f"{name}, batch 8"]["predicted_crystals_per_second"] > 0
    epoch = sections["pretraining, float32, batch 8"]
    assert epoch["epoch_crystals"] == 60
    assert epoch["epoch_seconds_extrapolated"] == pytest.approx(60 / epoch["crystals_per_second"], abs=0.01)
    waits = sections["waits"]
    # Before the first reduction 170 and 46. Each further one needs a reason.
    assert waits["pretraining, estimated"]["per_step"] <= 12
    assert waits["cgcnn, estimated"]["per_step"] <= 5


gpu_needed = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")


@gpu_needed
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", agreement.NAMES)
def test_a_gpu_agrees_with_the_cpu(bundle: Path, name: str, dtype: torch.dtype) -> None:
    labeled = {predictor: gpu_data.read_labeled(bundle, predictor) for predictor in agreement.PREDICTORS}
    case = agreement.cases(gpu_data.read_pool(bundle), labeled, width=24)[name]
    found = agreement.compare(name, case, torch.device("cuda"), dtype)
    assert found.wrong == {}
