"""Predictions of saved models for new crystals, batch by batch."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from crysatom.config import GraphSpec, Limits
from crysatom.config.downstream import default
from crysatom.crystals.record import Record, to_batch
from crysatom.crystals.sources import read_source
from crysatom.models import inference
from crysatom.models.files import load_model
from crysatom.models.inference import Ensemble, open_model
from crysatom.names import EMBEDDED_SOURCE, SYMBOLS
from crysatom.predictors.published_cgcnn import GRAPH, read_published
from crysatom.predictors.registry import PREDICTORS
from crysatom.training.machine import flushes_denormals
from crysatom.vectors.published import cgcnn_bits
from tests.graph_crystals import batch_of, prototypes
from tests.saved_models import ALL, write_model
from tests.unit.broken_inputs import cif
from tests.unit.test_predictors_published import checkpoint, written

LIMITS = Limits()


def records(count: int = 40) -> pa.Table:
    return to_batch(list(read_source(EMBEDDED_SOURCE))[:count])


def ensemble(*folders: Path) -> Ensemble:
    return Ensemble(tuple(open_model(folder) for folder in folders), LIMITS)


def predictions(outcome: pa.Table) -> np.ndarray:
    return np.array(outcome["prediction"].to_pylist())


def raw(text: str) -> pa.Table:
    return to_batch([Record(material_id="a", source="a.cif", format="cif", content=text.encode())])


def test_a_crystal_is_predicted_as_the_model_itself_does(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    outcome = ensemble(folder).predict_records(records())
    assert outcome.schema == inference.PREDICTED_SCHEMA
    assert outcome["material_id"].to_pylist() == [crystal.material_id for crystal in prototypes()[:40]]
    model, info = load_model(folder)
    with torch.no_grad():
        expected = model.predict(batch_of(prototypes()[:40], info.graph))
    np.testing.assert_allclose(predictions(outcome)[:, 0], expected, rtol=1e-6)
    assert len(np.unique(expected)) > 30, "the crystals differ"


def test_a_prediction_depends_on_no_other_crystal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums have another order: differences are float32 rounding only."""
    models = ensemble(write_model(tmp_path / "model"))
    together = predictions(models.predict_records(records()))
    alone = np.concatenate([predictions(models.predict_records(records().slice(k, 1))) for k in range(40)])
    np.testing.assert_allclose(alone, together, rtol=1e-5)
    monkeypatch.setattr(inference, "EDGES_PER_BATCH", 50)
    np.testing.assert_allclose(predictions(models.predict_records(records())), together, rtol=1e-5)
    again = predictions(models.predict_records(records()))
    np.testing.assert_array_equal(predictions(models.predict_records(records())), again)


def test_a_thread_flushes_denormals_while_it_predicts(tmp_path: Path) -> None:
    """The threads of Ray's actors exist before the models."""
    flushed = []
    with ThreadPoolExecutor() as pool:
        assert not pool.submit(flushes_denormals).result()
        models = ensemble(write_model(tmp_path / "model"))
        predictor = models.models[0].module.predictor
        predictor.register_forward_hook(lambda *_: flushed.append(flushes_denormals()))
        pool.submit(models.predict_records, records(4)).result()
        assert flushed == [True]
        assert not pool.submit(flushes_denormals).result()


def test_a_model_predicts_in_the_precision_of_its_training(tmp_path: Path) -> None:
    exact = ensemble(write_model(tmp_path / "exact"))
    rounded = ensemble(write_model(tmp_path / "rounded", training={"config": {"precision": "bf16"}}))
    odd = ensemble(write_model(tmp_path / "odd", training={"config": "x"}))
    expected, found = (predictions(models.predict_records(records())) for models in (exact, rounded))
    assert 0 < np.abs(found - expected).max() < 0.05 * expected.std()
    np.testing.assert_array_equal(predictions(odd.predict_records(records())), expected)
    back = Ensemble((dataclasses.replace(rounded.models[0], precision="float32"),), LIMITS)
    np.testing.assert_array_equal(predictions(back.predict_records(records())), expected)


