"""Search spaces of a sweep: settings of a job, their possible values, and early stopping of trials."""

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
from crysatom.names import AUTO

FUNCTION = "space"
"""Function that a search space file defines: it takes no arguments and returns a :class:`SearchSpace`."""

JOBS: dict[str, type[PretrainConfig | DownstreamConfig]] = {
    "pretrain": PretrainConfig,
    "downstream": DownstreamConfig,
}

SHARED = (
    FeaturizeConfig.names()
    | {"epochs", "patience", "recipe", "seeds", "selection", "split", "split_seed", "train_fraction"}
    | {"composition_reference", "missing_vectors", "property", "vector_scale"}
)
"""Settings that cannot be searched: trials share graphs, split, vectors and scaled targets, and are compared after
equally many epochs, by the weights of that epoch."""


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def draw(self, generator: random.Random) -> Any:
        """Return one of them, with equal probability."""
        return generator.choice(self.values)


@dataclass(frozen=True)
class Uniform:
    """A number between two bounds."""

    low: float
    high: float

    def draw(self, generator: random.Random) -> float:
        """Return a number rounded to three digits, so that the displayed value is exact."""
        return _rounded(generator.uniform(self.low, self.high))


@dataclass(frozen=True)
class LogUniform:
    """A positive number between two bounds, with a uniform logarithm."""

    low: float
    high: float

    def draw(self, generator: random.Random) -> float:
        """Return a number rounded to three digits."""
        return _rounded(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A search space.

    Raises:
        ValueError: If a setting cannot be searched.

    """

    objective: Literal["pretrain", "downstream"]
    """Work of a trial: 'pretrain': pretraining, whose vectors are evaluated by a small CGCNN that keeps them frozen;
    'downstream': training of a predictor. The score is the validation MAE over the mean absolute deviation of
    targets."""

    settings: Mapping[str, Choice | Uniform | LogUniform]
    """Settings to search: fields of the job's configuration."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that all trials share, if not the default."""

    num_trials: int = 0
    """Number of random draws; 0: every combination of the choices."""

    halving: float = 0.0
    """Factor of asynchronous successive halving (Li et al., MLSys 2020): at a probe, a trial continues if it is among
    the best 1/factor of the trials that got this far. 0: all trials run to the end."""

    def __post_init__(self) -> None:
        require(self.objective in JOBS, f"objective must be one of {', '.join(JOBS)}, got {self.objective!r}")
        known = JOBS[self.objective].names(Role.RESULT)
        allowed = known - SHARED
        for name in self.settings:
            require(name in allowed, f"{name} cannot be searched; settings of {self.objective}: {_listed(allowed)}")
        for name in self.fixed:
            require(name in known, f"{name} cannot be fixed by a search space")
        both = ", ".join(sorted(self.settings.keys() & self.fixed.keys()))
        require(not both, f"{both} cannot be searched and fixed")
        powers = self.settings.get("vector_spectrum", Choice(()))
        chosen = isinstance(powers, Choice) and AUTO in powers.values
        require(not chosen, "vector_spectrum cannot be searched with 'auto': fix that for all trials, or give numbers")
        grid = all(isinstance(values, Choice) for values in self.settings.values())
        require(bool(self.settings), "a search space needs settings to search")
        require(self.num_trials >= 0, f"num_trials must not be negative, got {self.num_trials}")
        require(grid or self.num_trials > 0, "num_trials must be above 0 if a setting is not a choice")
        require(self.halving == 0 or self.halving > 1, f"halving must be 0 or above 1, got {self.halving}")

    def trials(self, num_trials: int = 0, seed: int = 0) -> list[dict[str, Any]]:
        """Return the settings of each trial, all different; equal seeds give equal settings.

        Args:
            num_trials: Overrides the space's own number; 0: no override.
            seed: Seed of the draws.

        """
        count = num_trials or self.num_trials
        if count == 0:
            choices = [values.values for values in self.settings.values() if isinstance(values, Choice)]
            return [dict(zip(self.settings, values, strict=True)) for values in itertools.product(*choices)]
        generator = random.Random(seed)  # noqa: S311 - not for secrets
        drawn: dict[str, dict[str, Any]] = {}
        for _ in range(100 * count):  # a small grid may have fewer combinations
            trial = {name: values.draw(generator) for name, values in self.settings.items()}
            drawn.setdefault(repr(trial), trial)
            if len(drawn) == count:
                break
        return list(drawn.values())


def load_space(name: str, folder: Path) -> SearchSpace:
    """Return a search space.

    Args:
        name: Name of a file in the folder, or path of a file that defines ``space()``. The file is run.
        folder: Folder of the spaces that come with the platform.

    Raises:
        ValueError: If there is no such space, or the file is invalid.

    """
    return load_defined(name, folder, what="search space", function=FUNCTION, kind=SearchSpace)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
