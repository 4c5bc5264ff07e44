"""Element features: the encoder's input at an atom, and the target of the feature decoder."""

from __future__ import annotations

import csv
import functools
import importlib.resources
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysatom.names import CGCNN_BITS, ELEMENT_BINS
from crysatom.vectors.files import read_vectors
from crysatom.vectors.table import AtomVectors, rows_of


@dataclass(frozen=True, kw_only=True, eq=False)
class ElementFeatures:
    """One row of F features for each of M elements.

    Attributes:
        atomic_numbers: ``(M,)`` int64, ascending.
        features: ``(M, F)`` float32.
        columns: F names.

    """

    atomic_numbers: NDArray[np.int64]
    features: NDArray[np.float32]
    columns: tuple[str, ...]

    def lookup(self, atomic_numbers: ArrayLike) -> NDArray[np.float32]:
        """Return ``(N, F)`` features of N atoms.

        Raises:
            ValueError: With the names of elements that have no features.

        """
        return self.features[rows_of(self.atomic_numbers, atomic_numbers, "features")]


@dataclass(frozen=True)
class Bins:
    """Bins that turn one property of an element into a one-hot block; the end bins include values beyond."""

    fact: str
    low: float
    high: float
    count: int
    logarithm: bool = False

    def place(self, text: str) -> int:
        """Return the bin of a value among ``count`` bins of equal width between ``low`` and ``high``."""
        value = np.log(float(text)) if self.logarithm else float(text)
        return int(np.clip((value - self.low) / (self.high - self.low) * self.count, 0, self.count - 1))


BLOCKS = "spdf"
BINS: tuple[Bins, ...] = (
    Bins("group", 1, 19, 18),
    Bins("period", 1, 8, 7),
    Bins("electronegativity_pauling", 0.5, 4.0, 10),
    Bins("covalent_radius_pm", 25, 250, 10),
    Bins("valence_electrons", 1, 13, 12),
    Bins("ionization_energy_ev", 1.3, 3.3, 10, logarithm=True),
    Bins("electron_affinity_ev", -3.0, 3.7, 10),
    Bins("block", 0, 4, 4),
    Bins("molar_volume_cm3", 1.5, 4.3, 10, logarithm=True),
    Bins("f_column", 1, 15, 14),
)
"""Bins of Xie and Grossman, PRL 120, 145301 (2018), supplement; natural logarithms. ``f_column`` is ours:
the position in the f block, without which neighbors there (La and Ce, Sm and Gd) have equal rows."""


@functools.cache
def element_table() -> dict[int, dict[str, str]]:
    """Return the properties in ``elements.csv`` by atomic number; an unknown value is an empty string."""
    text = importlib.resources.files("crysatom.vectors").joinpath("elements.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {int(row["atomic_number"]): row for row in rows}


def element_features(name: str) -> ElementFeatures:
    """Return the features that ``node_features`` of the configuration names.

    Args:
        name: ``elements``: one-hot bins of ten properties, distinct for each of the 118 elements; ``cgcnn92``:
            CGCNN's 92 bits for Z = 1..100; or the path of a vectors file.

    Raises:
        ValueError: If the file cannot be read, or jarvis-tools, which contains the 92 bits, is not installed.

    """
    if name == ELEMENT_BINS:
        return _binned()
    table = _cgcnn92() if name == CGCNN_BITS else read_vectors(name)
    columns = tuple(f"v{i}" for i in range(table.dim))
    return ElementFeatures(atomic_numbers=table.atomic_numbers, features=table.vectors, columns=columns)


def _binned() -> ElementFeatures:
    rows = [np.concatenate([_one_hot(bins, facts[bins.fact]) for bins in BINS]) for facts in element_table().values()]
    columns = tuple(f"{bins.fact}_{i}" for bins in BINS for i in range(bins.count))
    numbers = np.array(list(element_table()), dtype=np.int64)
    return ElementFeatures(atomic_numbers=numbers, features=np.stack(rows), columns=columns)


def _one_hot(bins: Bins, text: str) -> NDArray[np.float32]:
    block = np.zeros(bins.count, dtype=np.float32)
    if text:
        block[bins.place(str(BLOCKS.index(text)) if bins.fact == "block" else text)] = 1
    return block


def _cgcnn92() -> AtomVectors:
    try:
        folder = importlib.resources.files("jarvis")
    except ModuleNotFoundError as error:
        raise ValueError(
            "CGCNN's 92 bits are read from jarvis-tools, which is not installed: pip install jarvis-tools"
        ) from error
    with importlib.resources.as_file(folder.joinpath("core", "atom_init.json")) as path:
        return read_vectors(path)
