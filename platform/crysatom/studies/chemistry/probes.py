"""Leave-one-out predictions of element properties: scores, intervals and p-values."""

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
"""Label and unit of each numeric property of ``elements.csv`` that is predicted."""

GROUP = "group"


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A property of elements, as far as it is known.

    Attributes:
        name: Column of ``elements.csv``.
        label: Label in tables and figures.
        unit: Unit; empty: none.
        rows: ``(n,)`` indices of the elements with a known value.
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
    """Leave-one-out predictions of a target, and their score.

    Attributes:
        target: The property.
        method: One of :data:`crysatom.studies.chemistry.leave_one_out.METHODS`.
        score: R2 or accuracy, with a 95 % interval over elements for fixed predictions.
        p: Probability that relabeled elements score as high.
        chance: 95 % quantile of the scores of relabelings.
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
    """Return the properties to predict, each with the elements for which it is known.

    The group is a class. Elements without a group (the f block) and the only element of a group are left out: other
    elements contain no information about them.
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
    """Predict a target from a table of vectors, and from copies of it with shuffled rows.

    Args:
        vectors: ``(M, D)``, of all elements that were passed to :func:`targets_of`.
        target: One of :func:`targets_of`.
        method: One of :data:`crysatom.studies.chemistry.leave_one_out.METHODS`.
        draws: Number of shuffled tables, each treated like the real one.
        seed: Seed of shuffling and bootstrap.
        standardize: Scale each column to variance 1 over the elements not left out.

    Raises:
        ValueError: If the property is known for too few elements.

    """
    rows = vectors[target.rows]
    orders = np.vstack([np.arange(len(rows)), relabelings(len(rows), draws, seed)])
    values = target.values[orders].transpose(1, 0, 2)  # shuffling values is the same as shuffling rows
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
