"""Saved models on new crystals: each crystal is checked, turned into a graph and predicted, or rejected with a reason.

Shapes: B crystals, M models. In evaluation mode a prediction does not depend on the other crystals of the batch, so
crystals can be batched in any way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_geometric.data import Batch

from crysatom.config import GraphSpec, Limits
from crysatom.crystals.examine import examine_batch
from crysatom.crystals.quarantine import Reason, Rejected, Rejection
from crysatom.crystals.table import GRAPH_COLUMNS
from crysatom.graphs.batch import collate
from crysatom.graphs.checks import Verdicts
from crysatom.graphs.columns import list_lengths
from crysatom.graphs.shard_task import make_graphs
from crysatom.models.files import MODEL_JSON, load_model, precision_of
from crysatom.models.ranges import RANGED, Ranges, flag_texts, lonely, outside
from crysatom.names import (
    ALL_FLAGS,
    ATOMIC_NUMBERS,
    DETAIL,
    DISTANCE,
    FLAGS,
    FLOAT32,
    MATERIAL_ID,
    MAX_ATOMIC_NUMBER,
    NOTE,
    POTENTIAL,
    PREDICTION,
    REASON,
    SOURCE,
    SYMBOLS,
    UNKNOWN_TRAINING,
    UNTRAINED_ELEMENT,
    UNTRAINED_ELEMENTS,
    VECTOR,
    Precision,
)
from crysatom.nn.products import products_in
from crysatom.predictors.published_cgcnn import GRAPH, PublishedCGCNN, read_published
from crysatom.training.machine import flushed_denormals
from crysatom.training.regression import Regression
from crysatom.vectors.published import cgcnn_bits

Array = NDArray[Any]

MODEL_FOLDER = "model"
"""Where the folder of a run, and an MLflow run, has its model."""

CHECKPOINT = ".pth.tar"
"""Suffix of checkpoints of CGCNN's code."""

EDGES_PER_BATCH = 100_000
"""Bounds memory: about 50 MB for each tensor of a convolution of width 64."""

EDGES_PER_ATOM = 16
"""Approximate number of pairs of bonds per edge, for predictors that read such pairs."""

PREDICTED_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in (MATERIAL_ID, SOURCE, REASON, DETAIL, NOTE)),
        pa.field(PREDICTION, pa.list_(pa.float64()), metadata={"layout": "one number for each model"}),
        pa.field(UNTRAINED_ELEMENTS, pa.string()),
        pa.field(FLAGS, pa.string()),
    ]
)
"""One row per crystal: predictions, elements and flags if it was predicted, reason and detail if it was not."""


class PublishedModel(nn.Module):
    """A checkpoint of CGCNN's code with the element features that it was trained with.

    Args:
        published: The checkpoint.

    """

    def __init__(self, published: PublishedCGCNN) -> None:
        super().__init__()
        self.published = published
        self.predictor = published.build(cgcnn_bits())

    def predict(self, batch: Batch) -> Tensor:
        """Return the prediction of CGCNN's code, ``(B,)`` float64."""
        return self.published.values(self.predictor(batch)).double()


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedModel:
    """A model, and what is needed to use it.

    Attributes:
        name: Name as the user wrote it.
        property: Predicted property; for a checkpoint that does not name it, the name of the file.
        names_property: Whether the model itself names the property.
        unit: Unit of the prediction; empty if unknown.
        graph: How a crystal becomes a graph.
        elements: Atomic numbers of the elements that have a vector.
        trained: Atomic numbers of the elements that the training crystals contain; None if not recorded.
        ranges: Ranges of the training crystals; empty if not recorded.
        module: The network in evaluation mode.
        precision: Precision of the matrix products of layers.

    """

    name: str
    property: str
    unit: str
    graph: GraphSpec
    elements: frozenset[int]
    trained: frozenset[int] | None
    module: Regression | PublishedModel
    names_property: bool = True
    ranges: Ranges = field(default_factory=dict)
    precision: Precision = FLOAT32

    def records_training(self) -> bool:
        """Return whether the elements and all ranges of the training crystals are recorded."""
        return self.trained is not None and self.ranges.keys() >= RANGED


def open_model(path: str | Path, name: str = "") -> SavedModel:
    """Read a model without running code from its files.

    Args:
        path: Folder of a saved model, or of a run with one in ``model``; or a ``.pth.tar`` of CGCNN's code.
        name: Name for messages; empty: the path.

    Raises:
        ValueError: If there is no model, or it is damaged.

    """
    path, name = Path(path), name or str(path)
    if path.is_file() and path.name.endswith(CHECKPOINT):
        return _published(path, name)
    module, info = load_model(model_folder(path))
    return SavedModel(
        name=name,
        property=info.property,
        unit=info.unit,
        graph=info.graph,
        elements=_numbers(info.elements),
        trained=_numbers(info.trained_elements),
        ranges=info.trained_ranges,
        module=module,
        precision=precision_of(info),
    )


