"""Search spaces and preset files: samples, rejected values, and precedence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crysatom.config import (
    Choice,
    DownstreamConfig,
    LogUniform,
    PredictConfig,
    PretrainConfig,
    SearchSpace,
    TuneConfig,
    Uniform,
    load_space,
    paper,
    parse,
)
from crysatom.sweeps.sweep import base_config, preset, probe_epochs
from tests.conftest import REPOSITORY

SPACES = REPOSITORY / "tune_spaces"
GRID: dict[str, Any] = {"objective": "pretrain", "settings": {"lr": Choice((1e-3, 3e-3)), "num_layers": Choice((2, 3))}}


@pytest.mark.parametrize("name", sorted(file.stem for file in SPACES.glob("[!_]*.py")))
def test_every_trial_of_every_space_can_be(name: str) -> None:
    space = load_space(name, SPACES)
    base = base_config(TuneConfig.of(space=name), space)
    trials = space.trials()
    configs = [base.replace(**settings) for settings in trials]
    assert len({repr(config) for config in configs}) == len(trials) > 1


def test_a_grid_has_every_combination_and_a_drawn_space_is_the_same_for_the_same_seed() -> None:
    grid = SearchSpace(**GRID).trials()
    assert [tuple(trial.values()) for trial in grid] == [(1e-3, 2), (1e-3, 3), (3e-3, 2), (3e-3, 3)]
    drawn = SearchSpace(
        objective="downstream", settings={"lr": LogUniform(1e-4, 1e-2), "weight_decay": Uniform(0, 1)}, num_trials=200
    )
    trials = drawn.trials(seed=1)
    assert drawn.trials(seed=1) == trials != drawn.trials(seed=2)
    assert drawn.trials(num_trials=3, seed=1) == trials[:3], "more trials of a seed begin with the fewer"
    rates = sorted(trial["lr"] for trial in trials)
    assert rates[0] >= 1e-4
    assert rates[-1] <= 1e-2
    assert 5e-4 < rates[100] < 2e-3, "half of the draws lie below the geometric mean, 1e-3"
    assert len(SearchSpace(**GRID).trials(num_trials=9)) == 4, "there are no more"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"learning_rate": Choice((1,))}}, "learning_rate cannot be searched; settings of pretrain: .*lr"),
        ({"settings": {"cutoff": Choice((5.0,))}}, "cutoff cannot be searched"),
        ({"settings": {"selection": Choice(("last", "best"))}}, "selection cannot be searched"),
        (
            {"objective": "downstream", "settings": {"vector_scale": Choice(("rms", "none"))}},
            "vector_scale cannot be searched",
        ),
        (
            {"objective": "downstream", "settings": {"vector_spectrum": Choice((-1.0, "auto"))}},
            "vector_spectrum cannot be searched with 'auto'",
        ),
        ({"fixed": {"lr": 0.1}}, "lr cannot be searched and fixed"),
        ({"objective": "downstream", "settings": {"patience": Choice((0, 5))}}, "patience cannot be searched"),
        ({"settings": {"epochs": Choice((5,))}}, "epochs cannot be searched"),
        ({"settings": {"num_workers": Choice((5,))}}, "num_workers cannot be searched"),
        ({"settings": {"lr": Uniform(0, 1)}}, "num_trials must be above 0"),
        ({"settings": {}}, "needs settings"),
        ({"fixed": {"data": "x"}}, "data cannot be fixed"),
        ({"halving": 1.0}, "halving must be 0 or above 1, got 1"),
        ({"objective": "other"}, "objective must be one of pretrain, downstream, got 'other'"),
    ],
)
def test_spaces_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace(**{**GRID, **changes})


def test_a_space_is_found_by_name_or_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no search space 'loss'; choose among downstream, embedding_dim, pretrain, s"):
        load_space("loss", SPACES)
    file = tmp_path / "mine.py"
    file.write_text((SPACES / "ssl_loss.py").read_text())
    assert load_space(str(file), SPACES) == load_space("ssl_loss", SPACES)
    file.write_text("def space():\n    return 1 / 0\n")
    with pytest.raises(ValueError, match=r"mine\.py: ZeroDivisionError: division by zero"):
        load_space(str(file), SPACES)
    file.write_text("def space():\n    return {}\n")
    with pytest.raises(ValueError, match="must return a SearchSpace, got dict"):
        load_space(str(file), SPACES)


def test_probes_are_at_equal_distances_and_at_the_end() -> None:
    assert probe_epochs(30, 3) == {10, 20, 30}
    assert probe_epochs(32, 3) == {11, 22, 32}
    assert probe_epochs(2, 3) == {1, 2}
    assert probe_epochs(16, 3, 2) == {6, 12, 16}, "where the worse half of the trials is stopped"
    assert probe_epochs(40, 8, 1.5) == {5, 8, 12, 17, 26, 38, 40}


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_a_preset_file_replaces_defaults_and_flags_override_it(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"preset.{kind}"
    content = {
        "json": '{"lr": 0.001, "seeds": [3, 4], "pad_short_lists": true, "predictor_options": {"l1": 0.5}}',
        "toml": "lr = 0.001\nseeds = [3, 4]\npad_short_lists = true\n[predictor_options]\nl1 = 0.5\n",
    }
    file.write_text(content[kind])
    expected = {"lr": 0.001, "seeds": (3, 4), "pad_short_lists": True, "predictor_options": {"l1": 0.5}}
    assert parse(DownstreamConfig, ["--config", str(file)]) == DownstreamConfig.of(**expected)
    flags = ["--lr=0.01", f"--config={file}", "--seeds", "5", "--no-pad-short-lists"]
    assert parse(DownstreamConfig, flags) == DownstreamConfig.of(
        lr=0.01, seeds=(5,), pad_short_lists=False, predictor_options={"l1": 0.5}
    )


def test_a_preset_file_can_choose_the_recipe_and_name_several_models(tmp_path: Path) -> None:
    file = tmp_path / "preset.json"
    file.write_text('{"recipe": "paper", "epochs": 3}')
    assert parse(PretrainConfig, ["--config", str(file)]) == paper().replace(epochs=3)
    file.write_text('{"model": ["a", "b"], "num_workers": 2}')
    expected = PredictConfig.of(inputs=("x.cif",), model=("a", "b"), num_workers=2)
    assert parse(PredictConfig, ["--config", str(file), "x.cif"]) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"lr": 0.1, "learning_rate": 1, "b": 2}', "unknown b, learning_rate; known: adam_eps, "),
        ('{"lr": 0}', "lr must be positive, got 0"),
        ('{"lr": "fast"}', "--lr"),
        ('{"lr": ', "cannot be read as JSON or TOML"),
        ("[1, 2]", "must hold names and values, got list"),
        (None, "No such file"),
    ],
)
def test_preset_files_that_are_not_accepted(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "preset.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as caught:
        parse(PretrainConfig, ["--config", str(file)])
    printed = capsys.readouterr()
    assert message in str(caught.value.code) + printed.err + printed.out


def test_a_written_preset_is_read_back(tmp_path: Path) -> None:
    config = PretrainConfig.of(lr=0.01, ssl_loss="vicreg", tail="short", pad_short_lists=True, num_workers=0, data="x")
    file = tmp_path / "best.json"
    file.write_text(json.dumps(preset(config)))
    assert parse(PretrainConfig, ["--config", str(file), "--num-workers", "0", "--data", "x"]) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [("probes", 0), ("probe_epochs", 0), ("num_workers", -1), ("probe_seeds", ()), ("min_distance", -1.0)],
)
def test_refusals_name_the_setting(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        TuneConfig.of(space="ssl_loss", **{name: value})


def test_what_a_sweep_cannot_do_is_refused() -> None:
    space = SearchSpace(**GRID, fixed={"selection": "train"})
    with pytest.raises(ValueError, match="selection at 'last', got 'train'"):
        base_config(TuneConfig.of(space="x"), space)
    downstream = SearchSpace(objective="downstream", settings={"lr": Choice((1e-3, 1e-2))})
    with pytest.raises(ValueError, match="a predictor learns one property; --properties has a b"):
        base_config(TuneConfig.of(space="x", properties=("a", "b")), downstream)
