"""Elements without a vector: report the crystals that contain them, or predict the vectors; never zeros."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysatom.names import ELEMENT_BINS, SYMBOLS
from crysatom.vectors.elements import element_features
from crysatom.vectors.scale import column_spread
from crysatom.vectors.table import AtomVectors, element_name

NAMED_CRYSTALS = 5
PENALTIES = np.logspace(-3, 3, 25)
"""Ridge penalties that are tried, in units of the mean squared singular value of the features."""


def require_elements(
    table: AtomVectors,
    *,
    atomic_numbers: NDArray[np.integer],
    atom_ptr: NDArray[np.integer],
    material_ids: Sequence[str] | NDArray[np.str_],
) -> None:
    """Check that every atom of B crystals has a vector.

    Args:
        table: Vectors.
        atomic_numbers: ``(N,)``, atoms of all crystals, crystal after crystal.
        atom_ptr: ``(B + 1,)``, first atom of each crystal; the last entry is N.
        material_ids: B ids.

    Raises:
        ValueError: With each element without a vector, the number of crystals that contain it and the first five.

    """
    assert len(atom_ptr) == len(material_ids) + 1, "one more offset than crystals"
    assert atom_ptr[-1] == len(atomic_numbers), "the last offset is the number of atoms"
    atoms = np.flatnonzero(~np.isin(atomic_numbers, table.atomic_numbers))
    if not len(atoms):
        return
    crystals = np.searchsorted(atom_ptr, atoms, side="right") - 1
    elements, crystals = np.unique(np.stack([atomic_numbers[atoms], crystals]), axis=1)
    first = np.unique(elements, return_index=True)[1]
    lines = [
        f"  {element_name(z)} in {_crystals([material_ids[i] for i in held])}"
        for z, held in zip(elements[first], np.split(crystals, first[1:]), strict=True)
    ]
    raise ValueError(
        "\n".join(["no vector for elements of the data:", *lines])
        + "\nleave these crystals out, choose vectors that cover them, or have the missing ones predicted (ridge)"
    )


def fill_missing(table: AtomVectors, elements: ArrayLike) -> AtomVectors:
    """Return a table that also has the given elements, with vectors predicted from those of the others.

    Ridge regression from element features (group, period, radius, ...; ``element_features("elements")``) to all
    components, with the penalty of the lowest leave-one-element-out error. Components have equal weight, whatever
    their units, so the choice is the same for a table and its scaled copy.

    Args:
        table: M elements, D dimensions.
        elements: Atomic numbers, any shape, repeats allowed.

    Returns:
        The table itself if it has all elements. Otherwise a table in which predicted elements have 0 sites and NaN
        standard errors. In its provenance, ``filled`` lists their symbols, and ``ridge`` has the penalty and the
        leave-one-out ``error`` relative to predicting the mean of all other elements: near 1, the prediction is a
        guess.

    Raises:
        ValueError: If an element is unknown, or fewer than two have vectors.

    """
    missing = np.setdiff1d(np.asarray(elements, dtype=np.int64), table.atomic_numbers)
    if not len(missing):
        return table
    if len(table.atomic_numbers) < 2:
        raise ValueError(f"cannot predict vectors from a single element ({table.symbols[0]}): take a larger table")
    features = element_features(ELEMENT_BINS)
    ridge = _Ridge.fit(features.lookup(table.atomic_numbers), table.vectors)
    predicted = ridge.predict(features.lookup(missing)).astype(np.float32)
    numbers = np.append(table.atomic_numbers, missing)
    vectors = np.concatenate([table.vectors, predicted])
    counts, errors = table.site_counts, table.standard_errors
    if counts is not None:
        counts = np.append(counts, np.zeros_like(missing))
    if errors is not None:
        errors = np.concatenate([errors, np.full_like(predicted, np.nan)])
    order = np.argsort(numbers)
    filled = {*table.provenance.get("filled", ()), *(SYMBOLS[z - 1] for z in missing)}
    return AtomVectors(
        atomic_numbers=numbers[order],
        vectors=vectors[order],
        site_counts=None if counts is None else counts[order],
        standard_errors=None if errors is None else errors[order],
        provenance={
            **table.provenance,
            "filled": sorted(filled, key=SYMBOLS.index),
            "ridge": {"penalty": ridge.penalty, "error": ridge.error},
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Ridge:
    """Linear map from F features to D components, with an intercept that is not penalized.

    Attributes:
        x_mean: ``(F,)``.
        y_mean: ``(D,)``.
        weights: ``(F, D)``.
        penalty: In units of the mean squared singular value of the centered features.
        error: Root mean square leave-one-out error over rows and components, relative to predicting the mean of all
            other rows.

    """

    x_mean: NDArray[np.float64]
    y_mean: NDArray[np.float64]
    weights: NDArray[np.float64]
    penalty: float
    error: float

    @classmethod
    def fit(cls, x: NDArray[np.floating], y: NDArray[np.floating]) -> _Ridge:
        """Fit ``(M, F)`` to ``(M, D)`` with the best of :data:`PENALTIES`.

        The leave-one-out error of a row is e / (1 - h), with its residual e and its leverage h in the full fit
        (Golub, Heath, Wahba, Technometrics 21, 215 (1979)): one decomposition suffices for all rows and penalties.
        """
        x_mean, y_mean = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
        u, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
        unit, target = np.mean(s**2), (y - y_mean) / column_spread(y)
        rotated = u.T @ target

        def left_out(penalty: float) -> float:
            shrink = s**2 / (s**2 + penalty * unit)
            residual = target - u @ (shrink[:, None] * rotated)
            leverage = 1 / len(x) + u**2 @ shrink
            return float(np.sqrt(np.mean((residual / (1 - leverage)[:, None]) ** 2)))

        error, penalty = min((left_out(penalty), float(penalty)) for penalty in PENALTIES)
        weights = vt.T @ ((s / (s**2 + penalty * unit))[:, None] * (u.T @ (y - y_mean)))
        # the error of the mean of all other rows is M / (M - 1) standard deviations
        error *= (len(x) - 1) / len(x)
        return cls(x_mean=x_mean, y_mean=y_mean, weights=weights, penalty=penalty, error=error)

    def predict(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return predictions ``(K, D)`` for features ``(K, F)``."""
        return np.asarray(self.y_mean + (x - self.x_mean) @ self.weights)


def _crystals(ids: list[str]) -> str:
    named = ", ".join(ids[:NAMED_CRYSTALS]) + (", ..." if len(ids) > NAMED_CRYSTALS else "")
    return f"{len(ids)} crystal{'s' if len(ids) > 1 else ''}: {named}"