def model_folder(path: Path) -> Path:
    """Return the folder of a saved model: ``model`` in the folder of a run, or the folder itself."""
    inner = path / MODEL_FOLDER
    return inner if (inner / MODEL_JSON).is_file() else path


def _numbers(symbols: Iterable[str]) -> frozenset[int]:
    return frozenset(SYMBOLS.index(symbol) + 1 for symbol in symbols)


def _published(path: Path, name: str) -> SavedModel:
    published = read_published(path)
    if published.num_features != (known := cgcnn_bits().dim):
        raise ValueError(
            f"{name} reads {published.num_features} features per element; only models that were trained with the "
            f"atom_init.json of CGCNN's authors, which has {known}, can predict here"
        )
    return SavedModel(
        name=name,
        property=published.target or path.name.removesuffix(CHECKPOINT),
        names_property=bool(published.target),
        unit=published.unit,
        graph=GRAPH,
        elements=frozenset(cgcnn_bits().atomic_numbers.tolist()),
        trained=None,
        module=PublishedModel(published),
    )


@dataclass(frozen=True)
class Ensemble:
    """Models of one property that predict the same crystals; a single model counts too.

    Attributes:
        models: At least one.
        limits: Limits that a crystal must meet.

    Raises:
        ValueError: If the models predict different properties or units, if one does not name its property, or if two
            are the same.

    """

    models: tuple[SavedModel, ...]
    limits: Limits

    def __post_init__(self) -> None:
        assert self.models, "an ensemble of nothing"
        if len({(model.property, model.unit) for model in self.models}) > 1:
            what = ", ".join(f"{m.name} {m.property} ({m.unit or 'unit not known'})" for m in self.models)
            raise ValueError(
                f"the models of an ensemble must predict one property in one unit, and these predict: {what}; "
                "run them one at a time"
            )
        if len(self.models) > 1 and (silent := ", ".join(m.name for m in self.models if not m.names_property)):
            raise ValueError(
                "the models of an ensemble must predict one property, and these files do not name theirs: "
                f"{silent}; run them one at a time"
            )
        for one, other in itertools.combinations(self.models, 2):
            if _same(one, other):
                raise ValueError(
                    f"{one.name} and {other.name} are the same model, which would make the spread too small; "
                    "give each model once"
                )

    def to(self, device: str) -> Ensemble:
        """Move the models to a device; return self."""
        for model in self.models:
            model.module.to(device)
        return self

    def predict_records(self, batch: pa.Table) -> pa.Table:
        """Parse, check and predict raw records; return one row of :data:`PREDICTED_SCHEMA` for each, in order."""
        return self.predict(examine_batch(batch, self.limits))

    def predict(self, examined: pa.Table) -> pa.Table:
        """Predict the accepted rows of :func:`~crysatom.crystals.examine.examine_batch`; return one row per row."""
        columns = {name: examined[name].to_pylist() for name in (MATERIAL_ID, SOURCE, REASON, DETAIL, NOTE)}
        rows = np.flatnonzero([reason is None for reason in columns[REASON]])
        crystals = examined.take(pa.array(rows)).select(GRAPH_COLUMNS)
        values, raised, verdicts = self._predict(crystals)
        untrained, flags = self._untrained(crystals), flag_texts(raised, len(crystals))
        predicted: dict[str, list[Any]] = {
            name: [None] * len(examined) for name in (PREDICTION, UNTRAINED_ELEMENTS, FLAGS)
        }
        for k, row in enumerate(rows.tolist()):
            if k not in verdicts.reasons:
                predicted[PREDICTION][row] = values[k].tolist()
                predicted[UNTRAINED_ELEMENTS][row], predicted[FLAGS][row] = untrained[k], flags[k]
                continue
            reason, message = verdicts.reasons[k]
            identity, source = columns[MATERIAL_ID][row], columns[SOURCE][row]
            rejected = Rejected.because(Rejection(reason, message), material_id=identity, source=source)
            columns[REASON][row], columns[DETAIL][row] = rejected.reason, rejected.detail
        return pa.table({**columns, **predicted}, schema=PREDICTED_SCHEMA)

    def _predict(self, crystals: pa.Table) -> tuple[Array, dict[str, Array], Verdicts]:
        """Return predictions ``(B, M)``, the crystals that have each flag, and verdicts on B well-formed crystals."""
        values = np.full((len(crystals), len(self.models)), np.nan)
        verdicts = Verdicts(num_crystals=len(crystals))
        for model in self.models:
            _reject_without_vector(model, _held(crystals), verdicts)
        raised = self._unlike_training(crystals)
        rows = verdicts.accepted
        if len(rows):
            [batch] = crystals.take(pa.array(rows)).combine_chunks().to_batches()
            for graph in dict.fromkeys(model.graph for model in self.models):
                found, graphs = make_graphs(batch, graph, self.limits)
                verdicts.include(found, rows)
                for flag, is_raised in lonely(graphs, graph).items():
                    raised[flag][rows[found.accepted]] |= is_raised
                for k, model in enumerate(self.models):
                    if model.graph == graph:
                        values[rows[found.accepted], k] = _values(model, graphs)
            _reject_infinite(self.models, values, verdicts)
        return values, raised, verdicts

    def _unlike_training(self, crystals: pa.Table) -> dict[str, Array]:
        """Return ``(B,)`` bool for each flag that needs no graphs: which crystals have it, by any of the models."""
        raised = {flag: np.zeros(len(crystals), dtype=bool) for flag in ALL_FLAGS}
        raised[UNTRAINED_ELEMENT] |= np.array([bool(symbols) for symbols in self._untrained(crystals)], dtype=bool)
        for model in self.models:
            raised[UNKNOWN_TRAINING] |= not model.records_training()
            for flag, is_raised in outside(crystals, model.ranges).items():
                raised[flag] |= is_raised
        return raised

    def _untrained(self, crystals: pa.Table) -> list[str]:
        """Return the elements of each crystal that at least one of the models was not trained on."""
        trained = [model.trained for model in self.models if model.trained is not None]
        by_all = frozenset.intersection(frozenset(range(MAX_ATOMIC_NUMBER + 1)), *trained)
        return [_symbols(elements - by_all) for elements in _held(crystals)]