@pytest.mark.parametrize("predictor", sorted(PREDICTORS.keys() - {"cgcnn", "crysxpp"}))
def test_every_predictor_predicts_crystals_on_its_own_graphs(
    predictor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", predictor=predictor, graph=default(predictor).graph)
    together = predictions(ensemble(folder).predict_records(records(12)))
    assert len(np.unique(together)) > 6, "the crystals differ"
    monkeypatch.setattr(inference, "EDGES_PER_BATCH", 50)
    np.testing.assert_allclose(predictions(ensemble(folder).predict_records(records(12))), together, rtol=1e-5)


def test_models_of_other_graphs_get_their_own(tmp_path: Path) -> None:
    near = GraphSpec(num_neighbors=4, cutoff=5.0)
    folders = [write_model(tmp_path / "a"), write_model(tmp_path / "b", graph=near), write_model(tmp_path / "c", 1)]
    together = predictions(ensemble(*folders).predict_records(records()))
    assert together.shape == (40, 3)
    for k, folder in enumerate(folders):
        np.testing.assert_array_equal(predictions(ensemble(folder).predict_records(records()))[:, 0], together[:, k])
    assert not np.isclose(together[:, 0], together[:, 1]).all(), "equal weights, other graphs"


def test_models_of_other_properties_or_units_are_no_ensemble(tmp_path: Path) -> None:
    first, other = write_model(tmp_path / "a"), write_model(tmp_path / "b", property="ehull", unit="eV/atom")
    with pytest.raises(ValueError, match=r"must predict one property in one unit, and these predict: \S*a bulk_mod"):
        ensemble(first, other)
    with pytest.raises(ValueError, match=r"a bulk_modulus_kv \(GPa\), \S*c bulk_modulus_kv \(unit not known\); run"):
        ensemble(first, write_model(tmp_path / "c", unit=""))


def test_a_checkpoint_of_other_features_is_named(tmp_path: Path) -> None:
    content = checkpoint()
    content["state_dict"]["embedding.weight"] = torch.rand(8, 90)
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=r"model.pth.tar reads 90 features per element; only .*92, can") as caught:
        open_model(path)
    assert "onehot92" not in str(caught.value)


@pytest.mark.parametrize("field", ["elements", "trained_elements"])
def test_elements_that_do_not_exist_are_named(field: str, tmp_path: Path) -> None:
    file = write_model(tmp_path / "m") / "model.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, field: ["Na", "Xx"]}))
    with pytest.raises(ValueError, match=r"m: model.json and .* do not fit together \(no element is called 'Xx'\)"):
        open_model(tmp_path / "m")


def test_a_model_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    """Models are compared by weights: a run and its registered version have different names."""
    first, copy, other = write_model(tmp_path / "a"), write_model(tmp_path / "b"), write_model(tmp_path / "c", 1)
    assert len(ensemble(first, other).models) == 2
    with pytest.raises(ValueError, match=r"\S+/a and \S+/b are the same model, .*; give each model once"):
        ensemble(first, other, copy)


@pytest.mark.parametrize("options", [["root_dir"], ["root_dir", "more", "energy"], []], ids=["plain", "other", "none"])
def test_a_checkpoint_that_does_not_say_what_it_predicts_is_no_part_of_an_ensemble(
    options: list[str], tmp_path: Path
) -> None:
    """CGCNN's main.py gives every best model the same name: a gap and a density would be averaged."""
    files = []
    for kind in ("gap", "density"):
        (tmp_path / kind).mkdir()
        path = written(tmp_path / kind, checkpoint(args={"task": "regression", "data_options": options}))
        files.append(path.rename(path.with_name("model_best.pth.tar")))
    assert [(open_model(file).property, open_model(file).unit) for file in files] == [("model_best", "")] * 2
    assert len(ensemble(files[0]).models) == 1
    with pytest.raises(ValueError, match=r"do not name theirs: \S+gap/model_best.pth.tar, \S+density/model_be"):
        ensemble(*files)


