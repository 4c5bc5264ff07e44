"""Numbers of the chemistry study: leave-one-out predictions, silhouettes, tests of the paper's statements."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crysatom.names import DISTANCES, SYMBOLS, VectorScale
from crysatom.studies.chemistry.leave_one_out import METHODS
from crysatom.studies.chemistry.probes import GROUP, Probe, Target, classes_of, probe, targets_of
from crysatom.studies.chemistry.silhouettes import silhouette
from crysatom.studies.chemistry.statements import NOT_TESTED, STATEMENTS, Finding, examine, verdicts
from crysatom.studies.significance import p_above, relabelings
from crysatom.training.intervals import bootstrap_mean
from crysatom.vectors.elements import element_table
from crysatom.vectors.geometry import distances, principal_components
from crysatom.vectors.scale import scaled
from crysatom.vectors.table import AtomVectors

logger = logging.getLogger(__name__)

Array = NDArray[Any]

CLASSES = (GROUP, "block")
SPACES = (*DISTANCES, "components 1-2", "components 3-4")


@dataclass(frozen=True, kw_only=True, eq=False)
class Chemistry:
    """Results of the study.

    Attributes:
        tables: Vectors by table, scaled, of the common elements only.
        left_out: Elements of each table that another table lacks.
        probes: Scores of leave-one-out predictions: one row per table, property and method.
        predictions: Predictions: one row per table, property, method and element.
        silhouettes: One row per table, classification and space.
        statements: One row per table, statement and distance.

    """

    tables: Mapping[str, AtomVectors]
    left_out: Mapping[str, tuple[str, ...]]
    probes: pd.DataFrame
    predictions: pd.DataFrame
    silhouettes: pd.DataFrame
    statements: pd.DataFrame

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols of the common elements."""
        return next(iter(self.tables.values())).symbols


def study(
    tables: Mapping[str, AtomVectors], *, scale: VectorScale, draws: int, probe_draws: int, seed: int
) -> Chemistry:
    """Compare tables on their common elements; the first table is the reference.

    Args:
        tables: Vectors by name.
        scale: Scaling of the vectors before distances are computed. With ``standardize``, predictions standardize too,
            without the element left out.
        draws: Relabelings for the p-values of silhouettes and statements.
        probe_draws: Relabelings for the p-values of predictions.
        seed: Seed of relabelings and bootstrap.

    Raises:
        ValueError: If the tables share too few elements, or all rows of a table are equal.

    """
    common, left_out = on_common_elements(tables)
    targets = targets_of(next(iter(common.values())).atomic_numbers)
    probes = {}
    for name, table in common.items():
        logger.info(
            "%s: %d elements, %d dimensions: leave-one-out predictions ...", name, len(table.symbols), table.dim
        )
        probes[name] = [
            probe(table.vectors, target, method, draws=probe_draws, seed=seed, standardize=scale == "standardize")
            for target in targets
            for method in METHODS
        ]
    shown = {name: scaled(table, scale) for name, table in common.items()}
    return Chemistry(
        tables=shown,
        left_out=left_out,
        probes=pd.DataFrame([row for name in probes for row in _probe_rows(name, probes)]),
        predictions=pd.concat([_predictions(name, found, common[name]) for name, found in probes.items()]),
        silhouettes=pd.DataFrame(
            [row for name, table in shown.items() for row in _silhouettes(name, table, draws, seed)]
        ),
        statements=pd.DataFrame(
            [row for name, table in shown.items() for row in _statements(name, table, draws, seed)]
        ),
    )


def on_common_elements(
    tables: Mapping[str, AtomVectors],
) -> tuple[dict[str, AtomVectors], dict[str, tuple[str, ...]]]:
    """Return the tables restricted to their common elements, and the symbols left out of each.

    Raises:
        ValueError: If they share no element.

    """
    numbers = functools.reduce(np.intersect1d, [table.atomic_numbers for table in tables.values()])
    if not len(numbers):
        raise ValueError(f"no element has a vector in all of the tables {', '.join(tables)}")
    common = {
        name: AtomVectors(atomic_numbers=numbers, vectors=table.lookup(numbers), provenance=table.provenance)
        for name, table in tables.items()
    }
    left_out = {
        name: tuple(SYMBOLS[z - 1] for z in np.setdiff1d(table.atomic_numbers, numbers))
        for name, table in tables.items()
    }
    return common, left_out


