"""What vectors say about elements that they were not shown with: scores, intervals and the chance to reach them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysatom.studies.chemistry.leave_one_out import METHODS, hits, predict_left_out, scores
from crysatom.studies.significance import p_above, relabelings
from crysatom.training.intervals import Interval, bootstrap_mean, bootstrap_r2, wilson
from crysatom.vectors.elements import element_table

Array = NDArray[Any]

NUMBERS = {
    "electronegativity_pauling": ("Electronegativity (Pauling)", ""),
    "covalent_radius_pm": ("Covalent radius", "pm"),
    "valence_electrons": ("Valence electrons", ""),
    "ionization_energy_ev": ("First ionization energy", "eV"),
}
"""Label and unit of each fact of ``elements.csv`` that is predicted as a number."""

GROUP = "group"


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A fact about elements, as far as it is known.

    Attributes:
        name: Column of ``elements.csv``.
        label: Shown to people.
        unit: Empty: none.
        rows: ``(n,)``, which of the elements have it.
        values: ``(n, C)``: the number, or an indicator of each class.

    """

    name: str
    label: str
    unit: str
    rows: Array
    values: Array

    @property
    def metric(self) -> str:
        """Name of the score."""
        return "accuracy" if self.values.shape[1] > 1 else "R2"


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """How well a target was predicted.

    Attributes:
        target: What.
        method: Of :data:`crysatom.studies.chemistry.leave_one_out.METHODS`.
        score: R2 or accuracy, with a 95 % interval over elements, of predictions as they are (not learned anew).
        p: Chance that relabeled elements score as high.
        chance: The score that 95 % of relabelings stay below.
        errors: ``(n,)``: absolute error of each element, or 1 - its hit.
        predictions: ``(n,)`` numbers, or the most likely class of each element.

    """

    target: Target
    method: str
    score: Interval
    p: float
    chance: float
    errors: Array
    predictions: Array

    @property
    def error(self) -> Interval:
        """Mean absolute error, or share of wrong classes, with a 95 % interval over elements."""
        return wilson(self.errors) if self.target.metric == "accuracy" else bootstrap_mean(self.errors)


def targets_of(atomic_numbers: Array) -> list[Target]:
    """Return the facts that are predicted, of the elements that have them.

    The group is a class; elements without one (the f block), or the only one of theirs, are left out: nothing can be
    learned about these from others.
    """
    facts = [element_table()[int(z)] for z in atomic_numbers]
    targets = []
    for name, (label, unit) in NUMBERS.items():
        rows = np.array([i for i, fact in enumerate(facts) if fact[name]], dtype=np.int64)
        values = np.array([[float(facts[i][name])] for i in rows])
        targets.append(Target(name=name, label=label, unit=unit, rows=rows, values=values))
    groups = [fact[GROUP] for fact in facts]
    rows = np.array([i for i, group in enumerate(groups) if group and groups.count(group) > 1], dtype=np.int64)
    classes = classes_of(atomic_numbers[rows])
    indicators = np.array([[float(groups[i] == str(group)) for group in classes] for i in rows])
    return [*targets, Target(name=GROUP, label="Group", unit="", rows=rows, values=indicators)]


def classes_of(atomic_numbers: Array) -> list[int]:
    """Return the groups of these elements, ascending: the columns of the target's indicators."""
    return sorted({int(group) for z in atomic_numbers if (group := element_table()[int(z)][GROUP])})


def probe(vectors: Array, target: Target, method: str, *, draws: int, seed: int, standardize: bool = True) -> Probe:
    """Predict a target from a table's vectors, and from as many tables with the elements' rows shuffled as asked for.

    Args:
        vectors: ``(M, D)``, of all elements that targets were made for.
        target: One of :func:`targets_of`.
        method: Of :data:`crysatom.studies.chemistry.leave_one_out.METHODS`.
        draws: Number of shuffled tables, each treated in all like the real one.
        seed: Of shuffling and bootstrap.
        standardize: Bring each column to variance 1 over the elements not left out.

    Raises:
        ValueError: If too few elements have the fact.

    """
    rows = vectors[target.rows]
    orders = np.vstack([np.arange(len(rows)), relabelings(len(rows), draws, seed)])
    values = target.values[orders].transpose(1, 0, 2)  # whether rows or values are shuffled is the same
    predicted = predict_left_out(rows, values, METHODS[method], standardize=standardize)
    all_scores = scores(values, predicted)
    mine = predicted[:, :1]
    if target.metric == "accuracy":
        errors, predictions = 1 - hits(values[:, :1], mine)[:, 0], mine[:, 0].argmax(axis=1)
        score = wilson(1 - errors)
    else:
        errors, predictions = np.abs(values[:, 0, 0] - mine[:, 0, 0]), mine[:, 0, 0]
        score = bootstrap_r2(values[:, 0, 0], predictions, seed=seed)
    return Probe(
        target=target,
        method=method,
        score=score,
        p=p_above(float(all_scores[0]), all_scores[1:]),
        chance=float(np.quantile(all_scores[1:], 0.95)),
        errors=errors,
        predictions=predictions,
    )
