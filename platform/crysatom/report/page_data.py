"""Data of the page that are read from artifacts and metric histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pandas as pd

from crysatom.vectors.table import AtomVectors

History = Sequence[tuple[int, float]]
"""Pairs of step (from 0) and value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupDetails:
    """Data of the figures of a group.

    Attributes:
        predictions: ``predictions.csv`` of the first run; None if it has none.
        histories: Histories by metric, for each run; empty if it has none.
        selected: Step of the model that was kept, for each run; None if unknown.
        element_errors: ``element_errors.csv`` of the runs that have it.

    """

    predictions: pd.DataFrame | None
    histories: Sequence[Mapping[str, History]]
    selected: Sequence[int | None]
    element_errors: Sequence[pd.DataFrame]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyDetails:
    """Table and figure of a study.

    Attributes:
        table: Content of ``table.csv``; None if it has none.
        figure: Content of ``figure.png``; None if it has none.

    """

    table: pd.DataFrame | None
    figure: bytes | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Details:
    """Everything that is drawn, by run id (of a group: the id of its first run), and what could not be read.

    Attributes:
        groups: Groups of trained predictors.
        losses: Losses of pretrainings, by metric.
        vectors: Vectors of pretrainings.
        probes: Objectives of trials.
        studies: Tables and figures of studies.
        problems: Messages about artifacts that could not be read.

    """

    groups: Mapping[str, GroupDetails] = field(default_factory=dict)
    losses: Mapping[str, Mapping[str, History]] = field(default_factory=dict)
    vectors: Mapping[str, AtomVectors] = field(default_factory=dict)
    probes: Mapping[str, History] = field(default_factory=dict)
    studies: Mapping[str, StudyDetails] = field(default_factory=dict)
    problems: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class About:
    """Origin of the page.

    Attributes:
        title: Title of the page.
        experiments: Names of the experiments.
        store: MLflow store, without a password.
        address: URL of MLflow's user interface.
        command: Command that serves a database at ``address``; empty if the store is a server.
        made: Time at which the page was made.
        version: Version of the platform.

    """

    title: str
    experiments: Sequence[str]
    store: str
    address: str
    command: str
    made: datetime
    version: str
