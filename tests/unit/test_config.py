"""Configurations: rejected values and messages, coverage of the digest, and flags for every field."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal, get_args, get_origin

import pytest

from crysatom.config import (
    RECIPES,
    FeaturizeConfig,
    GraphSpec,
    IngestConfig,
    PretrainConfig,
    Role,
    default,
    default_settings,
    digest,
    paper,
    parse,
)
from crysatom.config.flags import flags_of, recorded, without_password
from tests.settings_of import types_of

FIELDS = default_settings(PretrainConfig)
HINTS = types_of(PretrainConfig)


def other_value(name: str) -> Any:
    """Return a valid value of the setting that is not its default."""
    was = FIELDS[name]
    if get_origin(HINTS[name]) is Literal:
        return next(v for v in get_args(HINTS[name]) if v != was)
    if isinstance(was, bool):
        return not was
    if isinstance(was, int):
        return was + (5 if name == "max_workers" else 1)  # no fewer than num_workers
    return was / 2 + 0.01 if isinstance(was, float) else was + "x"


def flags(name: str) -> list[str]:
    value, flag = other_value(name), "--" + name.replace("_", "-")
    return [flag] if value is True else [flag, str(value)]


REFUSED = {
    "cutoff": [0.0, 51.0],
    "num_neighbors": [0, 501],
    "tie_tolerance": [-0.1, 0.2],
    "embedding_dim": [0],
    "num_layers": [0],
    "projection_dim": [0],
    "epochs": [0],
    "threads_per_worker": [0],
    "batch_size": [1],
    "num_workers": [-1],
    "lr": [0.0, -1.0],
    "seed": [-1, 2**63],
    "atom_mask_fraction": [-0.1, 1.0],
    "edge_mask_fraction": [1.0],
    "holdout_fraction": [1.0],
    "ema_decay": [1.0],
    "precision": ["fp8"],
    "ssl_loss": ["simsiam"],
    "max_atoms": [0, 65_536],
    "min_distance": [-0.1, 6.0],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in REFUSED.items() for v in values])
def test_refusals_name_the_field_and_the_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*{re.escape(str(value))}"):
        PretrainConfig.of(**{name: value})


def test_refusals_of_combinations_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="batch_size 4 is smaller than num_workers 5"):
        PretrainConfig.of(batch_size=4, num_workers=5)
    with pytest.raises(ValueError, match="set holdout_fraction above 0"):
        PretrainConfig.of(selection="held_out", holdout_fraction=0.0)


def test_other_jobs_refuse_as_well() -> None:
    with pytest.raises(ValueError, match="max_atoms"):
        IngestConfig.of(out="x", max_atoms=0)
    with pytest.raises(ValueError, match="crystals_per_shard"):
        FeaturizeConfig.of(data="x", out="y", crystals_per_shard=0)
    with pytest.raises(ValueError, match="cutoff"):
        FeaturizeConfig.of(data="x", out="y", cutoff=-1)


@pytest.mark.parametrize("name", FIELDS)
def test_the_digest_covers_what_a_run_computes_and_nothing_else(name: str) -> None:
    changed = PretrainConfig.of(**{name: other_value(name)})
    assert (digest(changed) == digest(PretrainConfig())) == (name not in PretrainConfig.names(Role.RESULT))


def test_a_digest_tells_recipes_apart() -> None:
    assert re.fullmatch("[0-9a-f]{12}", digest(default()))
    assert digest(default()) != digest(paper())


def test_element_features_of_a_file_are_identified_by_their_content() -> None:
    names = ["elements", "cgcnn92", "mine.csv"]
    assert len({digest(PretrainConfig.of(node_features=name)) for name in names}) == 3
    assert digest(PretrainConfig.of(node_features="mine.csv")) == digest(
        PretrainConfig.of(node_features="/data/mine.csv")
    )


def test_the_graph_part_is_that_of_the_run() -> None:
    config = PretrainConfig.of(cutoff=6.0, ties="truncate", pad_short_lists=True)
    assert config.graph == GraphSpec(cutoff=6.0, ties="truncate", pad_short_lists=True)


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        default().optimization.lr = 1.0  # type: ignore[misc]


def test_every_field_has_a_flag() -> None:
    names = [n for n in FIELDS if n != "recipe"]
    argv = [flag for name in names for flag in flags(name)]
    assert parse(PretrainConfig, argv) == PretrainConfig.of(**{n: other_value(n) for n in names})


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_the_defaults_and_flags_override_them(recipe: str) -> None:
    expected = RECIPES[recipe]()
    assert expected.recipe == recipe
    assert parse(PretrainConfig, ["--recipe", recipe]) == expected
    argv = ["--epochs", "3", f"--recipe={recipe}", "--no-pad-short-lists", "--lr", "0.5"]
    changed = expected.replace(epochs=3, pad_short_lists=False, lr=0.5)
    assert parse(PretrainConfig, argv) == changed


def test_the_published_settings() -> None:
    """CrysAtom, arXiv 2409.04737, table 2 and section 4."""
    config = paper()
    steps, terms = config.optimization, config.loss
    assert (config.encoder.embedding_dim, config.encoder.num_layers, config.encoder.projection_dim) == (200, 5, 128)
    assert (steps.epochs, steps.batch_size, steps.lr, steps.schedule) == (110, 128, 0.03, "constant")
    assert (terms.connectivity_weight, terms.feature_weight, terms.ssl_weight) == (0.25, 0.25, 0.5)
    assert (config.graph.cutoff, config.graph.num_neighbors, config.loss.barlow_lambda) == (8.0, 12, 0.0051)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lr", "0"], "lr must be positive, got 0"),
        (["--batch-size", "1"], "batch_size must be at least 2"),
        (["--ssl-loss", "simsiam"], "simsiam"),
        (["--epochs", "many"], "--epochs"),
        (["--learning-rate", "1"], "--learning-rate"),
        (["--recipe", "published"], "published"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_are_not_accepted_end_the_program_with_a_message(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(PretrainConfig, argv)
    assert caught.value.code not in (0, None)
    printed = capsys.readouterr()
    assert message in str(caught.value.code) + printed.err + printed.out


def test_help_explains_every_documented_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(PretrainConfig, ["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for name in FIELDS:
        assert "--" + name.replace("_", "-") in printed


def test_other_jobs_are_parsed_too() -> None:
    assert parse(IngestConfig, ["--out", "x", "--overwrite"]) == IngestConfig.of(out="x", overwrite=True)
    expected = FeaturizeConfig.of(data="a", out="b", num_neighbors=7)
    assert parse(FeaturizeConfig, ["--data", "a", "--out", "b", "--num-neighbors", "7"]) == expected


def test_passwords_are_neither_kept_nor_shown() -> None:
    config = PretrainConfig.of(tracking_uri="postgresql://me:s@cret@host:5432/db")
    assert "postgresql://...@host:5432/db" in " ".join(flags_of(config))
    assert recorded(config)["tracking_uri"] == "postgresql://...@host:5432/db"
    for kept in (recorded(config), flags_of(config)):
        assert "cret" not in str(kept)
    for plain in ("sqlite:////home/me@work/mlflow.db", "http://127.0.0.1:5000", ""):
        assert without_password(plain) == plain
