"""A saved model predicts the same numbers after reading, and a damaged one is rejected."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crysatom.models.files import MODEL_JSON, MODEL_SAFETENSORS, ModelInfo, load_model, save_model
from crysatom.names import TEST
from crysatom.training.context import PlainContext
from crysatom.training.regression import build_regression, labeled_data, predictions, spec_of, train_predictor
from tests.small_regressions import tiny, volumes
from tests.small_runs import CPU, one_thread  # noqa: F401


def info_of(config: Any, data: Any) -> ModelInfo:
    return ModelInfo(
        property="volume_per_atom",
        unit="angstrom^3/atom",
        spec=spec_of(config),
        graph=config.graph,
        normalizer=data.task.normalizer,
        elements=data.task.vectors.symbols,
        trained_elements=("O", "Fe"),
        trained_ranges=data.trained_ranges,
        vectors=data.task.vectors.provenance,
        training={"seed": 0},
        versions={"torch": torch.__version__},
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"train_vectors": True, "composition_reference": True, "vectors": "random:0:5", "num_hidden": 2}],
    ids=["default", "all options"],
)
def test_a_model_that_is_read_back_predicts_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    config = tiny(epochs=2, **options)
    data = volumes(tmp_path, config)
    outcome = train_predictor(config, data.task, PlainContext(tmp_path / "run"))
    written = info_of(config, data)
    save_model(tmp_path / "model", outcome.state, written)
    torch.manual_seed(99)
    model, info = load_model(tmp_path / "model")
    assert info == written
    crystals, predicted = predictions(model, labeled_data(config, data.task, CPU)[TEST])
    assert crystals.tolist() == data.split.test.tolist()
    assert predicted.tolist() == outcome.predictions[TEST].tolist()
    assert {p.name for p in (tmp_path / "model").iterdir()} == {MODEL_JSON, MODEL_SAFETENSORS}
    assert (tmp_path / "model" / MODEL_SAFETENSORS).read_bytes()[:2] != b"PK", "a zip, as torch.save writes"


@pytest.fixture(name="saved")
def _saved(tmp_path: Path) -> Path:
    config = tiny()
    data = volumes(tmp_path, config)
    model = build_regression(config, data.task)
    save_model(tmp_path / "model", model.state_dict(), info_of(config, data))
    return tmp_path / "model"


def change(saved: Path, **changes: Any) -> None:
    content = json.loads((saved / MODEL_JSON).read_text())
    (saved / MODEL_JSON).write_text(json.dumps({**content, **changes}))


def test_what_is_no_model_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"elsewhere holds no model: model\.json and model\.safetensors must be there"):
        load_model(tmp_path / "elsewhere")
    (saved / MODEL_SAFETENSORS).write_bytes((saved / MODEL_SAFETENSORS).read_bytes()[:-10])
    with pytest.raises(ValueError, match="holds a damaged model"):
        load_model(saved)


def test_what_a_file_holds_makes_no_long_message(saved: Path) -> None:
    header = json.dumps("x" * 100_000).encode()
    (saved / MODEL_SAFETENSORS).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="holds a damaged model") as caught:
        load_model(saved)
    assert len(str(caught.value)) < 1000


def test_another_format_is_refused(saved: Path) -> None:
    change(saved, format_version=2)
    with pytest.raises(ValueError, match="a model of format 2, this code reads 1; use the version of crysatom"):
        load_model(saved)


@pytest.mark.parametrize("changes", [{"spec": {"width": 9}}, {"elements": ["H"]}, {"graph": {"reach": 8}}])
def test_weights_that_do_not_fit_are_refused(saved: Path, changes: dict[str, Any]) -> None:
    change(saved, **changes)
    with pytest.raises(ValueError, match="do not fit together"):
        load_model(saved)


def test_the_file_says_what_a_reader_needs(saved: Path) -> None:
    content = json.loads((saved / MODEL_JSON).read_text())
    assert {f.name for f in dataclasses.fields(ModelInfo)} | {"format_version"} == set(content)
    assert content["graph"]["num_neighbors"] == 12
    assert content["vectors"]["vectors"] == "onehot"
