"""From the command line to a configuration, and from a configuration to its digest and its flags."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from crysatom.config import chemistry, downstream, few_labels, grid, predicting, pretraining
from crysatom.config.base import Group, Role
from crysatom.config.files import read_text
from crysatom.config.secrets import warn_of_passwords, without_password
from crysatom.names import CGCNN_BITS, ELEMENT_BINS, FLOAT32

ConfigT = TypeVar("ConfigT", bound=Group)

RECIPES: Mapping[type, Mapping[str, Callable[..., Any]]] = {
    pretraining.PretrainConfig: pretraining.RECIPES,
    downstream.DownstreamConfig: downstream.RECIPES,
}
"""Recipes of the jobs that have any."""


LATER: Mapping[str, Any] = {
    "precision": FLOAT32,
    "mask_unit": "atoms",
    "element_weight": 0.0,
    "bond_weight": 0.0,
    "vector_spectrum": 0.0,
    "blocks": ("substitution", "geometry"),
    "max_expansion": 2.5,
}
"""Settings that were added later, with the value that means what was done before: left out of the digest, so that older
runs are still found."""

TRACKING_URI = "tracking_uri"
"""Field that may hold a database password."""

CONFIG_HELP = (
    "\n\n--config FILE: JSON or TOML with names of the options below as keys; flags override it."
    "\n--debug: show the traceback of an error, not only its message."
)


def recorded(config: Group) -> dict[str, Any]:
    """Return the settings of a configuration by flat names, without passwords, as results and MLflow store them."""
    return {k: without_password(v) if k == TRACKING_URI else v for k, v in config.flat().items()}


def digest(config: Group) -> str:
    """Return 12 hex digits that change if the result of a run on the same data can change.

    Element features from a file count as data: only the fact that they are from a file is in the digest.
    """
    content = config.flat(Role.RESULT)
    if content.get("node_features", ELEMENT_BINS) not in {ELEMENT_BINS, CGCNN_BITS}:
        content["node_features"] = "file"
    for name, value in LATER.items():
        if content.get(name) == value:
            del content[name]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def parse(config_type: type[ConfigT], argv: Sequence[str] | None = None) -> ConfigT:
    """Build a configuration from command-line flags.

    ``--recipe`` and ``--predictor`` choose the defaults of a training, ``--config FILE`` (JSON or TOML) replaces some,
    and flags override both.

    Raises:
        SystemExit: If a value is invalid, after a message that names the flag.

    """
    import tyro  # imported here: machines that only train need not have it

    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--config", type=Path)
    given = sys.argv[1:] if argv is None else argv
    warn_of_passwords(given)
    file, arguments = chooser.parse_known_args(given)
    if file.config is not None:
        try:
            arguments = preset_flags(file.config, config_type, arguments) + arguments
        except ValueError as error:
            sys.exit(f"error: {error}")
    arguments = _with_range(config_type, arguments)
    preset: Any = None
    marks: tuple[Any, ...] = (tyro.conf.OmitArgPrefixes,)
    if config_type is predicting.PredictConfig:  # inputs are positional and one flag may be repeated, so no preset
        marks += (tyro.conf.PositionalRequiredArgs, tyro.conf.UseAppendAction)
    if config_type in RECIPES:
        chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        chooser.add_argument("--recipe", choices=sorted(RECIPES[config_type]), default="default")
        chooser.add_argument("--predictor", default=downstream.Architecture.predictor)
        chosen = chooser.parse_known_args(arguments)[0]
        preset = _preset(config_type, chosen.recipe, chosen.predictor)
    try:
        config: ConfigT = tyro.cli(
            config_type, args=arguments, default=preset, description=f"{config_type.__doc__}{CONFIG_HELP}", config=marks
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    return config


def _with_range(config_type: type[Group], arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a job, with ``--num-workers MIN:MAX`` split into its two flags."""
    if "max_workers" not in config_type.names():
        return list(arguments)
    found: list[str] = []
    for argument in arguments:
        flag = f"{found.pop()}={argument}" if found[-1:] == ["--num-workers"] else argument
        both = re.fullmatch(r"--num-workers=(\d+):(\d+)", flag)
        found += [flag] if both is None else [f"--num-workers={both[1]}", f"--max-workers={both[2]}"]
    return found


