"""Vectors from counts, by each method: the job from crystals to vectors for a predictor, and counts on Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crysatom.config import FeaturizeConfig, GraphSpec
from crysatom.graphs.cell_volumes import cell_volumes
from crysatom.graphs.featurize import featurize_plain
from crysatom.graphs.shards import shard_files
from crysatom.tracking.store import client
from crysatom.vectors.counts import Counts, count_file
from crysatom.vectors.files import read_vectors
from crysatom.vectors.structure.learn import learn
from crysatom.vectors.structure.tally import Tally, tally_file
from tests.graph_crystals import prototypes, write_table
from tests.run_job import run_here

pytestmark = [  # third parties' own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning"),  # mlflow.pyfunc about a class of its own
]


@pytest.mark.parametrize(
    ("method", "dim"), [("structure", 68), ("skipatom", 200), ("atom2vec", 69), ("onehot", 118), ("random", 200)]
)
def test_vectors_of_each_method_are_learned_tracked_and_found_again(
    method: str, dim: int, tmp_path: Path, new_store: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    first = run_here("vectors", "--method", method, "--num-workers", "0", "--steps", "20")
    assert first.returncode == 0, first.stderr + first.stdout
    counted = "1,813 contexts" if method == "structure" else "16,351 bonded pairs"
    assert f"288 crystals, {counted}, 236 compounds" in first.stdout
    assert f"69 vectors of {dim} dimensions" in first.stdout
    again = run_here("vectors", "--method", method, "--num-workers", "0", "--steps", "20")
    assert "Nothing to do: this run is finished." in again.stdout
    (folder,) = (path.parent for path in tmp_path.glob("runs/*/run.json"))
    vectors = read_vectors(folder / "vectors")
    assert vectors.vectors.shape == (69, dim)
    assert vectors.provenance["config"]["method"] == method
    assert vectors.site_counts is not None
    assert vectors.site_counts.sum() == sum(len(crystal.atomic_numbers) for crystal in prototypes())
    assert f"Vectors by {method}: 69 elements" in (folder / "vectors" / "card.md").read_text()
    run_id = json.loads((folder / "run.json").read_text())["run_id"]
    run = client(f"sqlite:///{tmp_path}/mlflow.db").get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["compounds"] == 236
    assert (vectors.standard_errors is not None) == (method == "structure")
    if method in {"structure", "skipatom"}:
        flags = ["--vectors", f"{folder}/vectors", "--epochs", "1", "--num-workers", "0"]
        used = run_here("downstream", *flags)
        assert used.returncode == 0, used.stderr + used.stdout


def test_a_shipped_table_is_used_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = [crystal for crystal in prototypes() if not {84, 98} & set(crystal.atomic_numbers.tolist())]  # Po, Cf
    write_table(tmp_path / "mine.parquet", known)
    flags = ("--data", "mine.parquet", "--property", "volume_per_atom", "--vectors", "structure-mp")
    used = run_here("downstream", *flags, "--vector-spectrum", "-1", "--epochs", "1", "--num-workers", "0")
    assert used.returncode == 0, used.stderr + used.stdout
    (file,) = tmp_path.glob("runs/*/run.json")
    assert json.loads(file.read_text())["config"]["vectors"] == "structure-mp"


def test_one_element_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pure = next(crystal for crystal in prototypes() if len(set(crystal.atomic_numbers.tolist())) == 1)
    write_table(tmp_path / "pure.parquet", [pure])
    process = run_here("vectors", "--method", "atom2vec", "--data", "pure.parquet", "--num-workers", "0")
    assert process.returncode == 0, process.stderr + process.stdout
    assert "1 vectors of 1 dimensions" in process.stdout


def test_what_cannot_be_done_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process = run_here("vectors", "--method", "atom2vec", "--dim", "500", "--num-workers", "0")
    assert process.returncode == 1
    assert process.stderr.strip() == (
        "error: aflow:prototypes holds 69 elements, which atom2vec gives at most as many dimensions; --dim 500 is more"
    )


@pytest.mark.usefixtures("ray_cluster")
def test_counts_on_a_cluster_are_those_of_one_process(tmp_path: Path) -> None:
    from crysatom.cluster.counts import count_on_cluster

    write_table(tmp_path / "crystals.parquet", prototypes())
    config = FeaturizeConfig.of(data=str(tmp_path / "crystals.parquet"), out=str(tmp_path / "graphs"))
    featurize_plain(config.replace(crystals_per_shard=100))
    files = shard_files(tmp_path / "graphs")
    assert len(files) == 3
    expected = Counts.total(count_file(file, 0.15, GraphSpec.cutoff) for file in files)
    found = count_on_cluster(files, 0.15, GraphSpec.cutoff)
    for name in ("crystals", "sites", "crystals_of", "pairs", "compounds"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.pairs.sum() == 16351


@pytest.mark.usefixtures("ray_cluster")
def test_structure_vectors_from_a_cluster_are_those_of_one_process_to_the_bit(tmp_path: Path) -> None:
    from crysatom.cluster.counts import tally_on_cluster

    table = tmp_path / "crystals.parquet"
    write_table(table, prototypes())
    rule = 0.15, GraphSpec.cutoff
    found = []
    for number in (288, 100, 40):  # one shard in this process, then 3 and 8 on the cluster
        shards = tmp_path / f"graphs{number}"
        featurize_plain(FeaturizeConfig.of(data=str(table), out=str(shards)).replace(crystals_per_shard=number))
        files, volumes = shard_files(shards), cell_volumes(shards, table)
        counts = tally_file(files[0], volumes[0], *rule) if number == 288 else tally_on_cluster(files, volumes, *rule)
        found.append((counts, learn(counts, ("substitution", "geometry"))))
    (one, expected), *others = found
    assert one.crystals == 288
    for counts, learned in others:
        assert isinstance(counts, Tally)
        for name in ("contexts", "bonds", "coordination", "compounds"):
            assert np.array_equal(getattr(counts, name).sums, getattr(one, name).sums), name
        assert np.array_equal(learned.vectors, expected.vectors)
        assert np.array_equal(learned.standard_errors, expected.standard_errors, equal_nan=True)
