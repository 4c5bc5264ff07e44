"""Parts of the study few_labels: kernel ridge regression, finished cells, and the flags."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from crysatom.config import FewLabelsConfig, parse_study
from crysatom.config.few_labels import Table
from crysatom.studies.few_labels.cells import CELLS_CSV, COLUMNS, ERRORS, CellStore, find_cells, read_cells
from crysatom.studies.few_labels.composition import kernel_ridge, mean_vectors
from crysatom.studies.few_labels.training import Trained
from tests.unit.test_studies_few_labels_statistics import CELL

FIRST = dataclasses.replace(CELL, identity="a" * 16, mae=0.1 + 0.2, table="=odd, name")
SECOND = dataclasses.replace(CELL, identity="b" * 16)


def test_mean_vectors_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    np.testing.assert_allclose(mean_vectors(np.array([[1, 2], [4, 0]]), vectors), [[1 / 3, 2], [1, 0]])


def test_kernel_ridge_learns_a_line_by_the_linear_kernel() -> None:
    """Three points on a line: without a penalty the fit is exact, everywhere; Gaussian kernels bend between them."""
    x = np.array([[-1.0], [0.0], [1.0]])
    far = np.array([[-30.0], [40.0]])
    outcome = kernel_ridge((x, far, np.array([[7.0]])), 2 * x[:, 0] + 5, 2 * far[:, 0] + 5)
    assert outcome.width == float("inf")
    assert outcome.penalty == 1e-6
    np.testing.assert_allclose(outcome.test, [19], rtol=1e-4)
    np.testing.assert_allclose(outcome.val, [-55, 85], rtol=1e-4)


def test_kernel_ridge_is_its_formula() -> None:
    generator = np.random.default_rng(0)
    train, val, test = (generator.normal(size=(n, 3)) for n in (40, 20, 10))
    y, y_val = np.sin(2 * train).sum(axis=1), np.sin(2 * val).sum(axis=1)
    outcome = kernel_ridge((train, val, test), y, y_val)
    assert np.isfinite(outcome.width)
    distances = np.square(train[:, None] - train).sum(axis=2)
    unit = np.median(distances[np.triu_indices(40, 1)])
    kernel = np.exp(-distances / (2 * outcome.width**2 * unit))
    weights = np.linalg.solve(kernel + outcome.penalty * np.eye(40), y - y.mean())
    to_test = np.exp(-np.square(test[:, None] - train).sum(axis=2) / (2 * outcome.width**2 * unit))
    np.testing.assert_allclose(outcome.test, y.mean() + to_test @ weights, atol=1e-6)


def test_finished_cells_are_found_again_with_all_digits(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    store = CellStore(folder)
    errors = np.linspace(0, 1, CELL.num_crystals)
    store.add(FIRST, errors)
    store.add(SECOND, errors)
    again = CellStore(folder)
    assert again.cells == {FIRST.identity: FIRST, SECOND.identity: SECOND}
    found = again.errors(FIRST.identity)
    assert found is not None
    np.testing.assert_array_equal(found, errors.astype(np.float32))
    assert find_cells(folder) == find_cells(tmp_path) == [folder / CELLS_CSV]


def test_an_incomplete_line_is_ignored_and_replaced(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.add(FIRST, np.zeros(CELL.num_crystals))
    with (tmp_path / CELLS_CSV).open("a") as file:
        file.write("cccccccccccccccc,y,eV,10")
    resumed = CellStore(tmp_path)
    assert list(resumed.cells) == [FIRST.identity]
    resumed.add(SECOND, np.zeros(CELL.num_crystals))
    assert read_cells(tmp_path / CELLS_CSV) == [FIRST, SECOND]


def test_cells_of_another_machine_may_come_without_their_errors(tmp_path: Path) -> None:
    CellStore(tmp_path).add(FIRST, np.zeros(CELL.num_crystals))
    (tmp_path / ERRORS / f"{FIRST.identity}.f32").unlink()
    elsewhere = CellStore(tmp_path / "new", [tmp_path / CELLS_CSV])
    assert elsewhere.cells[FIRST.identity] == FIRST
    assert elsewhere.errors(FIRST.identity) is None
    (tmp_path / ERRORS / f"{FIRST.identity}.f32").write_bytes(b"1234567")
    assert elsewhere.errors(FIRST.identity) is None


def test_files_that_are_none_of_cells_are_refused(tmp_path: Path) -> None:
    path = tmp_path / CELLS_CSV
    with pytest.raises(ValueError, match="no file and no folder with a cells"):
        find_cells(tmp_path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"cells.csv: no table of cells"):
        read_cells(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="it is a file of another study or version"):
        read_cells(path)
    CellStore(tmp_path / "x", []).folder.mkdir()
    CellStore(tmp_path / "x").add(FIRST, np.zeros(1))
    good = (tmp_path / "x" / CELLS_CSV).read_text()
    path.write_text(good.replace(",0.1\n", ",soon\n"))
    with pytest.raises(ValueError, match=r"cells.csv:2: .*'soon'; remove this line"):
        read_cells(path)
    path.write_text(good.replace("a" * 16, "../../somewhere_"))
    with pytest.raises(ValueError, match=r"cells.csv:2: the identity is not 16 hexadecimal digits"):
        read_cells(path)
    assert good.startswith(",".join(COLUMNS))


def test_results_travel_as_text() -> None:
    trained = Trained(
        errors=np.array([0.1, 2], np.float32), val_mae=0.3, epochs=4, selected_epoch=2, seconds=1.5, power=-1
    )
    back = Trained.from_text(trained.to_text())
    np.testing.assert_array_equal(back.errors, trained.errors)
    assert dataclasses.replace(back, errors=trained.errors) == trained


def test_tables_have_names_and_powers() -> None:
    flags = [
        "--vectors",
        "onehot92",
        "onehot92@-1",
        "ours=runs/a@b/vectors@-0.5",
        "random=random:{draw}",
        "./x@1.csv",
        "magpie@auto",
    ]
    config = parse_study(["--study", "few_labels", *flags])
    assert isinstance(config, FewLabelsConfig)
    assert config.tables == (
        Table("onehot92", "onehot92", 0),
        Table("onehot92@-1", "onehot92", -1),
        Table("ours", "runs/a@b/vectors", -0.5),
        Table("random", "random:{draw}", 0),
        Table("./x@1.csv", "./x@1.csv", 0),
        Table("magpie@auto", "magpie", "auto"),
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vectors", "onehot"], "baseline onehot92 is not among the tables"),
        (["--vectors", "onehot92", "onehot92=onehot"], "two tables are called onehot92"),
        (["--labels", "5"], "labels must be 0 or at least 10"),
        (["--labels", "500", "500"], "labels must be different"),
        (["--draws", "0"], "draws must be at least 1"),
        (["--held-out", "group:19"], "held_out takes Fe,Co or group:17 or random:8 or none, got"),
        (["--held-out", "Xx"], "held_out takes"),
        (["--vectors", "onehot92", "onehot92@-20"], "vector_spectrum must lie in"),
        (["--seeds", "-1"], "seeds must be whole numbers from 0 on"),
    ],
)
def test_what_is_wrong_is_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_study(["--study", "few_labels", *flags])
    captured = capsys.readouterr()
    assert message in " ".join((captured.out + captured.err).split())