def test_elements_without_vector_are_rejected_and_those_training_never_saw_are_named(tmp_path: Path) -> None:
    known = [symbol for symbol in ALL if symbol not in {"Na", "Fe"}]
    trained = [symbol for symbol in known if symbol not in {"Cl", "O"}]
    outcome = ensemble(write_model(tmp_path / "m", elements=known, trained=trained)).predict_records(records(200))
    kinds = [{SYMBOLS[z - 1] for z in crystal.atomic_numbers} for crystal in prototypes()[:200]]
    assert sum(bool(kind & {"Na", "Fe"}) for kind in kinds) > 5
    for kind, row in zip(kinds, outcome.to_pylist(), strict=True):
        missing = [symbol for symbol in ("Na", "Fe") if symbol in kind]
        if missing:
            assert (row["reason"], row["prediction"]) == ("no_vector", None)
            assert f"has no vector for {' '.join(missing)}; leave the crystal out" in row["detail"]
        else:
            assert (row["reason"], row["detail"]) == (None, None)
            assert row["untrained_elements"] == " ".join(symbol for symbol in ("O", "Cl") if symbol in kind)


def test_of_an_ensemble_each_model_must_have_the_vectors(tmp_path: Path) -> None:
    lacks = [symbol for symbol in ALL if symbol != "Cl"]
    models = ensemble(write_model(tmp_path / "a", trained=["Na"]), write_model(tmp_path / "b", elements=lacks))
    [row] = models.predict_records(raw(cif())).to_pylist()
    assert row["reason"] == "no_vector"
    assert row["detail"].startswith(f"a.cif: {tmp_path / 'b'} has no vector for Cl")
    [row] = Ensemble(models.models[:1], LIMITS).predict_records(raw(cif())).to_pylist()
    assert row["untrained_elements"] == "Cl"


def test_what_is_not_accepted_keeps_its_reason(tmp_path: Path) -> None:
    models = ensemble(write_model(tmp_path / "m"))
    [row] = models.predict_records(raw("nothing")).to_pylist()
    assert (row["material_id"], row["reason"], row["prediction"]) == ("a", "unreadable", None)
    assert len(models.predict_records(records(0))) == 0


def test_a_prediction_that_is_no_number_is_rejected(tmp_path: Path) -> None:
    models = ensemble(write_model(tmp_path / "m"))
    with torch.no_grad():
        models.models[0].module.predictor.fc_out.bias.fill_(float("inf"))
    [row] = models.predict_records(raw(cif())).to_pylist()
    assert (row["reason"], row["prediction"]) == ("not_finite", None)
    assert "m predicts inf; check the crystal, then the weights" in row["detail"]


def test_the_model_of_a_run_is_found_in_its_folder(tmp_path: Path) -> None:
    write_model(tmp_path / "run" / "model")
    model = open_model(tmp_path / "run", "mine")
    assert (model.name, model.property, model.unit) == ("mine", "bulk_modulus_kv", "GPa")
    with pytest.raises(ValueError, match="holds no model"):
        open_model(tmp_path)


def test_a_published_checkpoint_predicts_on_its_own_graphs(tmp_path: Path) -> None:
    path = written(tmp_path, checkpoint())
    model = open_model(path)
    assert (model.property, model.unit, model.trained, model.graph) == ("energy", "", None, GRAPH)
    outcome = Ensemble((model,), LIMITS).predict_records(records())
    published = read_published(path)
    with torch.no_grad():
        expected = published.values(published.build(cgcnn_bits())(batch_of(prototypes()[:40], GRAPH)))
    np.testing.assert_allclose(predictions(outcome)[:, 0], expected, rtol=1e-5)
    assert set(outcome["untrained_elements"].to_pylist()) == {""}
    heavy = raw(cif("Es Es1 0 0 0 1\nLr Lr1 0.5 0.5 0.5 1\n"))
    [row] = Ensemble((model,), LIMITS).predict_records(heavy).to_pylist()
    assert "has no vector for Lr;" in row["detail"]
    assert (row["reason"], row["prediction"], row["untrained_elements"]) == ("no_vector", None, None)
