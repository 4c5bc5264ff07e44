"""A contribution is complete and its bytes are reproducible; the score is the leaderboard's."""

from __future__ import annotations

import json
import logging
import subprocess
import zipfile
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error

from crysatom.crystals.splits import ids_digest, official
from crysatom.crystals.table import read_table
from crysatom.crystals.targets import targets_for
from crysatom.studies import leaderboard
from crysatom.studies.leaderboard import About, Benchmark, Predictions, score, write_contribution

ABOUT = About(
    model_name="CrysAtom CGCNN",
    team_name="team",
    project_url="https://arxiv.org/abs/2409.04737",
    author_email="a@b.org",
    date_submitted=date(2026, 11, 3),
    software_used="crysatom==0.1.0",
    hardware_used="2 CPUs",
    git_url=("https://example.org/crysatom",),
    commands=("echo first", "echo second"),
)

IDS = [f"JVASP-{i}" for i in (90, 8, 700, 61)]
VALUES = np.array([0.1, -2.5, 1 / 3, 1e-20])
FILE = "AI-SinglePropertyPrediction-ehull-dft_3d-test-mae.csv.zip"


@pytest.fixture
def _small_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace a test set by four ids, since the real ones are not in the repository."""
    monkeypatch.setitem(leaderboard.BENCHMARKS, "ehull", Benchmark(4, ids_digest(IDS)))


def predictions(ids: list[str] | None = None, values: np.ndarray | None = None) -> Predictions:
    return Predictions(
        name="ehull",
        material_ids=IDS if ids is None else ids,
        prediction=VALUES if values is None else values,
        seconds=12.34,
    )


def write(folder: Path, *given: Predictions) -> list[Path]:
    return write_contribution(folder, given or (predictions(),), {"ehull": IDS}, ABOUT)


@pytest.mark.usefixtures("_small_benchmark")
def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "contribution"
    files = write(folder)
    assert [f.name for f in files] == [FILE, "metadata.json", "run.sh"]
    assert sorted(files) == sorted(folder.iterdir())
    with zipfile.ZipFile(folder / FILE) as archive:
        assert archive.namelist() == [FILE.removesuffix(".zip")]
        assert archive.testzip() is None
    table = pd.read_csv(folder / FILE)
    assert table.columns.tolist() == ["id", "prediction"]
    assert dict(zip(table["id"], table["prediction"], strict=True)) == dict(zip(IDS, VALUES.tolist(), strict=True))
    assert json.loads((folder / "metadata.json").read_text()) == {
        "model_name": "CrysAtom CGCNN",
        "project_url": "https://arxiv.org/abs/2409.04737",
        "date_submitted": "11-03-2026",
        "author_email": "a@b.org",
        "database_version": "12-12-2022",
        "team_name": "team",
        "time_taken_seconds": {FILE.removesuffix(".zip"): 12.3},
        "language": "Python",
        "os": "linux",
        "software_used": "crysatom==0.1.0",
        "hardware_used": "2 CPUs",
        "git_url": ["https://example.org/crysatom"],
    }
    ran = subprocess.run([str(folder / "run.sh")], capture_output=True, text=True, check=True)
    assert ran.stdout == "first\nsecond\n"


@pytest.mark.usefixtures("_small_benchmark")
def test_a_finished_run_becomes_a_contribution_with_its_mae(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    targets = VALUES + np.array([1.0, -2.0, 0.5, 0.0])
    table = pd.DataFrame({"material_id": IDS, "target": targets, "prediction": VALUES})
    table.to_csv(run / "predictions.csv", index=False)
    with pytest.raises(ValueError, match="holds no finished run"):
        leaderboard.of_run(run)
    (run / "results.json").write_text(json.dumps({"property": "ehull"}))
    (run / "run.json").write_text(json.dumps({"seconds": 12.34}))
    made, found = leaderboard.of_run(run)
    write(tmp_path / "contribution", made)
    assert json.loads((tmp_path / "contribution" / "metadata.json").read_text())["time_taken_seconds"] == {
        FILE.removesuffix(".zip"): 12.3
    }
    assert score(tmp_path / "contribution", "ehull", found) == pytest.approx(0.875)


@pytest.mark.usefixtures("_small_benchmark")
def test_bytes_are_those_of_the_predictions(tmp_path: Path) -> None:
    """They depend neither on the time nor on the order of rows."""
    write(tmp_path / "a")
    write(tmp_path / "b", predictions(IDS[::-1], VALUES[::-1]))
    write(tmp_path / "c", predictions(values=VALUES + 1e-9))
    a, b, c = ((tmp_path / name / FILE).read_bytes() for name in "abc")
    assert a == b != c
    assert sha256(a).hexdigest() == "a598a7bf346ec8cee97ca3e9e011ab35df7ff4a019af4ebd97d76f7263528855"


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (IDS[:3], VALUES[:3], r"1 are missing \(JVASP-61"),
        ([*IDS, "JVASP-90"], np.append(VALUES, 0.1), r"1 are repeated \(JVASP-90"),
        ([*IDS, "JVASP-1"], np.append(VALUES, 0.1), r"1 are not test crystals \(JVASP-1,"),
        (IDS, np.array([0.1, np.nan, -np.inf, 1]), r"2 have no finite prediction \(JVASP-8"),
        (IDS, VALUES[:3], r"4 ids, but predictions of shape \(3,\)"),
        (["JVASP-90"] * 4, VALUES, r"1 are repeated .*3 are missing"),
    ],
)
@pytest.mark.usefixtures("_small_benchmark")
def test_anything_but_each_crystal_once_is_refused(
    ids: list[str], values: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "c", predictions(ids, values))
    assert not (tmp_path / "c").exists()


@pytest.mark.usefixtures("_small_benchmark")
def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the 3 test ids of ehull are not the 4 official ones"):
        write_contribution(tmp_path / "c", [predictions(IDS[:3], VALUES[:3])], {"ehull": IDS[:3]}, ABOUT)
    with pytest.raises(ValueError, match="the 0 test ids of ehull are not the 4 official ones"):
        write_contribution(tmp_path / "c", [predictions()], {}, ABOUT)
    with pytest.raises(ValueError, match="'density' is not a dft_3d benchmark"):
        write(tmp_path / "c", replace(predictions(), name="density"))
    with pytest.raises(ValueError, match="each property once; ehull"):
        write(tmp_path / "c", predictions(), predictions())
    with pytest.raises(ValueError, match="none are given"):
        write_contribution(tmp_path / "c", [], {}, ABOUT)
    with pytest.raises(ValueError, match="needs a value for author_email, git_url"):
        replace(ABOUT, author_email="", git_url=())
    assert not (tmp_path / "c").exists()
    (tmp_path / "old.csv.zip").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        write(tmp_path)


def leaderboards_own(path: Path, test: dict[str, float]) -> float:
    """Score as jarvis_leaderboard/rebuild.py does, with its libraries."""
    table = pd.read_csv(path, sep=",")
    actual = pd.DataFrame({"id": list(test), "actual": list(test.values())})
    for frame in (table, actual):
        frame["id"] = frame["id"].astype(str)
    merged = table.merge(actual, on="id")
    return round(float(mean_absolute_error(merged["actual"], merged["prediction"])), 4)


@pytest.mark.usefixtures("_small_benchmark")
def test_score(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path)
    targets = dict(zip(IDS, [0.0, -2.0, 0.0, 0.25], strict=True))
    assert score(tmp_path, "ehull", targets) == round((0.1 + 0.5 + 1 / 3 + 0.25) / 4, 4) == 0.2958
    assert score(tmp_path, "ehull", targets) == leaderboards_own(tmp_path / FILE, targets)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert score(tmp_path, "ehull", {"JVASP-90": 0.0, "JVASP-1": 7.0}) == 0.1
    assert "scored 1 of 4 predictions, 2 targets" in caplog.text


def test_score_of_numeric_ids_and_further_columns(tmp_path: Path) -> None:
    """Other contributions have numeric ids and a column of targets."""
    table = pd.DataFrame({"id": [1, 2], "target": [9.0, 9.0], "prediction": [1.0, 2.0]})
    table.to_csv(tmp_path / FILE, index=False)
    assert score(tmp_path, "ehull", {"1": 1.5, "2": 2.25}) == 0.375


@pytest.mark.usefixtures("_small_benchmark")
def test_score_needs_predictions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{FILE} does not exist"):
        score(tmp_path, "ehull", {})
    write(tmp_path)
    with pytest.raises(ValueError, match="none of its 4 ids is among the 1 targets"):
        score(tmp_path, "ehull", {"JVASP-1": 0.0})
    pd.DataFrame({"jid": IDS, "prediction": VALUES}).to_csv(tmp_path / FILE, index=False)
    with pytest.raises(ValueError, match="lacks id"):
        score(tmp_path, "ehull", {"JVASP-90": 0.0})


def test_contribution_to_all_seven(test_data: Path, tmp_path: Path) -> None:
    """Predicting the median of the train targets has the errors counted from the JARVIS-Leaderboard's files."""
    table = read_table(test_data / "jarvis_dft_3d.parquet")
    ids = np.array(list(dict.fromkeys(table["material_id"].to_pylist())), dtype=object)
    splits = {name: official(table, name, ids) for name in leaderboard.BENCHMARKS}
    targets = {name: targets_for(table, name, ids) for name in splits}
    given = [
        Predictions(
            name=name,
            material_ids=split.ids("test"),
            prediction=np.full(len(split.test), np.median(targets[name].labels[split.train])),
            seconds=1.0,
        )
        for name, split in splits.items()
    ]
    test_ids = {name: split.ids("test") for name, split in splits.items()}
    assert {n: len(i) for n, i in test_ids.items()} == {n: b.num_crystals for n, b in leaderboard.BENCHMARKS.items()}
    files = write_contribution(tmp_path, given, test_ids, ABOUT)
    assert len(files) == 9
    scores = {}
    for name, split in splits.items():
        test = dict(zip(test_ids[name].tolist(), targets[name].labels[split.test].tolist(), strict=True))
        scores[name] = score(tmp_path, name, test)
        assert scores[name] == leaderboards_own(tmp_path / f"{leaderboard.csv_name(name)}.zip", test)
    rounded = {name: round(value, 3 if value < 10 else 2) for name, value in scores.items()}
    assert rounded == {
        "formation_energy_peratom": 0.843,
        "optb88vdw_bandgap": 0.698,
        "optb88vdw_total_energy": 1.786,
        "ehull": 1.144,
        "mbj_bandgap": 1.483,
        "bulk_modulus_kv": 52.50,
        "shear_modulus_gv": 26.10,
    }