def _held(crystals: pa.Table) -> list[frozenset[int]]:
    return [frozenset(numbers) for numbers in crystals[ATOMIC_NUMBERS].to_pylist()]


def _same(one: SavedModel, other: SavedModel) -> bool:
    """Return whether two models have the same weights and graph settings."""
    states = (one.module.state_dict(), other.module.state_dict())
    return (
        one.graph == other.graph
        and states[0].keys() == states[1].keys()
        and all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    )


def _reject_without_vector(model: SavedModel, held: list[frozenset[int]], verdicts: Verdicts) -> None:
    missing = [_symbols(elements - model.elements) for elements in held]
    rows = np.flatnonzero([bool(symbols) for symbols in missing])
    details = [
        f"{model.name} has no vector for {missing[row]}; leave the crystal out, or use a model trained with vectors "
        "that cover its elements"
        for row in rows
    ]
    verdicts.reject(rows, Reason.NO_VECTOR, details)


def _reject_infinite(models: Sequence[SavedModel], values: Array, verdicts: Verdicts) -> None:
    rows = np.intersect1d(verdicts.accepted, np.flatnonzero(~np.isfinite(values).all(axis=1)))
    details = [
        f"{models[k].name} predicts {values[row, k]}; check the crystal, then the weights of the model"
        for row in rows
        for k in np.flatnonzero(~np.isfinite(values[row]))[:1]
    ]
    verdicts.reject(rows, Reason.NOT_FINITE, details)


def _symbols(atomic_numbers: Iterable[int]) -> str:
    return " ".join(SYMBOLS[z - 1] for z in sorted(atomic_numbers))


@torch.inference_mode()
def _values(model: SavedModel, graphs: pa.RecordBatch) -> Array:
    """Return the predictions of B graphs, ``(B,)`` float64."""
    device = next(model.module.parameters()).device
    with flushed_denormals(), products_in(model.precision):
        pieces = [model.module.predict(collate(piece).to(device)).cpu().numpy() for piece in _pieces(graphs)]
    return np.concatenate([np.zeros(0), *pieces])


def _pieces(graphs: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut graphs into runs of about :data:`EDGES_PER_BATCH` edges."""
    edges = list_lengths(graphs[DISTANCE])
    if VECTOR in graphs.schema.names:
        edges = edges * EDGES_PER_ATOM
    if POTENTIAL in graphs.schema.names:
        edges = edges + list_lengths(graphs[POTENTIAL])
    piece = (np.cumsum(edges) - edges) // EDGES_PER_BATCH
    starts = np.flatnonzero(np.diff(piece, prepend=-1)).tolist()
    for start, stop in itertools.pairwise([*starts, len(edges)]):
        yield graphs.slice(start, stop - start)
