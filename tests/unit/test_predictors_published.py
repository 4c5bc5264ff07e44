"""Reader of CGCNN's checkpoints: files in the published format, written here, and other files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crysatom.predictors.base import PredictorSpec
from crysatom.predictors.cgcnn import CGCNN
from crysatom.predictors.published_cgcnn import GRAPH, read_published
from crysatom.predictors.registry import build_predictor
from crysatom.vectors.given import given_vectors
from crysatom.vectors.published import cgcnn_bits
from tests.graph_crystals import batch_of, small

PUBLISHED = {
    "band-gap": 0.368969,
    "bulk-moduli": 0.055281,
    "efermi": 0.355139,
    "final-energy-per-atom": 0.079288,
    "formation-energy-per-atom": 0.039720,
    "poisson-ratio": 0.029309,
    "semi-metal-classification": None,
    "shear-moduli": 0.090753,
}
"""Best validation errors of the eight published files; that of the classifier is not a plain number."""


def weights_of(spec: PredictorSpec) -> dict[str, Tensor]:
    model = build_predictor(spec, cgcnn_bits())
    for buffer in model.buffers():
        if buffer.is_floating_point() and buffer.dim() == 1:  # the statistics of batch norms
            buffer.copy_(torch.rand(len(buffer)) + 0.5)
    return {k: v for k, v in model.state_dict().items() if not k.startswith("table.")}


def checkpoint(spec: PredictorSpec | None = None, **changes: Any) -> dict[str, Any]:
    """Return a checkpoint as the published code saves it."""
    spec = spec or PredictorSpec(width=8, num_layers=2, hidden_dim=6)
    regression = spec.outputs == 1
    return {
        "epoch": 7,
        "state_dict": weights_of(spec),
        "best_mae_error": 0.25,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "momentum": 0.9}]},
        "normalizer": {"mean": torch.tensor(-1.5), "std": torch.tensor(2.0)},
        "args": {
            "task": "regression" if regression else "classification",
            "data_options": ["data.json", "regression", "energy"],
        },
        **changes,
    }


def written(folder: Path, content: Any, *, old_form: bool = True) -> Path:
    """Save in the format of the old torch versions of the published files, or in today's."""
    path = folder / "model.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not old_form)
    return path


@pytest.mark.parametrize("old_form", [True, False], ids=["old form", "zip"])
@pytest.mark.parametrize("num_hidden", [1, 3])
def test_what_was_saved_is_what_predicts(num_hidden: int, old_form: bool, tmp_path: Path) -> None:
    spec = PredictorSpec(width=8, num_layers=2, hidden_dim=6, num_hidden=num_hidden)
    content = checkpoint(spec)
    found = read_published(written(tmp_path, content, old_form=old_form))
    assert found.spec == spec
    assert (found.mean, found.std, found.task, found.target) == (-1.5, 2.0, "regression", "energy")
    assert (found.epoch, found.best, found.num_features) == (7, 0.25, 92)
    model = CGCNN(spec, cgcnn_bits())
    model.load_state_dict(model.state_dict() | content["state_dict"])
    batch = batch_of(small(8, 6), GRAPH)
    with torch.no_grad():
        predicted = found.values(found.build(cgcnn_bits())(batch))
        expected = model.eval()(batch) * 2.0 - 1.5
    assert predicted.equal(expected)
    assert len(predicted.unique()) == 6


def test_a_classifier_gives_the_probability_of_the_second_class(tmp_path: Path) -> None:
    spec = PredictorSpec(width=8, num_layers=2, hidden_dim=6, outputs=2)
    # the classifier's best error is a NumPy scalar in the published file, which needs names beyond torch's own
    content = checkpoint(spec, best_mae_error=np.float64(0.9), normalizer={"mean": 0.0, "std": 1.0})
    found = read_published(written(tmp_path, content))
    assert (found.spec, found.task, found.best) == (spec, "classification", None)
    outputs = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    torch.testing.assert_close(found.values(outputs), torch.tensor([0.75, 0.1]))
    probabilities = found.build(cgcnn_bits())(batch_of(small(8, 6), GRAPH)).exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))


def test_files_of_crysxpp_have_a_feature_selector(tmp_path: Path) -> None:
    content = checkpoint(PredictorSpec(predictor="crysxpp", width=8, num_layers=2, hidden_dim=6))
    mask = torch.rand(92)
    content["state_dict"] |= {"mask": mask, "convs.0.bn1.num_batches_tracked": torch.tensor(3)}
    found = read_published(written(tmp_path, content))
    assert found.spec.predictor == "crysxpp"
    assert found.build(cgcnn_bits()).mask.equal(mask)


def test_other_features_than_those_it_was_trained_with_are_refused(tmp_path: Path) -> None:
    found = read_published(written(tmp_path, checkpoint()))
    with pytest.raises(ValueError, match="reads 92 features per element, these vectors have 118"):
        found.build(given_vectors("onehot"))


