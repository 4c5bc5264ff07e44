"""What studies are made of: rows, columns, and where the vectors of a column come from."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crysatom.config import GridConfig
from crysatom.names import SSLLoss


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Where the vectors of a column come from: one of the first three, or nowhere, unless they are given.

    Attributes:
        names: As ``--vectors`` of ``jobs/downstream.py`` takes them; several are draws, whose errors are averaged.
        pretrain: Settings of the pretraining that yields them, beside data and places.
        permuted: Name of the vectors whose rows are handed from element to element.
        missing: What to do about elements without a vector, see :class:`crysatom.config.DownstreamConfig`.

    """

    names: tuple[str, ...] = ()
    pretrain: Mapping[str, Any] | None = None
    permuted: str = ""
    missing: Literal["error", "ridge"] = "error"

    @builtins.property
    def known(self) -> bool:
        """Whether they can be had without being given."""
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
"""By the names that ``--vectors NAME=PATH`` replaces. Published tables lack elements that the data hold, which are
predicted from the others by ridge so that every column has the same test crystals. ``official``, the vectors that the
paper's authors published, and those of Atom2Vec are in no package: they have to be given. So have those of
``jobs/vectors.py``, ``skipatom_here`` and ``atom2vec_here``."""

MADE_HERE = {"skipatom_here": "skipatom", "atom2vec_here": "atom2vec"}
"""Columns that are held against the published vectors of the same method."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A way to predict: what differs from column to column.

    Attributes:
        label: As the table shows it.
        vectors: Name in :data:`VECTORS`.
        predictor: By its name.
        settings: Further settings of the prediction.
        init: Settings of the pretraining whose encoder the predictor starts from, or None.
        distill: Likewise, of the encoder that it is distilled by.
        baseline: Key of the column that it is compared with; empty: it is a baseline.
        paper: The paper's figure by property; where the paper has rows of one property, by key of the row.

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
    """What is predicted: what differs from row to row.

    Attributes:
        property: By its name.
        label: What sets it apart from other rows of the property; empty: nothing.
        settings: Of the prediction: a share of the training crystals, or a split.
        share: That share, where rows are points of a learning curve; 0: they are not.
        folds: Settings of each of several runs that judge other crystals, and together all of them.
        start: Key of the row whose run of the same column and seed the runs of this one start from; empty: none.

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
        title: What the table shows.
        columns: By key.
        properties: Of the rows, unless others are asked for.
        note: What a reader has to know about the comparison with the paper; empty: nothing further.
        vectors: The study's own vectors by name, beside :data:`VECTORS`.
        rows: Called with the configuration, whose ``properties`` are never empty; returns the rows, those of a property
            together. It heeds ``train_fraction``, or raises ValueError.
        held_out: Whether the rows heed ``--held-out``; other studies refuse that flag.
        measured: Whether the study needs ``--measured``; other studies refuse that flag. Measured values are of one
            property.
        one_property: Whether ``--properties`` may name only one.
        costs: The table shows what runs cost, not how they err: the paper's figures by column and field of
            :class:`crysatom.studies.grid.costs.Cost`. None: the table shows errors.

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