def _probe_rows(name: str, probes: Mapping[str, list[Probe]]) -> list[dict[str, Any]]:
    rows = []
    for mine, reference in zip(probes[name], next(iter(probes.values())), strict=True):
        difference = bootstrap_mean(mine.errors - reference.errors, symmetric=True)
        rows.append(
            {
                "table": name,
                "property": mine.target.name,
                "unit": mine.target.unit,
                "method": mine.method,
                "elements": len(mine.errors),
                "metric": mine.target.metric,
                **_spread("score", mine.score),
                "chance_95": mine.chance,
                "p": mine.p,
                **_spread("error", mine.error),
                **_spread("error_difference", difference),
            }
        )
    return rows


def _spread(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _predictions(name: str, probes: list[Probe], table: AtomVectors) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame(
            {
                "table": name,
                "property": found.target.name,
                "method": found.method,
                "element": [table.symbols[i] for i in found.target.rows],
                "known": _as_shown(found.target, found.target.values, table),
                "predicted": _as_shown(found.target, found.predictions, table),
            }
        )
        for found in probes
    )


def _as_shown(target: Target, values: Array, table: AtomVectors) -> Array:
    """Return ``(n,)`` numbers; classes, given as indices or indicators, become groups."""
    if target.metric != "accuracy":
        return values.reshape(-1)
    groups = np.array(classes_of(table.atomic_numbers[target.rows]), dtype=np.float64)
    return np.asarray(groups[values.argmax(axis=1) if values.ndim == 2 else values.astype(np.int64)])


def _spaces(table: AtomVectors) -> dict[str, Array]:
    """Return the distances in each of :data:`SPACES` for which the table has enough components."""
    found: dict[str, Array] = {kind: distances(table.vectors, kind) for kind in DISTANCES}
    components, _ = principal_components(table.vectors, 4)
    for space, part in zip(SPACES[2:], (components[:, :2], components[:, 2:]), strict=True):
        if part.shape[1] == 2:
            found[space] = distances(part, "euclidean")
    return found


def _silhouettes(name: str, table: AtomVectors, draws: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    for by in CLASSES:
        facts = [element_table()[int(z)][by] for z in table.atomic_numbers]
        known = np.array([i for i, fact in enumerate(facts) if fact])
        _, labels = np.unique([facts[i] for i in known], return_inverse=True)
        orders = np.vstack([np.arange(len(known)), relabelings(len(known), draws, seed)])
        for space, distance in _spaces(table).items():
            values = silhouette(distance[np.ix_(known, known)], labels[orders])
            rows.append(
                {
                    "table": name,
                    "classes": by,
                    "space": space,
                    "elements": len(known),
                    "silhouette": float(values[0]),
                    "chance_95": float(np.quantile(values[1:], 0.95)),
                    "p": p_above(float(values[0]), values[1:]),
                }
            )
    return rows


def _statements(name: str, table: AtomVectors, draws: int, seed: int) -> list[dict[str, Any]]:
    orders = relabelings(len(table.symbols), draws, seed)
    findings: dict[str, list[Finding | None]] = {}
    for kind in DISTANCES:
        distance = distances(table.vectors, kind)
        findings[kind] = [examine(statement, table.symbols, distance, orders) for statement in STATEMENTS]
    verdict, adjusted = verdicts(findings)
    return [
        {
            "table": name,
            "statement": statement.text,
            "source": statement.source,
            "distance": kind,
            **_finding(findings[kind][i]),
            "p_holm": adjusted[kind][i],
            "verdict": verdict[i],
        }
        for i, statement in enumerate(STATEMENTS)
        for kind in DISTANCES
    ]


def _finding(finding: Finding | None) -> dict[str, Any]:
    if finding is None:
        return {"note": NOT_TESTED}
    facts = dataclasses.asdict(finding)
    return {
        **{name: facts[name] for name in ("contrast", "at_most", "at_least", "sets", "exact")},
        "p": finding.p,
        "leans": "for" if finding.for_it else "against",
        "note": f"without {' '.join(finding.missing)}" if finding.missing else "",
    }
