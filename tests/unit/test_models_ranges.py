"""Flags of predictions: crystals unlike the training crystals are flagged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crysatom.config import GraphSpec, Limits
from crysatom.config.downstream import default
from crysatom.crystals.record import Record, to_batch
from crysatom.crystals.table import read_table
from crysatom.models.inference import Ensemble, open_model
from crysatom.models.ranges import joined, ranges_of
from crysatom.names import TRAIN
from tests.saved_models import write_model
from tests.small_regressions import tiny, volumes
from tests.unit.broken_inputs import cif
from tests.unit.test_predictors_published import checkpoint, written

RANGES = {"volume_per_atom": (20.0, 80.0), "num_atoms": (1, 4)}
NEAR = "Na Na1 0 0 0 1\nCl Cl1 0.5 0.5 0.5 1\n"
"""Sites in a cell of 5 angstrom: 62.5 cubic angstrom per atom."""


def cube(length: float, sites: str = NEAR) -> str:
    return cif(sites, cell=(length, length, length, 90, 90, 90))


def flags(text: str, *folders: Path) -> str:
    raw = to_batch([Record(material_id="a", source="a.cif", format="cif", content=text.encode())])
    [row] = Ensemble(tuple(open_model(folder) for folder in folders), Limits()).predict_records(raw).to_pylist()
    assert row["prediction"] is not None, row["detail"]
    return str(row["flags"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (cube(5), ""),
        (cube(20), "no_neighbors;outside_training_volume"),
        (cube(9, "Na Na1 0 0 0 1\n"), "no_neighbors;outside_training_volume"),
        (cube(24, NEAR.replace("0.5 0.5 0.5", "0.1 0 0")), "outside_training_volume"),
        (
            cube(24, NEAR.replace("0.5 0.5 0.5", "0.1 0 0") + "Cl Cl2 0.5 0.5 0.5 1\n"),
            "isolated_atoms;outside_training_volume",
        ),
        (cube(5, NEAR.replace("Cl", "Br")), "untrained_element"),
        (cube(3), "outside_training_volume"),
        (cube(5, NEAR + "".join(f"Na N{k} 0.{k} 0.5 0 1\n" for k in (2, 5, 8))), "outside_training_size"),
        (cube((160 * 1.0009) ** (1 / 3)), ""),
        (cube((160 * 1.002) ** (1 / 3)), "outside_training_volume"),
    ],
    ids=[
        "usual",
        "nothing near",
        "one atom",
        "a pair",
        "a pair and one",
        "bromine",
        "dense",
        "5 atoms",
        "rounded",
        "beyond",
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_a_crystal_unlike_those_of_the_training_is_flagged(
    text: str, expected: str, padded: bool, tmp_path: Path
) -> None:
    graph = GraphSpec(cutoff=8.0, pad_short_lists=padded, ties="truncate")
    folder = write_model(tmp_path / "m", trained=["Na", "Cl"], trained_ranges=RANGES, graph=graph)
    assert flags(text, folder) == expected


def test_edges_along_lattice_vectors_are_no_neighbors(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path / "m",
        predictor="matformer",
        graph=default("matformer").graph,
        trained_ranges={**RANGES, "volume_per_atom": (1, 9e5)},
    )
    assert flags(cube(20), folder) == "no_neighbors"
    assert flags(cube(5), folder) == ""


def test_of_several_models_all_flags_are_told(tmp_path: Path) -> None:
    one = write_model(tmp_path / "a", trained=["Na"], trained_ranges=RANGES)
    other = write_model(tmp_path / "b", 1, trained_ranges={**RANGES, "num_atoms": (3, 4)})
    assert flags(cube(5), one) == "untrained_element"
    assert flags(cube(5), other) == "outside_training_size"
    assert flags(cube(5), one, other) == "untrained_element;outside_training_size"


def test_what_a_model_does_not_record_is_unknown(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", trained=["Na", "Cl"], trained_ranges=RANGES)
    assert flags(cube(5), folder) == ""
    content = json.loads((folder / "model.json").read_text())
    del content["trained_ranges"]  # older models have none
    (folder / "model.json").write_text(json.dumps(content))
    assert flags(cube(5), folder) == "unknown_training"
    assert flags(cube(5, NEAR.replace("Cl", "Br")), folder) == "untrained_element;unknown_training"
    assert flags(cube(5), written(tmp_path, checkpoint())) == "unknown_training"


@pytest.mark.parametrize("ends", [[2.0, 1.0], [1.0], [-1.0, 2.0], [1.0, float("inf")], ["a", "b"], 5])
def test_ranges_that_are_none_are_refused(ends: Any, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", trained_ranges={**RANGES, "num_atoms": ends})
    with pytest.raises(ValueError, match=r"model.json and model.safetensors do not fit together"):
        open_model(folder)


def test_a_model_knows_the_ranges_of_its_training_crystals(tmp_path: Path) -> None:
    data = volumes(tmp_path, tiny(train_fraction=0.2))
    crystals = {c["material_id"]: c for c in read_table(tmp_path / "crystals.parquet").to_pylist()}
    train = [crystals[str(name)] for name in data.split.ids(TRAIN)]
    atoms = [len(c["atomic_numbers"]) for c in train]
    volume = [abs(np.linalg.det(np.reshape(c["lattice"], (3, 3)))) / len(c["atomic_numbers"]) for c in train]
    assert data.trained_ranges["num_atoms"] == (min(atoms), max(atoms))
    assert data.trained_ranges["volume_per_atom"] == pytest.approx((min(volume), max(volume)), rel=1e-12)
    everything = ranges_of(read_table(tmp_path / "crystals.parquet"))
    assert everything != data.trained_ranges, "crystals of other parts are not counted"


def test_ranges_of_two_trainings_are_joined_if_both_are_known() -> None:
    assert joined({"num_atoms": (2, 5)}, {"num_atoms": (3, 9)}) == {"num_atoms": (2, 9)}
    assert joined({"num_atoms": (2, 5)}, {}) == {}