def _preset(config_type: type, recipe: str, predictor: str) -> Any:
    """Return the defaults of a training: those of the recipe and of the predictor, if there is one."""
    make = RECIPES[config_type][recipe]
    return make(predictor) if config_type is downstream.DownstreamConfig else make()


def parse_study(
    argv: Sequence[str] | None = None,
) -> chemistry.ChemistryConfig | few_labels.FewLabelsConfig | grid.GridConfig:
    """Build the configuration of the study that ``--study NAME`` or ``--table N`` names, each kind with its own flags.

    Raises:
        SystemExit: As :func:`parse`.

    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--study", default="")
    chooser.add_argument("--table", default="")
    chosen, arguments = chooser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if chosen.table and chosen.study:
        sys.exit("error: give --study or --table, not both")
    study = f"table{chosen.table}" if chosen.table else chosen.study
    arguments = [*arguments, "--study", study] if study else arguments
    if study == "chemistry":
        return parse(chemistry.ChemistryConfig, arguments)
    if study == "few_labels":
        return parse(few_labels.FewLabelsConfig, arguments)
    return parse(grid.GridConfig, arguments)


def preset_flags(file: Path, config_type: type[Group], given: Sequence[str]) -> list[str]:
    """Return the content of a preset file as flags, without those that are given.

    Args:
        file: JSON or TOML, one table of fields.
        config_type: Configuration with the fields.
        given: Flags that override the file.

    Raises:
        ValueError: If the file cannot be read, or has an unknown key.

    """
    try:
        content = (tomllib if file.suffix == ".toml" else json).loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"--config {file}: cannot be read as JSON or TOML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--config {file}: must hold names and values, got {type(content).__name__}")  # noqa: TRY004
    # inputs of a prediction are positional and have no flag
    known = config_type.names() - {"inputs"}
    if unknown := sorted(content.keys() - known):
        named = ", ".join(" ".join(name.split()) for name in unknown)
        raise ValueError(f"--config {file}: unknown {named[:200]}; known: {', '.join(sorted(known))}")
    names = {flag.partition("=")[0].removeprefix("--").replace("-", "_") for flag in given if flag.startswith("--")}
    overridden = names | {name.removeprefix("no_") for name in names}
    return [part for key, value in content.items() if key not in overridden for part in _as_flags(key, value)]


def flags_of(config: Group, always: str = "") -> list[str]:
    """Return the flags that reproduce a configuration, quoted for a shell.

    Args:
        config: Configuration of a job.
        always: Setting whose flag is included even if it has its default.

    """
    values, defaults = recorded(config), defaults_beside(config)
    flags = [
        _as_flags(name, value)
        for name, value in values.items()
        if name == always or name not in defaults or value != defaults[name]
    ]
    return [shlex.quote(part) for flag in flags for part in flag]


def defaults_beside(config: Group) -> dict[str, Any]:
    """Return the values that settings have unless they are given, by the recipe and the predictor of a configuration.

    The recipe and the predictor have the defaults of their flags.
    """
    defaults = default_settings(type(config))
    if type(config) not in RECIPES:
        return defaults
    chosen = config.flat()
    settings: dict[str, Any] = _preset(type(config), chosen["recipe"], chosen.get("predictor", "")).flat()
    return settings | {name: defaults[name] for name in ("recipe", "predictor") if name in defaults}


def default_settings(config_type: type[Group]) -> dict[str, Any]:
    """Return the default settings of a configuration by flat names; required settings have none."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config_type):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if isinstance(default, Group):
            found |= default.flat()
        elif default is not dataclasses.MISSING:
            found[field.name] = default
    return found


def _as_flags(key: str, value: Any) -> list[str]:
    flag = key.replace("_", "-")
    if key == "model":  # the only flag that may be repeated
        return [f"--{flag}={part}" for part in (value if isinstance(value, list | tuple) else [value])]
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, dict):
        value = [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return [f"--{flag}", *map(str, value)]
    return [f"--{flag}={value}"]
