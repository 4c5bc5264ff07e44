"""What a page about runs is made of, beside the runs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pandas as pd

from crysatom.vectors.table import AtomVectors

History = Sequence[tuple[int, float]]
"""Step, counted from 0, and value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupDetails:
    """What is drawn of a group.

    Attributes:
        predictions: Of the first run, as in predictions.csv; None if it has none.
        histories: By metric, of each run; empty if it has none.
        selected: Step whose model was kept, of each run; None if not known.
        element_errors: As in element_errors.csv, of the runs that have it.

    """

    predictions: pd.DataFrame | None
    histories: Sequence[Mapping[str, History]]
    selected: Sequence[int | None]
    element_errors: Sequence[pd.DataFrame]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyDetails:
    """What is shown of a study.

    Attributes:
        table: As in table.csv; None if it has none.
        figure: As in figure.png; None if it has none.

    """

    table: pd.DataFrame | None
    figure: bytes | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Details:
    """What is drawn, and what could not be; keys are ids of runs, that of a group's first run for a group.

    Attributes:
        groups: Of predictors.
        losses: Of pretrainings, by metric.
        vectors: Of pretrainings.
        probes: Of trials of sweeps.
        studies: Of studies.
        problems: What could not be read, and why.

    """

    groups: Mapping[str, GroupDetails] = field(default_factory=dict)
    losses: Mapping[str, Mapping[str, History]] = field(default_factory=dict)
    vectors: Mapping[str, AtomVectors] = field(default_factory=dict)
    probes: Mapping[str, History] = field(default_factory=dict)
    studies: Mapping[str, StudyDetails] = field(default_factory=dict)
    problems: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class About:
    """Where the page comes from.

    Attributes:
        title: Of the page.
        experiments: Names.
        store: For people, without a password.
        address: Of MLflow's own pages; those of a database after ``command``.
        command: What starts them; empty if they are there.
        made: When.
        version: Of the platform.

    """

    title: str
    experiments: Sequence[str]
    store: str
    address: str
    command: str
    made: datetime
    version: str
