"""The checks of the benchmarks find what they must find, and their pages show their results."""

from __future__ import annotations

import argparse
import copy
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bench
import comparing
import numpy as np
import pages
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import series
import torch
from bench import CheckError, Run
from driving import check_training, drive, epochs_for
from pool_without import without
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.crystals.derived_columns import element_counts
from crysatom.crystals.table import to_table
from crysatom.names import LOSS, TRAIN
from crysatom.training import pretrain as pretraining
from crysatom.training.loaders import ResidentLoader
from crysatom.training.loop import Loop
from crysatom.training.pretrain import pretrain
from tests.graph_crystals import small
from tests.small_runs import data_of, make_shards, one_thread, tiny  # noqa: F401

CRYSTALS = 20


def a_run(folder: Path) -> Run:
    return Run(argparse.Namespace(), None, folder, small=True)


@pytest.fixture(scope="module", name="shards")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("benchmarks"), count=CRYSTALS)


def train_and_check(shards: Path, folder: Path) -> Run:
    run = a_run(folder)
    config = tiny(epochs=epochs_for(2), holdout_fraction=0.0)
    work = partial(pretrain, config, data_of(config, shards))
    outcome, epochs = drive(work, config.workers, folder)
    check_training(run, outcome.history, epochs, CRYSTALS, config.optimization, f"{TRAIN}/{LOSS}")
    return run


class Idle(Loop):
    """Epochs that do nothing and report falling losses."""

    def _train_epoch(self, wrapped: nn.Module, epoch: int) -> dict[str, float]:  # noqa: ARG002
        return {f"{TRAIN}/{LOSS}": 1 / (epoch + 1), "seconds": 1e-4, "crystals_per_second": CRYSTALS / 1e-4}


class Remembering(Loop):
    """What b7965d4 did to the benchmarks: after the first epoch, the sums say that the epoch is already done."""

    def _train_epoch(self, wrapped: nn.Module, epoch: int) -> dict[str, float]:
        if epoch:
            self.totals = self.remembered
        metrics = super()._train_epoch(wrapped, epoch)
        self.remembered = self.totals
        return metrics


