"""What a sweep searches: settings of a job, the values they may have, and when a hopeless trial is stopped."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from crysatom.config.base import Role
from crysatom.config.checks import require
from crysatom.config.downstream import DownstreamConfig
from crysatom.config.ingesting import FeaturizeConfig
from crysatom.config.pretraining import PretrainConfig
from crysatom.config.user_code import load_defined

FUNCTION = "space"
"""What a file of a search space defines: a function without arguments that returns a :class:`SearchSpace`."""

JOBS: dict[str, type[PretrainConfig | DownstreamConfig]] = {
    "pretrain": PretrainConfig,
    "downstream": DownstreamConfig,
}

SHARED = (
    FeaturizeConfig.names()
    | {"epochs", "patience", "recipe", "seeds", "selection", "split", "split_seed", "train_fraction"}
    | {"composition_reference", "missing_vectors", "property", "vector_scale"}
)
"""Not searched: trials share graphs, split, vectors and targets as they are brought to scale, and are compared after
equally many epochs, by the weights of that epoch."""


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def draw(self, generator: random.Random) -> Any:
        """Return one of them, all equally likely."""
        return generator.choice(self.values)


@dataclass(frozen=True)
class Uniform:
    """A number between two."""

    low: float
    high: float

    def draw(self, generator: random.Random) -> float:
        """Return one, to three digits: what is shown is what was used."""
        return _rounded(generator.uniform(self.low, self.high))


@dataclass(frozen=True)
class LogUniform:
    """A positive number between two, every factor equally likely."""

    low: float
    high: float

    def draw(self, generator: random.Random) -> float:
        """Return one, to three digits."""
        return _rounded(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A search.

    Raises:
        ValueError: If a setting cannot be searched.

    """

    objective: Literal["pretrain", "downstream"]
    """What a trial is: 'pretrain': pretraining, whose vectors a small CGCNN with frozen vectors judges; 'downstream':
    training of a predictor. Either is judged by validation MAE over the mean absolute deviation of the targets."""

    settings: Mapping[str, Choice | Uniform | LogUniform]
    """What is searched: fields of the objective's configuration."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are the same in all trials, where they are not the default."""

    num_trials: int = 0
    """How many are drawn at random; 0: every combination of the choices."""

    halving: float = 0.0
    """Factor of asynchronous successive halving (Li et al., MLSys 2020): at a probe, a trial goes on if it is among
    the best 1/factor of those that came as far. 0: all trials run to their end."""

    def __post_init__(self) -> None:
        require(self.objective in JOBS, f"objective must be one of {', '.join(JOBS)}, got {self.objective!r}")
        known = JOBS[self.objective].names(Role.RESULT)
        allowed = known - SHARED
        for name in self.settings:
            require(name in allowed, f"{name} cannot be searched; settings of {self.objective}: {_listed(allowed)}")
        for name in self.fixed:
            require(name in known, f"{name} cannot be fixed by a search space")
        grid = all(isinstance(values, Choice) for values in self.settings.values())
        require(bool(self.settings), "a search space needs settings to search")
        require(self.num_trials >= 0, f"num_trials must not be negative, got {self.num_trials}")
        require(grid or self.num_trials > 0, "num_trials must say how many are drawn where settings are not choices")
        require(self.halving == 0 or self.halving > 1, f"halving must be 0 or above 1, got {self.halving}")

    def trials(self, num_trials: int = 0, seed: int = 0) -> list[dict[str, Any]]:
        """Return the settings of each trial, all different; the same for the same seed.

        Args:
            num_trials: Instead of the space's own.
            seed: Of what is drawn.

        """
        count = num_trials or self.num_trials
        if count == 0:
            choices = [values.values for values in self.settings.values() if isinstance(values, Choice)]
            return [dict(zip(self.settings, values, strict=True)) for values in itertools.product(*choices)]
        generator = random.Random(seed)  # noqa: S311 - not for secrets
        drawn: dict[str, dict[str, Any]] = {}
        for _ in range(100 * count):  # of a small grid all may be drawn before there are so many
            trial = {name: values.draw(generator) for name, values in self.settings.items()}
            drawn.setdefault(repr(trial), trial)
            if len(drawn) == count:
                break
        return list(drawn.values())


def load_space(name: str, folder: Path) -> SearchSpace:
    """Return a search space.

    Args:
        name: Of a file in the folder, or the path of any file that defines ``space()``. The file is run.
        folder: Of the spaces that come with the platform.

    Raises:
        ValueError: If there is none, or it is not one.

    """
    return load_defined(name, folder, what="search space", function=FUNCTION, kind=SearchSpace)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
