"""Configuration of the study of atom vectors where labels are few."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from crysatom.config.base import Group, places, reads
from crysatom.config.checks import require, require_each, require_spectrum
from crysatom.config.groups import Output, Source, Tracking
from crysatom.names import AUTO, SYMBOLS, VectorSpectrum

TABLES = (
    "onehot92",
    "onehot92@-1",
    "onehot",
    "random=random:{draw}",
    "permuted=permuted:{draw}:onehot92",
    "magpie",
    "mat2vec",
    "skipatom",
)
COMPOSITION = "composition"
"""Predictor that sees the mean vector of the atoms only: kernel ridge regression."""

_TABLE = re.compile(r"(?:([A-Za-z0-9_.@+-]+)=)?(.+?)(?:@(-?\d+(?:\.\d+)?|auto))?")
_RANDOM = re.compile(r"random:([1-9]\d?)")
_GROUP = re.compile(r"group:([1-9]|1[0-8])")


class Table(NamedTuple):
    """A table to compare: its name in the output, its source as in the downstream job, its spectrum power."""

    name: str
    vectors: str
    power: VectorSpectrum


@dataclass(frozen=True, kw_only=True)
class FewLabelsConfig(Group):
    """Compare atom vectors where labels are few: on many disjoint draws of training crystals, paired."""

    study: Literal["few_labels"] = "few_labels"
    """Name of this study; ``--study table7 --help`` shows the flags of the studies that are grids of runs."""

    source: Source = Source()

    properties: tuple[str, ...] = ()
    """Properties to predict; empty: all of the vocabulary that the data have labels for."""

    labels: tuple[int, ...] = (500,)
    """Numbers of training crystals. 0: all of the training pool, one draw."""

    validation_labels: int = 0
    """Validation crystals of each training, which choose its epoch; 0: a fifth of its training crystals, at least 50
    and at most 250. They are not among --labels."""

    vectors: tuple[str, ...] = reads(TABLES)
    """Tables, each as VECTORS or NAME=VECTORS; VECTORS as in the downstream job. '{draw}' becomes the number of the
    draw: random:{draw} is another table in each draw. VECTORS@P gives the table a spectrum power, as --vector-spectrum
    of that job: onehot92@-1, onehot92@auto."""

    baseline: str = "onehot92"
    """Table that all others are compared with."""

    standardize: tuple[str, ...] = ("magpie",)
    """VECTORS whose columns are scaled to variance 1 first, because they have different units."""

    predictors: tuple[str, ...] = ("cgcnn",)
    """Predictors of the downstream job, and 'composition': kernel ridge regression on the mean vector of the atoms,
    with width and penalty chosen by the validation crystals."""

    held_out: tuple[str, ...] = ()
    """Elements that no training crystal has and every test crystal has one of: 'Fe,Co'; 'group:17', a column of the
    periodic table; 'random:8', others in each draw; 'none': no elements. Several are tasks of their own."""

    draws: int = 6
    """Disjoint sets of training crystals."""

    first_draw: int = 0
    """Number of the first draw, to add draws or to repeat a study on others."""

    seeds: tuple[int, ...] = (0,)
    """Training seeds; errors of a draw are averaged over them."""

    salt: str = "few"
    """Text that decides, by a hash with each id, whether a crystal is for training, validation or test."""

    split: Literal["hash", "composition", "official"] = "hash"
    """'hash': test crystals are 20 % of the labeled ones; 'composition': 20 % of the formulas, so that none is also
    trained on; 'official': those of the published split."""

    evaluate: Literal["test", "validation"] = "test"
    """Crystals whose errors are compared. 'validation': crystals kept for choices between variants (10 %); test
    crystals are then not read."""

    max_test: int = 3000
    """Most crystals to evaluate; the same for all cells of a property. 0: no limit."""

    epochs: int = 100
    """Epochs of each training; 0: the recipe's, 100 for CGCNN and 500 for PotNet."""

    missing_vectors: Literal["auto", "error", "ridge"] = "auto"
    """Elements of the data without a vector: 'error': raise an error; 'ridge': predict their vectors from element
    properties; 'auto': 'ridge' for published tables, which lack some elements, 'error' for all others."""

    output: Output = Output()
    """Finished cells of any study in the folder are reused."""

    finished: tuple[str, ...] = places(())
    """Further files cells.csv of finished cells, or folders that contain them; only read."""

    budget: float = places(0.0)
    """Minutes after which no cell is started; running ones are finished. 0: no limit."""

    num_workers: int = places(1)
    """Cells at a time on the Ray cluster, each on one CPU; 0: one after another in this process, without Ray."""

    tracking: Tracking = Tracking(experiment="crysatom-studies")

    def __post_init__(self) -> None:
        for name in ("labels", "seeds"):
            values = getattr(self, name)
            require(bool(values) and min(values) >= 0, f"{name} must be whole numbers from 0 on, got {values}")
        require_each(
            self,
            ("first_draw", "max_test", "epochs", "budget", "num_workers", "validation_labels"),
            lambda value: value >= 0,
            "not be negative",
        )
        require_each(self, ("draws",), lambda value: value >= 1, "be at least 1")
        for name in ("properties", "labels", "predictors", "held_out", "seeds"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"{name} must be different, got {values}")
        require(all(not 0 < n < 10 for n in self.labels), f"labels must be 0 or at least 10, got {self.labels}")
        require(bool(self.predictors), "give at least one predictor")
        bad = [text for text in self.held_out if not _is_held_out(text)]
        require(not bad, f"held_out takes Fe,Co or group:17 or random:8 or none, got {bad}")
        repeated = {name for name, *_ in self.tables if [n for n, *_ in self.tables].count(name) > 1}
        require(not repeated, f"two tables are called {', '.join(sorted(repeated))}; write NAME=VECTORS")
        names = [table.name for table in self.tables]
        require(self.baseline in names, f"baseline {self.baseline} is not among the tables: {', '.join(names)}")

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables, in order."""
        return tuple(map(_table, self.vectors))


def _table(text: str) -> Table:
    match = _TABLE.fullmatch(text)
    if match is None:
        raise ValueError(f"a table is given as VECTORS, NAME=VECTORS or NAME=VECTORS@POWER, got {text!r}")
    name, vectors, power = match.groups()
    spectrum: VectorSpectrum = AUTO if power == AUTO else float(power or 0)
    try:
        require_spectrum(spectrum)
    except ValueError as error:
        raise ValueError(f"table {text}: {error}") from error
    return Table(name or text, vectors, spectrum)


def _is_held_out(text: str) -> bool:
    elements = all(symbol in SYMBOLS for symbol in text.split(","))
    return text == "none" or elements or bool(_RANDOM.fullmatch(text) or _GROUP.fullmatch(text))
