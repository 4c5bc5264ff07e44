"""Predictors initialized or distilled from a pretraining or a trained model, without Ray."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from crysatom.config import DownstreamConfig, PretrainConfig
from crysatom.models.files import load_model
from crysatom.models.finetuning import load_trained
from crysatom.names import DISTILLATION
from crysatom.pipelines import downstream, pretraining
from crysatom.studies.grid.finished import read_run
from crysatom.tracking.encoders import fetch_encoder
from crysatom.tracking.store import client
from crysatom.training.encoder_files import ENCODER, load_encoder, save_encoder
from tests.graph_crystals import batch_of, small, write_table
from tests.small_runs import one_thread  # noqa: F401

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], Path]) -> Path:
    place = tmp_path_factory.mktemp("encoders")
    new_store(place)
    write_table(place / "crystals.parquet", small(8, 40))
    return place


def settings(place: Path) -> dict[str, Any]:
    store = f"sqlite:///{place}/mlflow.db"
    return {"data": str(place / "crystals.parquet"), "out": str(place), "tracking_uri": store, "num_workers": 0}


def pretrain(place: Path, **changes: Any) -> pretraining.FinishedRun:
    shape = {"embedding_dim": 8, "num_layers": 2, "projection_dim": 4, "batch_size": 20, "epochs": 1}
    return pretraining.run(PretrainConfig.of(**{**settings(place), **shape, **changes}))


def config(place: Path, **changes: Any) -> DownstreamConfig:
    shape = {"vectors": "onehot", "width": 8, "num_layers": 2, "hidden_dim": 8, "batch_size": 20, "epochs": 2}
    return DownstreamConfig.of(**{**settings(place), **shape, **changes})


@pytest.fixture(scope="module", name="pretrained")
def _pretrained(place: Path) -> pretraining.FinishedRun:
    return pretrain(place)


@pytest.fixture(scope="module", name="plain")
def _plain(place: Path) -> downstream.FinishedRun:
    [finished] = downstream.run(config(place))
    return finished


def test_a_pretraining_leaves_its_encoder(place: Path, pretrained: pretraining.FinishedRun) -> None:
    here = load_encoder(pretrained.folder)
    assert (here.width, here.num_layers) == (8, 2)
    store = f"sqlite:///{place}/mlflow.db"
    for uri in (f"runs:/{pretrained.run_id}", "models:/crysatom-vectors/1"):
        assert fetch_encoder(uri, store).digest == here.digest
    artifacts = {item.path for item in client(store).list_artifacts(pretrained.run_id, ENCODER)}
    assert artifacts == {"encoder/encoder.json", "encoder/encoder.safetensors"}
    with pytest.raises(ValueError, match="runs:/nothing: not found in sqlite"):
        fetch_encoder("runs:/nothing", store)


def test_the_vectors_are_those_of_the_encoder(pretrained: pretraining.FinishedRun) -> None:
    """Mean over all sites of the saved encoder's output: its weights and statistics are the final ones."""
    encoder = load_encoder(pretrained.folder)
    batch, model = batch_of(small(8, 40), encoder.graph), encoder.build()
    atoms = model.unmasked(batch, model.basis(batch.distance))
    for z, vector in zip(pretrained.vectors.atomic_numbers, pretrained.vectors.vectors, strict=True):
        expected = atoms[batch.atomic_numbers == int(z)].mean(0)
        torch.testing.assert_close(torch.from_numpy(vector), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("predictor", ["cgcnn", "crysxpp"])
def test_predictors_start_from_it(
    place: Path,
    pretrained: pretraining.FinishedRun,
    plain: downstream.FinishedRun,
    predictor: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "crysatom")
    wanted = config(place, predictor=predictor, init_encoder=str(pretrained.folder))
    [started] = downstream.run(wanted)
    assert f"2 convolutions start from {pretrained.folder}" in caplog.text
    digest = load_encoder(pretrained.folder).digest
    assert started.folder.name.endswith(f"-init{digest[:8]}-seed0")
    assert started.metrics["test/mae"] != plain.metrics["test/mae"]
    run = client(f"sqlite:///{place}/mlflow.db").get_run(started.run_id)
    assert run.data.params["init_encoder"] == str(pretrained.folder)
    assert run.data.tags["init_encoder_digest"] == digest
    [again] = downstream.run(wanted.replace(init_encoder=f"runs:/{pretrained.run_id}"))
    assert again == dataclasses.replace(started, again=True), "the same encoder by another name"


def test_on_the_encoders_own_features_its_embedding_is_taken_too(
    place: Path, pretrained: pretraining.FinishedRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "crysatom")
    downstream.run(config(place, vectors="elements", vector_scale="none", init_encoder=str(pretrained.folder)))
    assert f"2 convolutions and the embedding start from {pretrained.folder}" in caplog.text


@pytest.mark.parametrize("width", [8, 6], ids=["as wide", "through a map"])
def test_predictors_are_distilled_by_it(place: Path, pretrained: pretraining.FinishedRun, width: int) -> None:
    [finished] = downstream.run(config(place, width=width, distill=str(pretrained.folder)))
    run = client(f"sqlite:///{place}/mlflow.db").get_run(finished.run_id)
    assert run.data.params["distill_weight"] == "0.5"
    assert run.data.metrics[f"train/{DISTILLATION}"] > 0
    assert run.data.tags["distill_digest"] == load_encoder(pretrained.folder).digest
    model, info = load_model(finished.folder / "model")
    assert not any("distillation" in name for name in model.state_dict())
    assert info.training["config"]["distill"] == str(pretrained.folder)


def test_another_encoder_is_another_run(place: Path, pretrained: pretraining.FinishedRun) -> None:
    other = pretrain(place, seed=1)
    first, second = (
        downstream.run(config(place, init_encoder=str(run.folder), distill=str(run.folder)))[0]
        for run in (pretrained, other)
    )
    assert first.folder != second.folder
    named = config(place, name="mine", init_encoder=str(pretrained.folder))
    downstream.run(named)
    with pytest.raises(ValueError, match="holds a run on other data"):
        downstream.run(named.replace(init_encoder=str(other.folder)))


@pytest.mark.parametrize("objective", ["masking", "context", "masking_context"])
def test_encoders_of_other_objectives(place: Path, objective: str) -> None:
    rival = pretrain(place, objective=objective)
    terms = {f"train/{term}" for term in objective.split("_")}
    assert {name for name in rival.history if name.startswith("train/")} == {"train/loss", *terms}
    assert "train losses, first -> last epoch: loss " in pretraining.describe(rival)
    assert rival.vectors.dim == 8
    [finished] = downstream.run(
        config(place, vectors=str(rival.folder / "vectors"), init_encoder=str(rival.folder), distill=str(rival.folder))
    )
    assert finished.metrics["test/mae"] > 0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "shape": (
        {"width": 16, "num_layers": 3},
        r"has 2 convolutions of width 8, the predictor 3 of width 16; give --width 8 --num-layers 2",
    ),
    "graphs": ({"ties": "truncate"}, r"was trained on other graphs .*\(ties complete there, truncate here\)"),
    "Gaussians": ({"basis_step": 0.5}, "use the cutoff and basis_step of the pretraining"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused_at_once(
    place: Path, tmp_path: Path, pretrained: pretraining.FinishedRun, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        downstream.run(config(place, out=str(tmp_path), init_encoder=str(pretrained.folder), **changes))
    assert not list(tmp_path.iterdir())


def test_a_folder_without_an_encoder_is_refused(place: Path, plain: downstream.FinishedRun) -> None:
    with pytest.raises(ValueError, match="holds no pretrained encoder"):
        downstream.run(config(place, distill=str(plain.folder)))


def test_a_teacher_that_does_not_know_an_element_is_refused(
    place: Path, tmp_path: Path, pretrained: pretraining.FinishedRun
) -> None:
    whole = load_encoder(pretrained.folder)
    known = whole.atomic_numbers != 8
    ignorant = dataclasses.replace(whole, features=whole.features[known], atomic_numbers=whole.atomic_numbers[known])
    save_encoder(tmp_path / "encoder", ignorant, {})
    with pytest.raises(ValueError, match="has no features of O, which training crystals hold"):
        downstream.run(config(place, distill=str(tmp_path / "encoder")))


def test_a_trained_model_is_trained_further(place: Path, plain: downstream.FinishedRun) -> None:
    wanted = config(place, init_model=str(plain.folder), lr=1e-4)
    [further] = downstream.run(wanted)
    digest = load_trained(plain.folder).digest
    assert further.folder.name.endswith(f"-model{digest[:8]}-seed0")
    assert client(f"sqlite:///{place}/mlflow.db").get_run(further.run_id).data.tags["init_model_digest"] == digest
    first = pd.read_csv(further.folder / "history.csv")["train/mae"][0]
    assert first < pd.read_csv(plain.folder / "history.csv")["train/mae"][0]
    before, after = (load_model(run.folder / "model") for run in (plain, further))
    assert before[1].normalizer == after[1].normalizer
    assert before[1].trained_ranges == after[1].trained_ranges != {}
    for name, there in before[0].state_dict().items():
        here = after[0].state_dict()[name]
        if "table" in name or name in ("mean", "std", "reference"):
            assert torch.equal(here, there), name
        elif there.is_floating_point() and "running" not in name:
            assert (here - there).abs().max() < 0.01, name
    last = "predictor.fc_out.weight"
    assert not torch.equal(before[0].state_dict()[last], after[0].state_dict()[last])
    [again] = downstream.run(wanted.replace(init_model=f"runs:/{plain.run_id}"))
    assert again == dataclasses.replace(further, again=True), "the same model by another name"
    judged = read_run(further.folder)
    assert judged is not None
    assert judged.identity.init == digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 6}, r"the model differs from this configuration \(width 8 there, 6 here\)"),
        ({"ties": "truncate"}, r"\(ties complete there, truncate here\)"),
        ({"vectors": "random:0"}, "was trained on other vectors than random:0"),
        ({"property": "density"}, r"predicts volume_per_atom in angstrom\^3/atom, and density is in g/cm\^3"),
        ({"init_model": "nowhere"}, "nowhere holds no model"),
        ({"vector_spectrum": -1.0}, "reads vectors with a spectrum of power 0, not -1.0; leave out --vector-spectrum"),
    ],
    ids=["shape", "graphs", "vectors", "unit", "absent", "spectrum"],
)
def test_a_model_that_does_not_fit_is_no_start(
    place: Path, plain: downstream.FinishedRun, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        downstream.run(config(place, **{"init_model": str(plain.folder), **changes}))


def test_crystals_that_a_model_knows_are_no_test(
    place: Path, plain: downstream.FinishedRun, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"was trained on or selected by \d+ crystals that are test crystals here"):
        downstream.run(config(place, init_model=str(plain.folder), split_seed=1))
    caplog.clear()
    downstream.run(config(place, init_model=str(plain.folder), lr=1e-5))
    assert "cannot be updated" not in caplog.text
    [further] = downstream.run(config(place, init_model=str(plain.folder), lr=2e-5))
    downstream.run(config(place, init_model=str(further.folder), lr=1e-5))
    assert "does not show what the model was trained on" in caplog.text, "a model that started from another"
