"""The parts of a study: rows, columns, and the source of the vectors of a column."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crysatom.config import GridConfig
from crysatom.names import SSLLoss


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Source of the vectors of a column: one of the first three attributes; with none, the vectors must be given.

    Attributes:
        names: Values for ``--vectors`` of ``jobs/downstream.py``; several are draws, whose errors are averaged.
        pretrain: Settings of the pretraining that makes them, without data and places.
        permuted: Name of the vectors whose rows are permuted between elements.
        missing: Treatment of elements without a vector, see :class:`crysatom.config.DownstreamConfig`.

    """

    names: tuple[str, ...] = ()
    pretrain: Mapping[str, Any] | None = None
    permuted: str = ""
    missing: Literal["error", "ridge"] = "error"

    @builtins.property
    def known(self) -> bool:
        """Whether the vectors are available without being given."""
        return bool(self.names or self.permuted) or self.pretrain is not None


def _ours(**settings: Any) -> Vectors:
    return Vectors(pretrain=settings)


def _ssl(loss: SSLLoss) -> Vectors:
    return _ours(ssl_loss=loss)


VECTORS: dict[str, Vectors] = {
    "ours": _ours(),
    "ours100": _ours(embedding_dim=100),
    "ours50": _ours(embedding_dim=50),
    "vicreg": _ssl("vicreg"),
    "nt_xent": _ssl("nt_xent"),
    "no_ssl": _ssl("none"),
    "permuted": Vectors(permuted="ours"),
    "onehot92": Vectors(names=("onehot92",)),
    "onehot": Vectors(names=("onehot",)),
    "elements": Vectors(names=("elements",)),
    "random": Vectors(names=("random:0", "random:1", "random:2")),
    "skipatom": Vectors(names=("skipatom",), missing="ridge"),
    "atom2vec": Vectors(missing="ridge"),
    "mat2vec": Vectors(names=("mat2vec",), missing="ridge"),
    "official": Vectors(missing="ridge"),
    "skipatom_here": Vectors(missing="ridge"),
    "atom2vec_here": Vectors(missing="ridge"),
}
"""Vectors of all studies, by the names that ``--vectors NAME=PATH`` replaces.

Published tables lack elements of the data. Ridge predicts their vectors, so that every column has the same test
crystals. No package has ``official``, the vectors that the paper's authors published, or ``atom2vec``: they must be
given. So must ``skipatom_here`` and ``atom2vec_here``, which ``jobs/vectors.py`` makes."""

MADE_HERE = {"skipatom_here": "skipatom", "atom2vec_here": "atom2vec"}
"""Vectors that are compared with the published vectors of the same method."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A way to predict: the settings that differ between columns.

    Attributes:
        label: Heading in the table.
        vectors: Name in :data:`VECTORS` or in the study's own vectors.
        predictor: Name of the predictor.
        settings: Further settings of the prediction.
        init: Settings of the pretraining whose encoder the predictor starts from, or None.
        distill: Settings of the pretraining whose encoder the predictor is distilled from, or None.
        baseline: Key of the column that this one is compared with; empty: this is a baseline.
        paper: The paper's error by the key of the row, which is the property unless the row has a label.

    """

    label: str
    vectors: str
    predictor: str = "cgcnn"
    settings: Mapping[str, Any] = field(default_factory=dict)
    init: Mapping[str, Any] | None = None
    distill: Mapping[str, Any] | None = None
    baseline: str = ""
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A task: the settings that differ between rows.

    Attributes:
        property: Name of the property.
        label: Difference from other rows of the property; empty: none.
        settings: Settings of the prediction: a share of the training crystals, or a split.
        share: Share of the training crystals, if the row is a point of a learning curve; else 0.
        folds: Settings of each of several runs, which evaluate different crystals and together all of them.
        start: Key of the row whose run of the same column and seed the runs of this row start from; empty: none.

    """

    property: str
    label: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    share: float = 0.0
    folds: tuple[Mapping[str, Any], ...] = ({},)
    start: str = ""

    @builtins.property
    def key(self) -> str:
        """Name of the row, unique in its study."""
        return f"{self.property} {self.label}".strip()


def rows_by_share(config: GridConfig) -> list[Row]:
    """Return a row per property and share of the training crystals (``--train-fraction``); no share: all crystals."""
    return [
        Row(
            property=name,
            label=f"{100 * share:g}%" if share < 1 else "",
            settings={"train_fraction": share},
        )
        for name in config.properties
        for share in config.train_fraction or (1.0,)
    ]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A study: rows times columns times seeds. A file in ``tables/`` defines one by its function ``grid()``.

    Attributes:
        title: Title of the table.
        columns: Columns by key.
        properties: Default of ``--properties``.
        note: Remark on the comparison with the paper; empty: none.
        vectors: The study's own vectors by name, beside :data:`VECTORS`.
        rows: Returns the rows for a configuration whose ``properties`` are not empty, those of a property together.
            It uses ``train_fraction``, or raises ValueError if that is given.
        held_out: Whether ``rows`` uses ``held_out``; other studies refuse ``--held-out``.
        measured: Whether the study needs ``--measured``, values of one property; other studies refuse that flag.
        one_property: Whether the study is of one property at a time.
        costs: For a table of costs instead of errors: the paper's costs by column and by field of
            :class:`crysatom.studies.grid.costs.Cost`. None: a table of errors.

    """

    title: str
    columns: Mapping[str, Column]
    properties: tuple[str, ...]
    note: str = ""
    vectors: Mapping[str, Vectors] = field(default_factory=dict)
    rows: Callable[[GridConfig], list[Row]] = rows_by_share
    held_out: bool = False
    measured: bool = False
    one_property: bool = False
    costs: Mapping[str, Mapping[str, float]] | None = None
