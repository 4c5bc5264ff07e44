"""From the command line to a configuration, and from a configuration to what identifies it."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from crysatom.config import downstream, predicting, pretraining
from crysatom.names import CGCNN_BITS, ELEMENT_BINS

ConfigT = TypeVar("ConfigT")

WHAT_IS_READ = frozenset({"data", "max_atoms", "min_distance", "targets", "vectors", "init_encoder", "distill"})
"""Fields that decide what is read: crystals, labels, vectors, encoders. Those, not the way to them, are what a run
depends on: they are identified by their content, in the data digest, wherever they lie and however they were chosen."""

NOT_IN_DIGEST = WHAT_IS_READ | frozenset(
    {
        "out",
        "name",
        "resume",
        "num_workers",
        "use_gpu",
        "tracking_uri",
        "experiment",
        "register",
        "max_failures",
        "threads_per_worker",
        "memory_gb",
    }
)
"""Beside what is read: fields that say where a run happens, not what it computes."""

RECIPES: Mapping[type, Mapping[str, Callable[[], Any]]] = {
    pretraining.PretrainConfig: pretraining.RECIPES,
    downstream.DownstreamConfig: downstream.RECIPES,
}
"""The recipes of the jobs that have some."""


def digest(config: Any) -> str:
    """Return 12 hex digits that change whenever what a run computes from the same data would change.

    Element features of a file count as data, too: only that they are from a file is part of the digest.
    """
    content = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_IN_DIGEST}
    if content.get("node_features", ELEMENT_BINS) not in {ELEMENT_BINS, CGCNN_BITS}:
        content["node_features"] = "file"
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def parse(config_type: type[ConfigT], argv: Sequence[str] | None = None) -> ConfigT:
    """Build a configuration from command-line flags; ``--recipe`` chooses the defaults of a training.

    Raises:
        SystemExit: After printing a message that names the flag, when a value is not accepted.

    """
    import tyro  # here, so that a machine that only runs the loop need not have it

    arguments = list(sys.argv[1:] if argv is None else argv)
    preset: Any = None
    marks: tuple[Any, ...] = ()
    if config_type is predicting.PredictConfig:  # inputs stand alone, and a flag is repeated, so that it takes none
        marks = (tyro.conf.PositionalRequiredArgs, tyro.conf.UseAppendAction)
    if config_type in RECIPES:
        recipes = RECIPES[config_type]
        chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        chooser.add_argument("--recipe", choices=sorted(recipes), default="default")
        preset = recipes[chooser.parse_known_args(arguments)[0].recipe]()
    try:
        config: ConfigT = tyro.cli(
            config_type, args=arguments, default=preset, description=config_type.__doc__, config=marks
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    return config
