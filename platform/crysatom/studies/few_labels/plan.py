"""Plan the cells of the study: tables, properties, pools, draws, and the digest that identifies each cell."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crysatom.config import DownstreamConfig, FewLabelsConfig, GraphSpec, digest
from crysatom.config import downstream as predictions
from crysatom.config.few_labels import COMPOSITION, Table
from crysatom.crystals import splits
from crysatom.crystals.derived_columns import COMPUTED_COLUMNS
from crysatom.crystals.table import read_table
from crysatom.crystals.targets import Targets, first_rows, targets_for
from crysatom.graphs.shards import load_atoms, read_manifest
from crysatom.inputs.graphs import crystal_table, prepare
from crysatom.inputs.labels import given_table
from crysatom.names import AUTO, PROPERTIES, SYMBOLS, TEST, TRAIN, VAL, VOLUME_PER_ATOM
from crysatom.predictors.registry import build_predictor
from crysatom.runs.paths import Paths
from crysatom.studies.few_labels.cells import Cell
from crysatom.studies.few_labels.composition import MOST_LABELS
from crysatom.studies.few_labels.pools import Draw, Pools, Wanted, by_hash, draws_of, elements_held_out, of_official
from crysatom.studies.few_labels.training import Sample, Trained, Work, element_counts
from crysatom.training.regression import spec_of
from crysatom.vectors import spectrum_choice
from crysatom.vectors.controls import one_hot
from crysatom.vectors.coverage import fill_missing
from crysatom.vectors.published import published_names
from crysatom.vectors.table import AtomVectors

logger = logging.getLogger(__name__)

Array = NDArray[Any]

DRAW = "{draw}"
"""What a table's name contains if it is another table in each draw."""


