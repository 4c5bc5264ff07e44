"""The configuration of a study that is a grid of runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from crysatom.config.base import Group, places, reads
from crysatom.config.checks import require, require_each
from crysatom.config.groups import Output, Source, Tracking
from crysatom.names import Recipe


@dataclass(frozen=True, kw_only=True)
class GridConfig(Group):
    """Run a study: every combination of property, vectors (or predictor, or pretraining) and seed that is not there."""

    study: str = "table7"
    """Name of a study (``--table 7`` is ``--study table7``; docs/studies.md lists all), or path of a Python file that
    defines one by ``grid()``. ``--study chemistry``, the paper's Figure 5, has flags of its own."""

    source: Source = Source()

    properties: tuple[str, ...] = ()
    """What to predict; empty: the study's own, as far as the data have labels."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training; each is a run of its own."""

    columns: tuple[str, ...] = ()
    """Keys of the columns to run, as the output names them (cells.json); empty: all."""

    baseline: str = ""
    """Key of the column that the others are compared with; empty: the study's own."""

    train_fraction: tuple[float, ...] = ()
    """Shares of the training crystals; empty: the study's own, or all of them."""

    held_out: tuple[str, ...] = ()
    """For a study that holds elements out: groups of them, as in 'Fe,Co' Cl; empty: the study's own."""

    measured: str = ""
    """For a study of measured values: crystal table with a column exp_PROPERTY, in the unit of the calculated ones."""

    vectors: tuple[str, ...] = reads(())
    """NAME=VECTORS: vectors that are there already instead of those that the study would take, or pretrain:
    ours=runs/NAME/vectors. Several of one NAME are draws, whose errors are averaged."""

    missing_vectors: Literal["auto", "error", "ridge"] = "auto"
    """Elements of the data without a vector: 'error' refuses, 'ridge' predicts their vectors from element properties;
    'auto': the latter for published tables, which lack some, and the former for all others."""

    recipe: Recipe = "default"
    """Of predictions and pretrainings: 'default': what the evidence recommends; 'paper': CrysAtom's."""

    epochs: int = 0
    """Of each prediction; 0: the recipe's."""

    further_epochs: int = 0
    """Of each prediction that starts from another's model; 0: the study's own."""

    pretrain_epochs: int = 0
    """Of each pretraining; 0: the recipe's."""

    output: Output = Output()
    """Runs that the folder holds already are not repeated, whichever job made them."""

    finished: tuple[str, ...] = places(())
    """Further folders of finished runs, only read: taken where settings, vectors and data are equal."""

    budget: float = places(0.0)
    """Minutes after which nothing more is started; what runs then is finished. 0: no limit."""

    num_workers: int = places(1)
    """Runs at a time on the Ray cluster, each on one CPU; 0 runs one after another in this process, without Ray."""

    use_gpu: bool = places(False)
    """One GPU for each run."""

    tracking: Tracking = Tracking(experiment="crysatom-studies")
    """Place of the study's own run; those of predictions and pretrainings are where their jobs put them."""

    def __post_init__(self) -> None:
        not_negative = ("budget", "num_workers", "epochs", "further_epochs", "pretrain_epochs")
        require_each(self, not_negative, lambda value: value >= 0, "not be negative")
        for name in ("properties", "seeds", "columns", "train_fraction", "held_out"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"{name} must be different, got {values}")
        require(bool(self.seeds), "give at least one seed")
        require(
            all(0 < share <= 1 for share in self.train_fraction),
            f"each train_fraction must lie in (0, 1], got {self.train_fraction}",
        )
        require(
            all(re.fullmatch("[A-Za-z]+(,[A-Za-z]+)*", group) for group in self.held_out),
            f"held_out takes groups like Fe,Co, got {self.held_out}",
        )
        bad = [given for given in self.vectors if not all(given.partition("="))]
        require(not bad, f"vectors are given as NAME=VECTORS, got {bad}")
