"""Every broken input has a documented outcome: a short fuzzing run, and inputs that once failed."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from crysatom.config import GraphSpec, IngestConfig, Limits
from crysatom.config.flags import preset_flags
from crysatom.config.predicting import PredictConfig
from crysatom.crystals.cif import parse_cif
from crysatom.crystals.closest_pair import closest_pair
from crysatom.crystals.ingest import IngestReport, ingest_plain
from crysatom.crystals.properties import property_array
from crysatom.crystals.quarantine import Rejection
from crysatom.crystals.sources import records
from crysatom.crystals.spheres import _by_tree, pairs_within
from crysatom.crystals.targets import targets_from_csv
from crysatom.graphs import shards
from crysatom.graphs.neighbors import neighbor_graph
from crysatom.models.files import load_model
from crysatom.training.encoder_files import load_encoder
from crysatom.vectors.files import read_vectors
from tests.fuzz import corpus
from tests.fuzz.strategies import Files
from tests.fuzz.targets import TARGETS, UNEXPECTED, Target, outcome, write
from tests.unit.broken_inputs import cif


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # on the display of a failing input
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_reader_takes_an_input_or_says_what_is_wrong(
    target: Target, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ASE's, when it writes the files to damage
        strategy = target.inputs()

    @settings(
        max_examples=8,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(files: Files) -> None:
        folder = tmp_path_factory.mktemp("input")
        write(files, folder)
        ended = outcome(target, folder)
        assert ended.kind != UNEXPECTED, ended.detail

    each()


def ingested(source: Path, out: Path) -> tuple[IngestReport, list[str]]:
    report = ingest_plain(IngestConfig.of(source=str(source), out=str(out)))
    return report, pq.read_table(report.quarantine)["detail"].to_pylist()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (cif() + "\n" * 2_000_000 + "x", "line 9: Wrong number of values in loop"),
        (cif() + "\n" + " 'a" * 200_000, "unterminated 'string'"),
        (cif() + "\n" + cif(block="x") * 2_000, "the file holds 2001 structures"),
    ],
    ids=["blank lines", "quotes", "blocks"],
)
def test_a_cif_whose_reading_takes_the_square_of_its_length_is_refused_soon(text: str, said: str) -> None:
    with pytest.raises(Rejection, match=said):
        parse_cif(text.encode(), Limits())


def test_operations_are_counted_however_many_a_cif_lists() -> None:
    operations = "\n".join(f"'x+{i % 24}/24,y+{i // 24 % 24}/24,z+{i // 576}/24'" for i in range(13_824))
    text = cif("Na Na1 0.1 0.2 0.3 1\n", extra=f"loop_\n_symmetry_equiv_pos_as_xyz\n{operations}")
    with pytest.raises(Rejection, match="symmetry operations are more than 768"):
        parse_cif(text.encode(), Limits())


def test_a_long_value_is_cut_off_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif(f"Na Na1 0 0 0 9.{'9' * 50_000}\n"))
    [said] = ingested(tmp_path / "a.cif", tmp_path / "out")[1]
    assert "has occupancy 9.999" in said
    assert len(said) < 2500


@pytest.mark.parametrize("lattice", [np.eye(3) * 6, np.array([[5.0, 0, 0], [1, 6, 0], [-2, 1, 7]])])
def test_both_searches_find_the_same_pairs(lattice: np.ndarray) -> None:
    coords = np.random.default_rng(0).uniform(-1, 2, (7, 3)) @ lattice
    found = [
        sorted(zip(*(np.round(x, 6).tolist() for x in search), strict=True))
        for search in (pairs_within(lattice, coords, 5.2, tol=1e-8), _by_tree(lattice, coords, 5.2))
    ]
    assert len(found[0]) > 50
    assert found[0] == found[1]


def test_needles_and_sparse_cells_are_searched_in_bounded_memory() -> None:
    coords = np.random.default_rng(0).random((250, 3))
    needle = np.array([[1700.0] * 3, [1, -1, 0], [1, 1, -2]])
    for lattice in (needle, np.eye(3) * 580, np.diag([9000, 9000, 0.9])):
        closest_pair(lattice, coords, below=0.5)
    assert neighbor_graph(needle, coords[:5], GraphSpec()).degree.min() >= 12


def test_whole_numbers_beside_fractions_may_be_large() -> None:
    assert property_array([2**60 + 1, 0.5, None], pa.float64()).to_pylist() == [float(2**60 + 1), 0.5, None]
    assert property_array([1.5], pa.float16()).to_pylist() == [1.5]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        '{"columns": [[]], "index": [0], "data": [[1]]}',
        '{"columns": 1, "data": [[1]]}',
        json.dumps([{"lattice": {"matrix": [[10**400, 0, 0]] * 3}, "sites": []}]),
        '[{"id": "\\ud800", "structure": {}, "\\udfff": "\\ud800"}]',
        '{"columns": ["structure", 1.5], "data": [[{}, 1]]}',
    ],
)
def test_odd_json_ends_with_a_message(text: str, tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(text)
        try:
            said = ingested(tmp_path / name, tmp_path / name.replace(".", "-"))[1]
        except ValueError as error:
            said = [str(error)]
        assert said
        assert all(name in message for message in said)


def test_a_compressed_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_LINE_BYTES", 1_000_000)
    sound = json.dumps(corpus.structures()[0]).encode()
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[" + b" " * 20_000_000 + b"]"))
    with pytest.raises(ValueError, match=r"a\.json\.gz: cannot be read .it holds more than .* one record per line"):
        ingested(tmp_path / "a.json.gz", tmp_path / "one")
    lines = b"\n".join([sound, b" " * 20_000_000, sound.replace(b"4", b"5")])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    report, said = ingested(tmp_path / "a.jsonl.gz", tmp_path / "two")
    assert (report.read, report.reasons) == (3, {"too_large": 1})
    assert "a.jsonl.gz:2: the line has more than" in said[0]


def test_a_row_of_a_million_atoms_is_refused_and_its_neighbors_are_kept(tmp_path: Path) -> None:
    few = corpus.table().slice(0, 2).select(["material_id", "lattice", "frac_coords", "atomic_numbers"])
    coords = [*few["frac_coords"].to_pylist(), [0.0] * 3_000_000]
    columns = {
        "material_id": [*few["material_id"].to_pylist(), "huge"],
        "lattice": [*few["lattice"].to_pylist(), few["lattice"][0].as_py()],
        "frac_coords": coords,
        "atomic_numbers": [*few["atomic_numbers"].to_pylist(), [1] * 1_000_000],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    report, [said] = ingested(tmp_path / "a.parquet", tmp_path / "out")
    assert (report.accepted, report.reasons) == (2, {"too_large": 1})
    assert "a.parquet#2: the cell has more than 65535 atoms" in said


def test_a_symmetry_operation_of_thousands_of_digits_is_refused_at_once() -> None:
    operations = f"loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'-x+{'9' * 5000}/3, y, z'\n"
    with pytest.raises(Rejection, match="is not a symmetry operation such as"):
        parse_cif(cif("Na Na1 0.1 0.2 0.3 1\n", extra=operations).encode(), Limits())


@pytest.mark.parametrize("name", ["../other.parquet", "/etc/passwd", "..", "", 5])
def test_a_manifest_names_files_of_its_own_folder_only(name: Any, tmp_path: Path) -> None:
    write(corpus.shards(), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][0]["file"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"must be the name of one folder or file|does not list shards by file"):
        shards.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "5", "{", "[" * 50_000])
def test_what_is_no_json_object_is_said_to_be_damaged(content: str, tmp_path: Path) -> None:
    for files, name, load in (
        (corpus.encoder(), "encoder.json", load_encoder),
        (corpus.model(), "model.json", load_model),
        (corpus.shards(), "manifest.json", shards.read_manifest),
    ):
        folder = tmp_path / name
        write({**files, name: content.encode()}, folder)
        with pytest.raises(ValueError, match=r"damaged|cannot be read as JSON|no JSON object"):
            load(folder)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("setting", ["width", "num_layers"])
def test_an_encoder_that_says_it_is_enormous_is_not_built(setting: str, tmp_path: Path) -> None:
    content = json.loads(corpus.encoder()["encoder.json"])
    write({**corpus.encoder(), "encoder.json": json.dumps({**content, setting: 10**9}).encode()}, tmp_path)
    with pytest.raises(ValueError, match="do not fit together"):
        load_encoder(tmp_path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_what_has_no_end_is_not_read(kind: str, tmp_path: Path) -> None:
    def make(path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        makers: dict[str, Any] = {
            "pipe": lambda: os.mkfifo(path),
            "device": lambda: path.symlink_to("/dev/zero"),
            "folder": path.mkdir,
            "loop": lambda: path.symlink_to(path.name),
        }
        makers[kind]()
        return path

    table = corpus.table()
    calls: list[tuple[str, Any]] = [
        ("a.csv", read_vectors),
        ("targets.csv", lambda path: targets_from_csv(path, table, table["material_id"].to_pylist())),
        ("p.json", lambda path: preset_flags(path, PredictConfig, [])),
        ("encoder/encoder.json", lambda path: load_encoder(path.parent)),
        ("model/model.json", lambda path: load_model(path.parent)),
        ("shards/manifest.json", lambda path: shards.read_manifest(path.parent)),
        ("list/id_prop.csv", lambda path: ingested(path.parent, tmp_path / "out")),
    ]
    for name, call in calls:
        with pytest.raises(ValueError, match=str(tmp_path)):
            call(make(tmp_path / name))
    [said] = ingested(make(tmp_path / "cifs" / "a.cif").parent, tmp_path / "other")[1]
    assert "a.cif" in said