@dataclass(frozen=True, kw_only=True)
class GivenTable:
    """A table as it is read in one draw.

    Attributes:
        vectors: The table; it covers the data if missing elements are predicted.
        known: Atomic numbers that it had before.
        sha256: Digest of its components.

    """

    vectors: AtomVectors
    known: Array
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A cell to train: the work, what is known of it before, and its expected cost in crystals read."""

    work: Work
    facts: Mapping[str, Any]
    cost: int

    def finished(self, trained: Trained) -> Cell:
        """Return the line of the cell for ``cells.csv``."""
        return Cell(
            **self.facts,
            mae=float(trained.errors.mean(dtype=np.float64)),
            val_mae=trained.val_mae,
            epochs=trained.epochs,
            selected_epoch=trained.selected_epoch,
            seconds=round(trained.seconds, 2),
            power=trained.power,
        )


class Plan:
    """The data and tables of a study.

    Args:
        config: Configuration of the study.
        paths: Paths of the job.

    Raises:
        ValueError: If data or flags cannot be used.

    """

    def __init__(self, config: FewLabelsConfig, paths: Paths) -> None:
        self.config, self.paths = config, paths
        self.configs = {name: self._config(name) for name in config.predictors}
        self.tables = {table.name: self._table(table) for table in config.tables}
        base = predictions.default()
        self.base = self._prepare(base.graph, config.source.data)
        self.table_path = crystal_table(config.source, self.base).resolve()
        self.table: pa.Table = read_table(self.table_path)
        self.ids = load_atoms(self.base)[0]
        self.holds = element_counts(self.base) > 0
        self.source = str(read_manifest(self.base)["plan"]["source"]["sha256"])
        same = {name for name, of in self.configs.items() if of.graph == base.graph}
        self.shards = {
            name: self.base if name in same else self._prepare(of.graph, str(self.table_path))
            for name, of in self.configs.items()
        }
        self.evaluated: dict[str, Array] = {}
        """Ids of the evaluated crystals by the digest in a cell's column ``crystals``."""
        self.notes: list[str] = []

    @property
    def identity(self) -> str:
        """Hex digits that change with the data and with the content of the tables."""
        tables = [(table, [of.sha256 for of in self.tables[table.name]]) for table in self.config.tables]
        return hashlib.sha256(json.dumps([self.source, tables]).encode()).hexdigest()

    def cells(self) -> list[Planned]:
        """Return all cells, draw by draw, so that an interrupted study has all tables of its first draws.

        Raises:
            ValueError: If a property has no labels, pools are too small, or a table lacks elements.

        """
        planned: list[tuple[int, Planned]] = []
        for name in self._properties():
            targets = self._targets(name)
            pools = self._pools(name, targets)
            for labels in self.config.labels:
                for held_out in self.config.held_out or ("none",):
                    for draw in self._draws(name, pools, labels, held_out):
                        planned += [(draw.number, one) for one in self._of_draw(targets, draw, labels, held_out)]
        return [one for _, one in sorted(planned, key=lambda each: each[0])]

    def _config(self, predictor: str) -> DownstreamConfig:
        """Return the settings of a predictor's trainings; fail on an unknown one."""
        if predictor == COMPOSITION:
            if large := [n for n in self.config.labels if not 0 < n <= MOST_LABELS]:
                raise ValueError(f"predictor {COMPOSITION} takes up to {MOST_LABELS:,} labels, not {large[0] or 'all'}")
            return predictions.default()
        config = predictions.default(predictor)
        build_predictor(spec_of(config), one_hot())
        changes = {"epochs": self.config.epochs} if self.config.epochs else {}
        return config.replace(num_workers=0, register="", **changes)

    def _table(self, table: Table) -> list[GivenTable]:
        """Return a table for each draw; the same one unless its name contains '{draw}'."""
        last = self.config.first_draw + self.config.draws
        numbers = range(last) if DRAW in table.vectors else [0]
        found = [given_table(table.vectors.replace(DRAW, str(n)), self.paths.tracking_uri) for n in numbers]
        return [GivenTable(vectors=t, known=t.atomic_numbers, sha256=str(t.provenance["sha256"])) for t in found]

    def _prepare(self, graph: GraphSpec, data: str) -> Path:
        source, limits = dataclasses.replace(self.config.source, data=data), predictions.default().limits
        return prepare(source, limits, graph, self.paths.out, num_workers=self.config.num_workers, resume=True)

    def _properties(self) -> tuple[str, ...]:
        known = tuple(name for name in PROPERTIES if name in self.table.schema.names and name not in COMPUTED_COLUMNS)
        return self.config.properties or known or (VOLUME_PER_ATOM,)

    @cached_property
    def _usable(self) -> Array:
        """``(M,)`` bool, crystals that have a graph of every kind that the predictors read."""
        usable = np.ones(len(self.ids), dtype=bool)
        for name, shards in self.shards.items():
            missing = ~np.isin(self.ids.astype(str), load_atoms(shards)[0].astype(str))
            if missing.any():
                logger.warning("%d crystals have no graph for %s and are left out", missing.sum(), name)
            usable &= ~missing
        return usable

    def _targets(self, name: str) -> Targets:
        targets = targets_for(self.table, name, self.ids)
        return dataclasses.replace(targets, labels=np.where(self._usable, targets.labels, np.nan))

    def _pools(self, name: str, targets: Targets) -> Pools:
        test = self.config.evaluate == "test"
        if self.config.split == "official":
            return of_official(
                splits.official(self.table, name, self.ids), targets.labeled, self.config.salt, test=test
            )
        groups = self._formulas if self.config.split == "composition" else None
        return by_hash(self.ids, targets.labeled, self.config.salt, test=test, groups=groups)

    @cached_property
    def _formulas(self) -> list[str]:
        """Reduced composition of each crystal, as a text."""
        crystals = self.table.take(pa.array(first_rows(self.table, self.ids)))
        different, which = splits.reduced_compositions(crystals)
        texts = [composition.tobytes().hex() for composition in different]
        return [texts[i] for i in which]

    def _draws(self, name: str, pools: Pools, labels: int, held_out: str) -> list[Draw]:
        config = self.config
        last = config.first_draw + config.draws
        try:
            elements = elements_held_out(held_out, last, salt=config.salt, pools=pools, holds=self.holds)
            wanted = Wanted(labels, config.validation_labels, config.max_test)
            return draws_of(pools, wanted, range(config.first_draw, last), elements, self.holds)
        except ValueError as error:
            raise ValueError(f"{name}, {labels or 'all'} labels: {error}") from error

    def _of_draw(self, targets: Targets, draw: Draw, labels: int, held_out: str) -> list[Planned]:
        config = self.config
        parts = {TRAIN: draw.train, VAL: draw.val, TEST: draw.evaluated}
        crystals = _digest(
            *(part for ids in parts.values() for part in (self.ids[ids].astype(str), targets.labels[ids]))
        )
        self.evaluated[crystals[:12]] = self.ids[draw.evaluated].astype(str)
        used = np.flatnonzero(self.holds[np.concatenate(list(parts.values()))].any(axis=0)) + 1
        planned = []
        for predictor in config.predictors:
            sample = self._sample(predictor, parts, targets)
            for table in config.tables:
                given = self._covering(table, draw.number, used)
                for seed in config.seeds if predictor != COMPOSITION else config.seeds[:1]:
                    settings = self.configs[predictor].replace(
                        property=targets.name,
                        seeds=(seed,),
                        vector_scale="standardize" if table.vectors in config.standardize else "rms",
                        vector_spectrum=table.power,
                    )
                    facts = {
                        "identity": self._identify(predictor, settings, given, crystals),
                        "property": targets.name,
                        "unit": targets.unit,
                        "labels": labels,
                        "held_out": held_out,
                        "elements": " ".join(draw.held_out),
                        "predictor": predictor,
                        "table": table.name,
                        "vectors": table.vectors,
                        "sha256": given.sha256[:12],
                        "draw": draw.number,
                        "seed": seed,
                        "salt": config.salt if config.split == "hash" else f"{config.split}:{config.salt}",
                        "evaluated": config.evaluate,
                        "crystals": crystals[:12],
                        "num_train": len(draw.train),
                        "num_crystals": len(draw.evaluated),
                    }
                    planned.append(self._planned(facts, settings, sample, given))
        return planned

    def _planned(self, facts: dict[str, Any], settings: DownstreamConfig, sample: Sample, given: GivenTable) -> Planned:
        held = "" if facts["held_out"] == "none" else f", without {facts['elements'].replace(' ', ',')}"
        title = (
            f"{facts['property']}, {facts['num_train']:,} labels{held}, {facts['predictor']}, {facts['table']}, "
            f"draw {facts['draw']}, seed {facts['seed']}"
        )
        work = Work(
            title=title,
            identity=facts["identity"],
            predictor=facts["predictor"],
            config=settings,
            sample=sample,
            vectors=given.vectors,
            known=given.known,
        )
        epochs = 1 if facts["predictor"] == COMPOSITION else settings.optimization.epochs
        cost = sum(len(sample.parts[part]) for part in (TRAIN, VAL)) * epochs + len(sample.parts[TEST])
        return Planned(work=work, facts=facts, cost=cost)

    def _sample(self, predictor: str, parts: Mapping[str, Array], targets: Targets) -> Sample:
        """Return the crystals as positions in the shards of a predictor."""
        shards = self.shards[predictor]
        place = self._places(shards)
        found = {part: place[crystals] for part, crystals in parts.items()}
        order = {part: np.argsort(crystals, kind="stable") for part, crystals in found.items()}
        assert all((np.diff(some) > 0).all() for some in order.values()), "graphs of one table have one order"
        return Sample(
            shards=shards,
            parts=found,
            labels={part: targets.labels[crystals] for part, crystals in parts.items()},
            trained=np.flatnonzero(self.holds[parts[TRAIN]].any(axis=0)) + 1,
        )

    def _places(self, shards: Path) -> Array:
        """Return the position in some shards of each crystal, ``(M,)``; -1 for those without."""
        if shards == self.base:
            return np.arange(len(self.ids))
        index = {str(name): place for place, name in enumerate(load_atoms(shards)[0])}
        return np.array([index.get(str(name), -1) for name in self.ids])

    def _covering(self, table: Table, draw: int, used: Array) -> GivenTable:
        """Return a table of a draw with the elements of its crystals.

        Raises:
            ValueError: If it lacks some that are not to be predicted.

        """
        tables = self.tables[table.name]
        place = draw if len(tables) > 1 else 0
        given = tables[place]
        if not len(missing := np.setdiff1d(used, given.vectors.atomic_numbers)):
            return given
        names = ", ".join(SYMBOLS[z - 1] for z in missing)
        if not self._predicts(table):
            raise ValueError(
                f"{table.name} has no vectors for {names}, which crystals of the study contain; predict them with "
                "--missing-vectors ridge, or leave the table out"
            )
        elements = np.flatnonzero(self.holds.any(axis=0)) + 1
        filled = dataclasses.replace(given, vectors=fill_missing(given.vectors, elements))
        tables[place] = filled
        predicted = " ".join(filled.vectors.provenance["filled"])
        note = f"{table.name}: vectors of elements that it lacks are predicted from element properties: {predicted}."
        self.notes += [note] if note not in self.notes else []
        return filled

    def _predicts(self, table: Table) -> bool:
        """Return whether vectors that a table lacks are predicted."""
        if self.config.missing_vectors != "auto":
            return self.config.missing_vectors == "ridge"
        try:
            return table.vectors.rpartition(":")[2] in published_names()
        except ValueError:
            return False

    def _identify(self, predictor: str, settings: DownstreamConfig, given: GivenTable, crystals: str) -> str:
        choice = settings.vectors
        how: Any = digest(settings)
        if predictor == COMPOSITION:
            how = [COMPOSITION, choice.vector_scale, choice.vector_spectrum]
        if choice.vector_spectrum == AUTO:
            rule = spectrum_choice
            how = [how, rule.POWERS, rule.MOST, rule.WIDTH, rule.PENALTY, rule.TOLERANCE]
        content = [how, settings.graph.to_dict(), settings.limits.flat(), self.source, crystals, given.sha256]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _digest(*arrays: Array) -> str:
    content = hashlib.sha256()
    for array in arrays:
        text = "\n".join(array) if array.dtype.kind in "OU" else np.ascontiguousarray(array).tobytes().hex()
        content.update(f"{len(array)}:{text};".encode())
    return content.hexdigest()
