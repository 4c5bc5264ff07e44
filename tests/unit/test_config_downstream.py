"""Configuration of property prediction: rejected values, coverage of the digest, flags, recipes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from crysatom.config import DownstreamConfig, GraphSpec, Role, default_settings, digest, parse
from crysatom.config.downstream import default, paper
from crysatom.config.flags import flags_of
from crysatom.training.regression import spec_of
from tests.conftest import REPOSITORY
from tests.settings_of import types_of

FIELDS = default_settings(DownstreamConfig)
HINTS = types_of(DownstreamConfig)
OTHERS: dict[str, Any] = {
    "split": "composition",
    "seeds": (3, 4),
    "milestones": (5, 7),
    "predictor_options": {"l1": 0.5},
    "train_fraction": 0.5,
}


def other_value(name: str) -> Any:
    """Return a valid value of the field that is not its default."""
    if name in OTHERS:
        return OTHERS[name]
    was = FIELDS[name]
    if get_origin(HINTS[name]) is Literal:
        return next(v for v in get_args(HINTS[name]) if v != was)
    if isinstance(was, bool):
        return not was
    if isinstance(was, int):
        return was + (5 if name == "max_workers" else 1)  # no fewer than num_workers
    return was / 2 + 0.01 if isinstance(was, float) else f"{was}x"


def flags(name: str) -> list[str]:
    value, flag = other_value(name), "--" + name.replace("_", "-")
    if isinstance(value, dict):
        return [flag, *(str(part) for item in value.items() for part in item)]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [flag] if value is True else [flag, str(value)]


REFUSED: dict[str, list[Any]] = {
    "width": [0],
    "epochs": [0],
    "batch_size": [0],
    "lr": [0.0],
    "basis_step": [0.0],
    "weight_decay": [-1.0],
    "patience": [-1],
    "ema_decay": [1.0],
    "precision": ["fp8"],
    "train_fraction": [0.0, 1.5],
    "seeds": [(), (1, 1), (-1,)],
    "split": ["published", "held_out_elements:", "held_out_elements:8"],
    "num_workers": [-1],
    "max_atoms": [0],
    "vector_spectrum": [-11.0, 3.0, float("nan"), "steep"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in REFUSED.items() for v in values])
def test_refusals_name_the_field_and_the_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*{re.escape(str(value))}"):
        DownstreamConfig.of(**{name: value})


def test_refusals_of_combinations_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="batch_size 4 is smaller than num_workers 5"):
        DownstreamConfig.of(batch_size=4, num_workers=5)
    with pytest.raises(ValueError, match="set it to 0 with selection 'last'"):
        DownstreamConfig.of(patience=3, selection="last")


@pytest.mark.parametrize("name", FIELDS)
def test_the_digest_covers_what_a_run_computes_and_nothing_else(name: str) -> None:
    changed = default().replace(**{name: other_value(name)})
    assert (digest(changed) == digest(default())) == (name not in DownstreamConfig.names(Role.RESULT))


def test_every_field_has_a_flag() -> None:
    # patience does not go with 'last', a predictor has one start, and padded lists lead nowhere
    names = [name for name in FIELDS if name not in {"recipe", "selection", "init_model", "pad_short_lists"}]
    argv = [flag for name in names for flag in flags(name)]
    assert parse(DownstreamConfig, argv) == DownstreamConfig.of(**{name: other_value(name) for name in names})
    assert parse(DownstreamConfig, flags("selection")).optimization.selected_by == ""
    assert parse(DownstreamConfig, flags("init_model")).start.init_model == other_value("init_model")


def test_a_configuration_is_given_by_the_flags_that_it_tells() -> None:
    names = [name for name in FIELDS if name not in {"selection", "init_model", "pad_short_lists"}]
    config = DownstreamConfig.of(**{name: other_value(name) for name in names})
    assert parse(DownstreamConfig, shlex.split(" ".join(flags_of(config)))) == config
    assert flags_of(DownstreamConfig.of()) == []


@pytest.mark.parametrize("recipe", [default, paper])
def test_a_recipe_sets_the_defaults_and_flags_override_them(recipe: Any) -> None:
    assert recipe().recipe == recipe.__name__
    argv = ["--epochs", "3", f"--recipe={recipe.__name__}", "--property", "mbj_bandgap"]
    assert parse(DownstreamConfig, argv) == recipe().replace(epochs=3, property="mbj_bandgap")


def test_the_published_settings() -> None:
    """CrysAtom, arXiv 2409.04737, section 4, and the released code."""
    config = paper()
    steps, sizes = config.optimization, config.architecture
    assert (steps.epochs, steps.batch_size, steps.lr, steps.optimizer) == (1000, 64, 0.01, "adam")
    assert (steps.schedule, steps.milestones, steps.criterion, steps.weight_decay) == ("step", (100,), "mse", 0)
    assert config.graph == GraphSpec(ties="truncate", pad_short_lists=True)
    assert (sizes.width, sizes.num_layers, sizes.hidden_dim, sizes.num_hidden) == (64, 3, 128, 1)
    assert steps.selected_by == "val/mae", "not by the test set, unlike there"


def test_the_predictor_is_described_by_the_configuration() -> None:
    spec = spec_of(DownstreamConfig.of(width=5, cutoff=6.0, basis_step=0.5, train_vectors=True))
    assert (spec.width, spec.cutoff, spec.basis_step, spec.train_vectors) == (5, 6.0, 0.5, True)


def test_a_spectrum_is_a_number_or_auto() -> None:
    assert parse(DownstreamConfig, ["--vector-spectrum", "-2"]).vectors.vector_spectrum == -2
    assert parse(DownstreamConfig, ["--vector-spectrum", "auto"]).vectors.vector_spectrum == "auto"
    auto = DownstreamConfig.of(vector_spectrum="auto")
    assert flags_of(auto) == ["--vector-spectrum=auto"]
    assert digest(auto) != digest(DownstreamConfig.of())


def test_elements_to_hold_out() -> None:
    assert DownstreamConfig.of(split="held_out_elements:Fe,Co").split.held_out == ["Fe", "Co"]


def test_the_job_is_short() -> None:
    assert len(Path(REPOSITORY / "jobs" / "downstream.py").read_text().splitlines()) <= 40


def test_the_registered_model_is_called_after_what_is_learned() -> None:
    assert DownstreamConfig.of().model_name("density") == "crysatom-density-cgcnn"
    assert DownstreamConfig.of(register="mine").model_name("density") == "mine"
    assert DownstreamConfig.of(register="{property}").model_name('Young\'s "E"') == "Young-s -E-"
    assert DownstreamConfig.of().model_name("a/b:c") == "crysatom-a-b-c-cgcnn", "MLflow's names have neither"
    assert DownstreamConfig.of(register="").model_name("density") == ""
    with pytest.raises(
        ValueError, match=r"register may have the fields \{property\} and \{predictor\}, got '\{seed\}'"
    ):
        DownstreamConfig.of(register="{seed}")