class Frozen(Loop):
    """Steps that change no weight."""

    def _step(self, wrapped: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        before = [p.detach().clone() for p in self.trainable]
        terms = super()._step(wrapped, batch, epoch)
        with torch.no_grad():
            for parameter, value in zip(self.trainable, before, strict=True):
                parameter.copy_(value)
        return terms


class Skipping(ResidentLoader):
    """Leaves out a batch of each epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from list(super().epoch(epoch, start))[1:]


def test_a_training_that_works_passes(shards: Path, tmp_path: Path) -> None:
    run = train_and_check(shards, tmp_path)
    assert len(run.checks) == 7


@pytest.mark.parametrize(
    ("name", "sabotaged", "found"),
    [
        ("Loop", Idle, "5 epochs asked for, 5 reported, 0 seen"),
        ("Loop", Remembering, "epoch 1: the model saw 0 of 20 crystals, in 0 of 4 steps"),
        ("Loop", Frozen, "epoch 0: no weight changed"),
        ("ResidentLoader", Skipping, "epoch 0: the model saw 15 of 20 crystals, in 3 of 4 steps"),
    ],
)
def test_a_sabotaged_training_is_found(
    name: str, sabotaged: type, found: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, name, sabotaged)
    with pytest.raises(CheckError, match=re.escape(found)):
        train_and_check(shards, tmp_path)


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        (lambda run: run.figure("speed", [1.0, float("nan")], "x"), "finite and positive"),
        (lambda run: run.figure("speed", [], "x"), "finite and positive"),
        (lambda run: run.figure("speed", [0.0], "x"), "finite and positive"),
        (lambda run: run.figure("gain", [86_000.0], "x", ceiling=(400.0, "physics")), "beyond its ceiling"),
        (lambda run: run.equal("losses", [1.0, 2.0], [1.0, 2.1], 1e-5), "relative difference 4.8e-02"),
        (lambda run: run.equal("losses", [1.0], [1.0, 2.0], 1e-5), "1 and 2 values"),
        (lambda run: run.equal("losses", [], [], 1e-5), "0 and 0 values"),
    ],
)
def test_impossible_numbers_are_errors(mistake: Callable[[Run], None], found: str, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=found):
        mistake(a_run(tmp_path))


def a_result(**rounds: list[float]) -> bench.Result:
    run = a_run(Path())
    for name, values in rounds.items():
        run.figure(name, values, "x" if name == "ratio" else "s", better="higher" if name == "ratio" else "lower")
    machine = {"processor": "A", "cpus": 2, "memory_gb": 8, "load_before_and_after": [0.1, 1.0], "note": ""}
    return {
        "benchmark": "scatter",
        "small": False,
        "date": "2026-01-01",
        "machine": machine,
        "versions": {"python": "3.11", "torch": "2"},
        "commit": "0123456789" * 4 + "-dirty",
        "code_digest": bench.code_digest(()),
        "settings": {"rounds": 3},
        "seconds": 1.0,
        "checks": run.checks,
        "results": {"figures": run.figures, "facts": {"crystals": 1000, "shares": {"mm": "3 %"}}},
    }


def verdicts(old: bench.Result, new: bench.Result) -> dict[str, str]:
    return {change.name: change.verdict for change in comparing.changes(old, new)}


def test_only_changes_beyond_noise_are_told() -> None:
    old = a_result(ratio=[9.5, 10.0, 10.5], steady=[1.0, 1.0, 1.0], shaky=[0.7, 1.0, 1.3], once=[1.0])
    new = a_result(ratio=[7.9, 8.0, 8.1], steady=[1.04, 1.04, 1.04], shaky=[1.2, 1.25, 1.3], once=[1.3])
    assert verdicts(old, new) == {"ratio": "WORSE", "steady": "same", "shaky": "same", "once": "same"}
    assert verdicts(new, old)["ratio"] == "better"
    new["machine"] = {**new["machine"], "processor": "B"}
    assert set(verdicts(old, new)) == {"ratio"}


def test_a_comparison_ends_with_1_if_something_is_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = tmp_path / "old.json", tmp_path / "new.json"
    for path, value in zip(paths, (10.0, 5.0), strict=True):
        bench.write(a_result(ratio=[value, value]), path)
    assert comparing.main(*paths) == 1
    assert "| ratio | 10 | 5 | 0.50 | 5 % | WORSE |" in capsys.readouterr().out
    assert comparing.main(*paths[::-1]) == 0
    other = a_result(ratio=[1.0])
    bench.write({**other, "settings": {"rounds": 4}}, paths[1])
    assert str(comparing.main(*paths)).startswith("error: the results differ in settings")
    paths[1].write_text("{}")
    assert "not written by benchmarks/bench.py" in str(comparing.main(*paths))


def test_the_digest_is_that_of_code_that_computes() -> None:
    source = '"""A module."""\n\nx = 1\n\n\ndef f():\n    """Return."""\n    # why\n    return x  # here\n'
    same = '"""Another\ndocstring."""\nx = 1\ndef f():\n    "Words."\n    return x  # here\n'
    assert bench._code(source) == bench._code(same) == "x = 1\ndef f():\n    return x  # here"
    assert bench.code_digest(("nn",)) != bench.code_digest(("nn", "graphs"))
    assert bench.code_digest(("graphs", "nn")) == bench.code_digest(("nn", "graphs"))


@pytest.mark.parametrize("name", series.NAMES)
def test_what_a_benchmark_measures_exists(name: str) -> None:
    benchmark = series.load(name)
    assert benchmark.name == name
    for part in benchmark.measures:
        assert (bench.PACKAGE / part).exists(), part


@pytest.mark.parametrize("name", series.NAMES)
def test_a_page_shows_its_results(name: str) -> None:
    """The sentence on changed code may be there or not; ``make bench-pages`` writes it."""
    assert pages.up_to_date(series.load(name)), f"run make bench-pages: benchmarks/{name}.md is not that of its results"


def test_a_page_says_what_was_measured_and_that_the_code_changed() -> None:
    benchmark, result = series.load("scatter"), a_result(ratio=[9.0, 10.0, 11.0])
    prose = f"# Sums\n\n{pages.MARKER.format('scatter')}\nold"
    page = pages.rendered(benchmark, prose, result, changed=True)
    assert page.startswith("# Sums\n\n<!-- Below")
    assert "Measured on 2026-01-01, commit 01234567-dirty." in page
    assert " ".join(page.split()).count(pages.CHANGED) == 1
    assert "| ratio | 10 | 9 to 11 (3) | x | |" in page
    assert "- crystals: 1,000\n- shares: mm 3 %\n" in page
    assert "python benchmarks/scatter.py --rounds 3" in page
    assert pages.CHANGED not in pages.rendered(benchmark, prose, result, changed=False)
    assert pages.rendered(benchmark, page, result, changed=True) == page
    with pytest.raises(ValueError, match="has no line '<!-- Below"):
        pages.rendered(benchmark, "# Sums\n", result, changed=False)


def test_other_results_are_told_from_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark, result = series.load("scatter"), a_result(ratio=[10.0])
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    (tmp_path / "scatter.md").write_text(f"# Sums\n\n{pages.MARKER.format('scatter')}\n")
    bench.write({**result, "code_digest": "of other code"}, tmp_path / "scatter.json")
    assert pages.write(benchmark)
    assert pages.CHANGED in " ".join((tmp_path / "scatter.md").read_text().split())
    assert pages.up_to_date(benchmark)
    changed: dict[str, Any] = copy.deepcopy(result)
    changed["results"]["figures"]["ratio"]["median"] = 11.0
    bench.write(changed, tmp_path / "scatter.json")
    assert not pages.up_to_date(benchmark)


SCRIPTS = sorted(path.stem for path in bench.FOLDER.glob("*.py") if "__main__" in path.read_text())


def test_every_script_is_run_by_the_series_or_says_why_not() -> None:
    known = {*series.NAMES, *series.RECORDS, *series.TOOLS, *series.APART}
    assert set(SCRIPTS) <= known
    for name in series.RECORDS:
        assert "A record of one day" in (bench.FOLDER / f"{name}.py").read_text()


@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - set(series.APART)))
def test_help_only_helps(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(bench.FOLDER / f"{name}.py"), run_name="__main__")
    assert not ended.value.code
    assert "usage" in capsys.readouterr().out


def test_the_small_form_has_its_own_settings() -> None:
    benchmark = series.load("cgcnn_throughput")
    full, small = bench.arguments(benchmark, []), bench.arguments(benchmark, ["--small", "--rounds", "7"])
    assert (full.batch_sizes, small.batch_sizes, small.rounds) == ((64, 256), (16,), 7)
    assert small.table is None


def test_the_processor_is_named() -> None:
    assert re.fullmatch(r".+ \(family \S+, model \S+; .+\)|unknown", bench.processor())


def test_a_pool_without_the_compositions_of_a_table() -> None:
    crystals = small(8, 40)
    pool, other = to_table(crystals), to_table(crystals[::3])
    found = without(pool, other)
    mine, theirs = ({tuple(row) for row in _reduced(table)} for table in (found, other))
    assert not mine & theirs
    lost = [c.material_id for c in crystals if c.material_id not in found["material_id"].to_pylist()]
    assert {tuple(row) for row in _reduced(pool.filter(pc.is_in(pool["material_id"], pa.array(lost))))} <= theirs
    few = without(pool, other, most_atoms=4, draw=3)
    assert len(few) == 3
    assert max(map(len, few["atomic_numbers"].to_pylist())) <= 4


def _reduced(table: pa.Table) -> list[list[int]]:
    counts = element_counts(table)
    reduced: list[list[int]] = (counts // np.gcd.reduce(counts, axis=1, keepdims=True)).tolist()
    return reduced