class Hostile:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("old_form", [True, False], ids=["old form", "zip"])
@pytest.mark.parametrize("entry", ["best_mae_error", "state_dict", "args"])
def test_code_in_a_file_is_not_run(entry: str, old_form: bool, tmp_path: Path) -> None:
    trap = tmp_path / "run"
    path = written(tmp_path, checkpoint(**{entry: Hostile(trap)}), old_form=old_form)
    with pytest.raises(
        ValueError, match=r"model.pth.tar cannot be read as weights, and nothing in it was run: .*mkdir"
    ):
        read_published(path)
    assert not trap.exists()
    function, arguments = Hostile(trap).__reduce__()  # the call that the file requests
    function(*arguments)
    assert trap.exists(), "the trap works"


def test_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "run", tmp_path / "model.pth.tar"
    path.write_bytes(pickle.dumps(Hostile(trap)))
    with pytest.raises(ValueError, match="nothing in it was run"):
        read_published(path)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["scalar", "dtype", "encode"])
def test_the_names_let_in_call_nothing(name: str, tmp_path: Path) -> None:
    """The reader has only inert placeholders for the three names: a value made by them is not a number."""
    made = {"scalar": np.float64(1.5), "dtype": np.dtype("f8"), "encode": np.float64(2.5)}[name]
    found = read_published(written(tmp_path, checkpoint(best_mae_error=made)))
    assert found.best is None
    with pytest.raises(ValueError, match="not a checkpoint of CGCNN's code"):
        read_published(written(tmp_path, checkpoint(normalizer={"mean": made, "std": 1.0})))


def without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in content.items() if k != key}


def with_weights(**weights: Any) -> dict[str, Any]:
    content = checkpoint()
    return {**content, "state_dict": {**content["state_dict"], **{k.replace("__", "."): v for k, v in weights.items()}}}


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (lambda: [1, 2], "it holds a list"),
    "weights alone": (lambda: checkpoint()["state_dict"], "it has no entry 'state_dict'"),
    "no normalizer": (lambda: without(checkpoint(), "normalizer"), "it has no entry 'normalizer'"),
    "no arguments": (lambda: without(checkpoint(), "args"), "it has no entry 'args'"),
    "a spread of zero": (lambda: checkpoint(normalizer={"mean": 0.0, "std": 0.0}), "standard deviation 0.0"),
    "a mean that is no number": (lambda: checkpoint(normalizer={"mean": float("nan"), "std": 1.0}), "by mean nan"),
    "another task": (lambda: checkpoint(args={"task": "ranking"}), "its task is 'ranking'"),
    "a classifier with one output": (lambda: checkpoint(args={"task": "classification"}), "it has 1 outputs"),
    "NaN": (lambda: with_weights(fc_out__bias=torch.tensor([float("nan")])), "fc_out.bias is not a tensor of finite"),
    "no tensor": (lambda: with_weights(fc_out__bias=3.0), "fc_out.bias is not a tensor of finite"),
    "unknown weights": (lambda: with_weights(attention=torch.ones(3)), "attention"),
    "other Gaussians": (
        lambda: with_weights(convs__0__fc_full__weight=torch.ones(16, 40)),
        "size mismatch for convs.0",
    ),
    "no convolutions": (
        lambda: checkpoint(state_dict={k: v for k, v in checkpoint()["state_dict"].items() if "convs" not in k}),
        "num_layers of the predictor must be at least 1",
    ),
    "a vector for a matrix": (lambda: with_weights(embedding__weight=torch.ones(8)), "not enough values to unpack"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_files_that_are_something_else(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, make())
    with pytest.raises(ValueError, match=r"model.pth.tar is not a checkpoint of CGCNN's code: (?s:.*)") as caught:
        read_published(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("target", "unit"), [("bulk_moduli", "log10(GPa)"), ("final_energy_per_atom", "eV/atom"), ("energy", "")]
)
def test_the_unit_is_known_of_the_targets_that_only_published_files_name(
    target: str, unit: str, tmp_path: Path
) -> None:
    arguments = {"task": "regression", "data_options": ["data.json", "regression", target]}
    assert read_published(written(tmp_path, checkpoint(args=arguments))).unit == unit


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 half a zip"], ids=["empty", "text", "zip"])
def test_files_that_torch_cannot_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.pth.tar cannot be read as weights"):
        read_published(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = written(tmp_path, checkpoint())
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"model.pth.tar cannot be read as weights"):
        read_published(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent.pth.tar is not a file"):
        read_published(tmp_path / "absent.pth.tar")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files(name: str, test_data: Path) -> None:
    path = test_data / "cgcnn_pre_trained" / f"{name}.pth.tar"
    if not path.is_file():
        pytest.skip(f"needs {path}: a copy of pre-trained/ of github.com/txie-93/cgcnn")
    found = read_published(path)
    assert (found.spec.width, found.spec.num_layers, found.spec.hidden_dim) == (64, 4, 32)
    best = PUBLISHED[name]
    assert bool(found.unit) == (name != "poisson-ratio"), "only a pure number has none"
    assert found.best == (None if best is None else pytest.approx(best, abs=1e-6))
    with torch.no_grad():
        values = found.values(found.build(cgcnn_bits())(batch_of(small(8, 6), GRAPH)))
    assert torch.isfinite(values).all()
    if found.task == "classification":
        assert ((values >= 0) & (values <= 1)).all()
