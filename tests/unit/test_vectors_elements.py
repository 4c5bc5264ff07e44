"""Element features: distinct for every element, chemically correct, and equal to CGCNN's as documented."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crysatom.names import SYMBOLS
from crysatom.vectors.elements import BINS, Bins, element_features, element_table
from crysatom.vectors.files import read_vectors, write_vectors
from crysatom.vectors.table import AtomVectors

DATA = os.environ.get("CRYSATOM_TEST_DATA")


def ones(symbol: str) -> set[str]:
    features = element_features("elements")
    row = features.lookup([SYMBOLS.index(symbol) + 1])[0]
    return {column for column, value in zip(features.columns, row, strict=True) if value == 1}


def test_no_two_elements_have_equal_rows() -> None:
    features = element_features("elements")
    assert features.features.shape == (118, sum(bins.count for bins in BINS)) == (118, len(features.columns))
    assert len(np.unique(features.features, axis=0)) == 118
    assert set(np.unique(features.features)) == {0.0, 1.0}
    assert features.features.any(axis=0).all(), "a column that no element sets is no feature"


def test_binning_of_iron_by_hand() -> None:
    # Fe: X = 1.83 -> (1.83 - 0.5) / 0.35 = 3.8; r = 142 pm -> 117 / 22.5 = 5.2; ln 7.9025 eV = 2.067 -> 3.8;
    # EA = 0.1532 eV -> 3.1532 / 0.67 = 4.7; ln 7.09 cm3/mol = 1.959 -> 0.459 / 0.28 = 1.6; 8 valence electrons
    assert ones("Fe") == {
        "group_7",
        "period_3",
        "electronegativity_pauling_3",
        "covalent_radius_pm_5",
        "valence_electrons_7",
        "ionization_energy_ev_3",
        "electron_affinity_ev_4",
        "block_2",
        "molar_volume_cm3_1",
    }


def test_unknown_facts_leave_their_block_empty() -> None:
    assert not any(column.startswith("electronegativity") for column in ones("Ne"))
    assert not any(column.startswith("group") for column in ones("Gd"))
    assert {"f_column_7", "block_3"} <= ones("Gd")


def test_values_beyond_the_ends_fall_into_the_end_bins() -> None:
    bins = Bins("covalent_radius_pm", 25, 250, 10)
    assert [bins.place(text) for text in ("10", "25", "47.5", "250", "260")] == [0, 0, 1, 9, 9]


def test_table_agrees_with_the_vocabulary_and_with_chemistry() -> None:
    table = element_table()
    assert [facts["symbol"] for facts in table.values()] == list(SYMBOLS)
    valence = {facts["symbol"]: facts["valence_electrons"] for facts in table.values()}
    assert [valence[s] for s in ("Na", "Al", "Cl", "Zn", "La", "U")] == ["1", "3", "7", "12", "3", "3"]


def test_table_is_what_the_tool_writes(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = f"import sys; sys.path.insert(0, {str(root / 'tools')!r}); import element_table as t, pathlib; "
    target = tmp_path / "elements.csv"
    subprocess.run(
        [sys.executable, "-c", f"{script}t.TABLE = pathlib.Path({str(target)!r}); t.main()"], check=True, timeout=60
    )
    assert target.read_bytes() == (root / "platform/crysatom/vectors/elements.csv").read_bytes()


def test_reading_the_features_needs_no_pymatgen() -> None:
    script = (
        "import sys; from crysatom.vectors.elements import element_features; element_features('elements');"
        "assert 'pymatgen' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_vectors_file_serves_as_features(tmp_path: Path) -> None:
    features = element_features("elements")
    path = tmp_path / "given.csv"
    path.write_text("element,0,1\nNa,0.5,-1\nCl,0.25,2\n")
    given = element_features(str(path))
    assert given.atomic_numbers.tolist() == [11, 17]
    assert given.lookup([17, 11, 17]).tolist() == [[0.25, 2], [0.5, -1], [0.25, 2]]
    with pytest.raises(ValueError, match="no features for Fe, atomic number 119"):
        given.lookup([11, 26, 119])
    assert features.lookup([118]).shape == (1, 105)


def test_cgcnn92_without_jarvis_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jarvis", None)
    with pytest.raises(ValueError, match="pip install jarvis-tools"):
        element_features("cgcnn92")


@pytest.mark.skipif(
    not DATA, reason="needs third-party files that may not be committed: set CRYSATOM_TEST_DATA to their folder"
)
def test_cgcnn92_is_the_published_table() -> None:
    pytest.importorskip("jarvis", reason="jarvis-tools is not installed")
    features = element_features("cgcnn92")
    published = read_vectors(Path(str(DATA)) / "atom_vectors" / "cgcnn_onehot92.csv")
    np.testing.assert_array_equal(features.atomic_numbers, published.atomic_numbers)
    np.testing.assert_array_equal(features.features, published.vectors)
    assert len(np.unique(features.features, axis=0)) == 92, "CGCNN's bits are known not to be injective"


def test_written_features_read_back(tmp_path: Path) -> None:
    pytest.importorskip("jarvis", reason="jarvis-tools is not installed")
    features = element_features("cgcnn92")
    write_vectors(AtomVectors(atomic_numbers=features.atomic_numbers, vectors=features.features), tmp_path)
    np.testing.assert_array_equal(element_features(str(tmp_path)).features, features.features)
