"""The configuration of a study that is a grid of runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from crysatom.config.base import Group, places, reads
from crysatom.config.checks import require, require_each, require_spectrum
from crysatom.config.groups import Output, Source, Tracking
from crysatom.names import Precision, Recipe, VectorSpectrum


@dataclass(frozen=True, kw_only=True)
class GridConfig(Group):
    """Run a study: every missing run of a table of properties, columns and seeds; compare the results."""

    study: str = "table7"
    """Name of a study (``--table 7`` is ``--study table7``; docs/studies.md lists all), or path of a Python file that
    defines one by ``grid()``. ``--study chemistry``, the paper's Figure 5, has flags of its own."""

    source: Source = Source()

    properties: tuple[str, ...] = ()
    """Properties to predict; empty: those of the study that the data have labels for."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds; each is one run."""

    columns: tuple[str, ...] = ()
    """Keys of the columns to run, as the output names them (cells.json); empty: all."""

    baseline: str = ""
    """Key of the column that all others are compared with; empty: the baseline of each column."""

    train_fraction: tuple[float, ...] = ()
    """Shares of the training crystals; empty: the study's own, or all of them."""

    held_out: tuple[str, ...] = ()
    """For a study that holds elements out: groups of them, as in 'Fe,Co' Cl; empty: the study's own."""

    measured: str = ""
    """For a study of measured values: crystal table with a column exp_PROPERTY, in the unit of the calculated ones."""

    vectors: tuple[str, ...] = reads(())
    """NAME=VECTORS: use existing vectors instead of the study's own: ours=runs/NAME/vectors. Several vectors of one
    NAME are draws, whose errors are averaged."""

    missing_vectors: Literal["auto", "error", "ridge"] = "auto"
    """Elements of the data without a vector: 'error': raise an error; 'ridge': predict their vectors from element
    properties; 'auto': 'ridge' for published tables, which lack some elements, 'error' for all others."""

    vector_spectrum: VectorSpectrum = 0.0
    """Power of the spectrum of all vectors, as of jobs/downstream.py, or 'auto'; a column may have another one."""

    recipe: Recipe = "default"
    """Settings of predictions and pretrainings: 'default': what the evidence recommends; 'paper': CrysAtom's."""

    epochs: int = 0
    """Epochs of each prediction; 0: the recipe's."""

    further_epochs: int = 0
    """Epochs of each prediction that starts from the model of another; 0: the study's own."""

    pretrain_epochs: int = 0
    """Epochs of each pretraining; 0: the recipe's."""

    precision: Precision = "float32"
    """Precision of every prediction and pretraining: 'float32' or 'bf16'."""

    output: Output = Output()
    """Finished runs in the folder are reused, whichever job made them."""

    finished: tuple[str, ...] = places(())
    """Further folders of finished runs, only read. A run is reused if settings, vectors and data are equal."""

    budget: float = places(0.0)
    """Minutes after which no run is started; running ones are finished. 0: no limit."""

    num_workers: int = places(1)
    """Runs at a time on the Ray cluster, each on one CPU; 0: one after another in this process, without Ray."""

    use_gpu: bool = places(False)
    """One GPU for each run."""

    tracking: Tracking = Tracking(experiment="crysatom-studies")
    """Experiment of the study's own run; predictions and pretrainings keep the experiments of their jobs."""

    def __post_init__(self) -> None:
        require_spectrum(self.vector_spectrum)
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
