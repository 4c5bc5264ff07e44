"""Plan the runs of a study, find finished ones by their digests, train the others, by Ray or in this process."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from crysatom.config import DownstreamConfig, GraphSpec, GridConfig, PretrainConfig, digest
from crysatom.config import downstream as predictions
from crysatom.config import pretraining as pretrainings
from crysatom.crystals.ingest import TABLE_FILE
from crysatom.crystals.measured import with_measured
from crysatom.crystals.table import read_table, write_table
from crysatom.graphs.shards import file_sha256
from crysatom.inputs.encoders import given_model, pretrained_encoders
from crysatom.inputs.graphs import CACHE, crystal_table, prepare
from crysatom.inputs.labels import given_table, labeled
from crysatom.names import MAE, TEST
from crysatom.pipelines import downstream, pretraining
from crysatom.runs.paths import Paths, find
from crysatom.studies.grid.design import Column, Grid, Row, Vectors
from crysatom.studies.grid.finished import FinishedRun, Identity, find_runs, read_run
from crysatom.studies.grid.results import Planned

logger = logging.getLogger(__name__)


class Task(NamedTuple):
    """A run to do: its title for people, and its configuration."""

    title: str
    config: DownstreamConfig | PretrainConfig


class Fold(NamedTuple):
    """Input of a run of a row: digest of graphs, labels and split, and number of training crystals."""

    data: str
    num_train: int


Done = Callable[[Task, str, Exception | None], None]


@dataclass(kw_only=True)
class Study:
    """State of a running study: planned, finished and failed runs."""

    config: GridConfig
    paths: Paths
    grid: Grid
    rows: Sequence[Row]
    sources: dict[str, Vectors]
    missing: dict[str, str]
    started: float
    failed: dict[str, str] = field(default_factory=dict)
    found: dict[Identity, FinishedRun] = field(default_factory=dict)
    unplanned: int = 0
    datasets: list[tuple[Row, list[Fold]]] = field(default_factory=list)
    data: str = ""
    """Absolute path of the crystals that every run reads. A source is read once, before the runs."""
    _pretrained: dict[str, Path] = field(default_factory=dict)
    _table: Path = Path()
    """Crystal table, from which the graphs of predictors with other graphs are built."""
    _by_graph: dict[tuple[GraphSpec, str], list[Fold]] = field(default_factory=dict)
    _sha256: dict[str, str] = field(default_factory=dict)
    _by_place: dict[tuple[str, str, str, tuple[int, ...]], Identity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = find(self.config.source.data)
        self.data = str(given.resolve()) if given.exists() else self.config.source.data

    def read_data(self) -> None:
        """Find the rows that the data have labels for, and the inputs of their folds.

        Raises:
            ValueError: If the data cannot be read, or a requested property has no labels.

        """
        if self.config.measured:
            self.data = str(self._join_measured())
        base = self._base()
        shards = self._prepare(base)
        self._table = crystal_table(base.source, shards).resolve()
        self.data = self.data if shards == Path(self.data) else str(self._table)
        for row in self.rows:
            try:
                self.datasets.append((row, self._folds(base, row, shards)))
            except ValueError as error:
                if self.config.properties:
                    raise
                self.missing[row.key] = str(error).partition("\n")[0]
        if not self.datasets:
            raise ValueError(f"{self.config.source.data} has labels for no row of {self.config.study}: {self.missing}")

    def _prepare(self, config: DownstreamConfig) -> Path:
        """Build the graphs on all workers before the runs, each of which has one CPU."""
        num_workers = self.config.num_workers
        return prepare(config.source, config.limits, config.graph, self.paths.out, num_workers=num_workers, resume=True)

    def _folds(self, base: DownstreamConfig, row: Row, shards: Path) -> list[Fold]:
        """Return the inputs of the folds of a row."""
        labels = base.replace(property=row.property, vectors="onehot", **row.settings)
        uri = self.paths.tracking_uri
        read = [labeled(labels.replace(**fold), shards, self._table, uri) for fold in row.folds]
        return [Fold(fold.data_digest, len(fold.split.train)) for fold in read]

    def _join_measured(self) -> Path:
        """Return the crystal table of calculated and measured crystals; write it if it does not exist."""
        name = self.rows[0].property  # there is only one
        calculated, measured = find(self.data), find(self.config.measured)
        if not calculated.is_file():
            base = self._base()
            calculated = crystal_table(base.source, self._prepare(base))
        content = json.dumps([name, file_sha256(calculated), file_sha256(measured)])
        table = self.paths.out / CACHE / f"measured-{hashlib.sha256(content.encode()).hexdigest()[:12]}" / TABLE_FILE
        if not table.is_file():
            table.parent.mkdir(parents=True, exist_ok=True)
            write_table(with_measured(read_table(calculated), read_table(measured), name), table)
        return table

    def do(self) -> tuple[list[Planned], int]:
        """Do the missing runs; return all planned runs, and the number that had been finished before."""
        planned = self.plan()
        again = self.find_finished(planned)
        self.train(planned)
        if further := self.plan_further():
            again += self.find_finished(further)
            self.train(further)
        return planned + further, again

    def plan(self) -> list[Planned]:
        """Do the pretrainings; return the runs that do not start from another run."""
        self._pretrain()
        return self._plan([dataset for dataset in self.datasets if not dataset[0].start])

    def plan_further(self) -> list[Planned]:
        """Return the runs that start from finished ones."""
        return self._plan([dataset for dataset in self.datasets if dataset[0].start])

    def _plan(self, datasets: Sequence[tuple[Row, list[Fold]]]) -> list[Planned]:
        planned = [
            run
            for row, folds in datasets
            for key, column in self.grid.columns.items()
            for run in self._of_cell(row, key, column, folds)
        ]
        self._by_place |= {(p.row.key, p.column, p.config.vectors.vectors, p.config.seeds): p.identity for p in planned}
        return planned

    def _base(self, predictor: str = predictions.Architecture.predictor) -> DownstreamConfig:
        config = self.config
        changes: dict[str, Any] = {"epochs": config.epochs} if config.epochs else {}
        experiment = downstream.default_experiment(config.source.data)
        return predictions.RECIPES[config.recipe](predictor).replace(
            experiment=experiment, **self._everywhere, **changes
        )

    @property
    def _everywhere(self) -> dict[str, Any]:
        """Settings that predictions and pretrainings share."""
        return {
            "data": self.data,
            "out": str(self.paths.out),
            "resume": True,
            "num_workers": 0,
            "use_gpu": self.config.use_gpu,
            "precision": self.config.precision,
            "tracking_uri": self.paths.tracking_uri,
            "register": "",  # a study makes hundreds of models
        }

    def _read_by(self, predictor: str, row: Row, folds: list[Fold]) -> tuple[str, list[Fold]]:
        """Return the data that the runs of a predictor read, and their folds, for the graphs that it needs."""
        config = self._base(predictor)
        if config.graph == self._base().graph:
            return self.data, folds
        key = (config.graph, row.key)
        if key not in self._by_graph:
            config = config.replace(data=str(self._table))
            self._by_graph[key] = self._folds(config, row, self._prepare(config))
        return str(self._table), self._by_graph[key]

    def _pretrain(self) -> None:
        """Do the pretrainings whose vectors or encoders the columns use; record failures."""
        settings = [c.init for c in self.grid.columns.values()] + [c.distill for c in self.grid.columns.values()]
        settings += [self._source(c.vectors).pretrain for c in self.grid.columns.values()]
        by_title = {f"pretraining {_key(some)}": some for some in settings if some is not None}

        def done(task: Task, result: str, error: Exception | None) -> None:
            if error is None:
                self._pretrained[_key(by_title[task.title])] = Path(result)
                logger.info("%s: %s", task.title, result)
            else:
                self._fail(task.title, error)

        self._do([Task(title, self._pretraining(some)) for title, some in by_title.items()], done)

    def _pretraining(self, settings: Mapping[str, Any]) -> PretrainConfig:
        config = self.config
        changes: dict[str, Any] = {"epochs": config.pretrain_epochs} if config.pretrain_epochs else {}
        return pretrainings.RECIPES[config.recipe]().replace(**{**settings, **self._everywhere, **changes})

    def _source(self, name: str) -> Vectors:
        """Return the source of vectors; of permuted vectors the source of those that are permuted."""
        source = self.sources[name]
        return self._source(source.permuted) if source.permuted and not source.names else source

    def _names(self, name: str) -> tuple[str, ...]:
        """Return the values for ``--vectors`` of a run; none if the pretraining of the vectors is not finished."""
        source = self.sources[name]
        if source.names:
            return source.names
        if source.permuted:
            return tuple(f"permuted:{other}" for other in self._names(source.permuted))
        assert source.pretrain is not None, "vectors are named, permuted or pretrained"
        folder = self._pretrained.get(_key(source.pretrain))
        return () if folder is None else (str(folder / pretraining.VECTORS),)

    def _of_cell(self, row: Row, key: str, column: Column, folds: list[Fold]) -> list[Planned]:
        names = self._names(column.vectors)
        encoders = {"init_encoder": column.init, "distill": column.distill}
        folders = {use: self._pretrained.get(_key(some)) for use, some in encoders.items() if some is not None}
        each = len(self.config.seeds) * len(row.folds)
        if not names or None in folders.values():  # the pretraining failed, or the budget was over
            self.unplanned += each
            return []
        missing = self.config.missing_vectors
        data, folds = self._read_by(column.predictor, row, folds)
        settings: dict[str, Any] = {
            "data": data,
            "property": row.property,
            "vector_spectrum": self.config.vector_spectrum,
            "missing_vectors": self._source(column.vectors).missing if missing == "auto" else missing,
            **{use: str(folder) for use, folder in folders.items()},
            **column.settings,
            **row.settings,
        }
        base = self._base(column.predictor).replace(**settings)
        planned = []
        for name in names:
            try:
                sha256 = self._vectors_digest(name)
            except ValueError as error:
                self._fail(f"vectors {name}", error)
                self.unplanned += each
                continue
            for seed in self.config.seeds:
                config = base.replace(vectors=name, seeds=(seed,))
                if row.start:
                    wanted = self._by_place.get((row.start, key, name, (seed,)))
                    started = self.found.get(wanted) if wanted else None
                    if started is None:  # it failed, or the budget was over
                        self.unplanned += len(row.folds)
                        continue
                    config = config.replace(
                        init_encoder="",
                        distill="",
                        init_model=str(started.folder),
                        epochs=self.config.further_epochs or config.optimization.epochs,
                    )
                for number, (fold, changes) in enumerate(zip(folds, row.folds, strict=True)):
                    of_fold = config.replace(**changes)
                    planned.append(
                        Planned(
                            row=row,
                            column=key,
                            fold=number,
                            config=of_fold,
                            identity=self._identity(of_fold, sha256, fold.data),
                            work=fold.num_train * of_fold.optimization.epochs,
                        )
                    )
        return planned

    def _identity(self, config: DownstreamConfig, vectors: str, data: str) -> Identity:
        encoder, teacher = pretrained_encoders(config, self.paths.tracking_uri)
        model = given_model(config, self.paths.tracking_uri)
        return Identity(
            settings=digest(config),
            vectors=vectors,
            data=data,
            init=encoder.digest if encoder else model.digest if model else "",
            distill=teacher.digest if teacher else "",
        )

    def _vectors_digest(self, name: str) -> str:
        if name not in self._sha256:
            self._sha256[name] = str(given_table(name, self.paths.tracking_uri).provenance["sha256"])
        return self._sha256[name]

    def find_finished(self, planned: Sequence[Planned]) -> int:
        """Add the finished runs of the folders to ``found``; return their number."""
        before = len(self.found)
        wanted = {p.identity for p in planned}
        for folder in (str(self.paths.out), *self.config.finished):
            given = folder != str(self.paths.out)
            runs, unreadable = find_runs(find(folder).resolve())
            for problem in unreadable:
                logger.warning("%s", problem)
            taken = [r for r in runs if r.identity in wanted - self.found.keys() and (given or not r.earlier)]
            self.found.update({run.identity: run for run in taken})
            if earlier := sum(run.earlier for run in taken):
                logger.warning(
                    "%s: %d runs are of an earlier version; settings that it did not know have today's defaults",
                    folder,
                    earlier,
                )
        return len(self.found) - before

    def train(self, planned: Sequence[Planned]) -> None:
        """Do the runs that are not finished; record failures and continue."""
        open_runs = {p.identity: p for p in planned if p.identity not in self.found}
        by_title = {p.title: p for p in open_runs.values()}
        total, start = len(open_runs), time.monotonic()
        logger.info("%d of %d runs are there, %d to do", len(planned) - total, len(planned), total)
        count, work, all_work = 0, 0, sum(run.work for run in open_runs.values())

        def done(task: Task, result: str, error: Exception | None) -> None:
            nonlocal count, work
            run = by_title[task.title]
            count, work = count + 1, work + run.work
            news = "failed"
            if error is None:
                try:
                    finished = _read(result, run.identity)
                except ValueError as unusable:
                    error = unusable
                else:
                    self.found[run.identity] = finished
                    news = f"test MAE {finished.metrics[f'{TEST}/{MAE}']:.4g} {finished.unit}".rstrip()
            if error is not None:
                self._fail(run.title, error)
            minutes, seconds = divmod(round((time.monotonic() - start) / work * (all_work - work)), 60)
            logger.info("run %d/%d: %s: %s, about %d:%02d left", count, total, run.title, news, minutes, seconds)

        self._do([Task(title, p.config) for title, p in by_title.items()], done)

    def _may_start(self) -> bool:
        return not self.config.budget or time.monotonic() - self.started < 60 * self.config.budget

    def _fail(self, what: str, error: Exception) -> None:
        text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        self.failed[what] = text
        logger.error("%s: %s", what, text)

    def _do(self, tasks: Sequence[Task], done: Done) -> None:
        if self.config.num_workers > 0:
            from crysatom.cluster.tasks import run_tasks

            most = self.config.num_workers
            run_tasks(do, tasks, at_most=most, use_gpu=self.config.use_gpu, may_start=self._may_start, done=done)
            return
        for task in tasks:
            if not self._may_start():
                return
            try:
                result, error = do(task), None
            except Exception as raised:  # noqa: BLE001 - a failed run does not stop the others
                result, error = "", raised
            done(task, result, error)


def do(task: Task) -> str:
    """Do one run in this process, unless it is finished; return its folder."""
    if isinstance(task.config, PretrainConfig):
        return str(pretraining.run(task.config).folder)
    [finished] = downstream.run(task.config)
    return str(finished.folder)


def _read(folder: str, identity: Identity) -> FinishedRun:
    """Return the run in a folder.

    Raises:
        ValueError: If it cannot be read, or has another identity.

    """
    finished = read_run(folder)
    if finished is None or finished.identity != identity:
        raise ValueError(f"{folder} is not the run that was asked for; did the data change meanwhile?")
    return finished


def _key(settings: Mapping[str, Any]) -> str:
    """Return the name of a pretraining: its differences from the recipe."""
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items())) or "by the recipe"
