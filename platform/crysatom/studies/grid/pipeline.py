"""Run a study: plan its runs, reuse finished ones, train the others, compare all, and write the tables."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from crysatom.config import GridConfig, Role
from crysatom.runs.lifecycle import opened, start_ray, where_to_look
from crysatom.runs.paths import Paths, find
from crysatom.studies.grid.design import VECTORS, Column, Grid, Vectors
from crysatom.studies.grid.loading import rows_of
from crysatom.studies.grid.output import write_study
from crysatom.studies.grid.results import Cell, evaluate
from crysatom.studies.grid.runs import Study
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.fields import DATA, REASON
from crysatom.training.machine import hardware

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GridReport:
    """Result of a study.

    Attributes:
        folder: Folder with tables, figures and ``cells.json``.
        title: Title of the study.
        cells: Cells with at least one finished run.
        wanted: Number of runs of the whole study, as far as it can be planned.
        finished: Number of finished runs.
        again: Number of runs that had been finished before.
        left: Number of runs that neither finished nor failed: the budget was over, or their pretraining failed.
        missing: Rows, columns and differences that cannot be computed, with the reason.
        failed: Runs that failed, with the reason.
        tracking_uri: MLflow store.
        run_id: MLflow run of the study; empty if MLflow was unavailable.

    """

    folder: Path
    title: str
    cells: list[Cell]
    wanted: int
    finished: int
    again: int
    left: int
    missing: dict[str, str]
    failed: dict[str, str]
    tracking_uri: str
    run_id: str


def run(config: GridConfig, grid: Grid) -> GridReport:
    """Do the missing runs of a study within its budget, and write its tables.

    Args:
        config: Configuration of the study.
        grid: Its grid, from :func:`crysatom.studies.grid.loading.load_grid`.

    Raises:
        ValueError: If data or flags cannot be used, or another study is running in the folder.

    """
    paths = Paths.of(config.output, config.tracking)
    paths.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(paths.out / ".study.lock", timeout=0):
            return _run(config, grid, paths)
    except Timeout as error:
        raise ValueError(f"another study is running in {paths.out}; wait for it, or give another --out") from error


def _run(config: GridConfig, grid: Grid, paths: Paths) -> GridReport:
    started = time.monotonic()
    rows = rows_of(grid, config)
    grid, sources, missing = _asked_for(config, grid)
    start_ray(config.num_workers)
    study = Study(config=config, paths=paths, grid=grid, rows=rows, sources=sources, missing=missing, started=started)
    study.read_data()  # wrong flags are reported before the MLflow run is started
    asked = _asked_digest(config)
    name = config.output.name or f"study-{Path(config.study).stem}-{asked[:8]}"
    tags = {DATA: config.source.data}
    with opened(config, paths, name, asked, tags=tags, experiment=config.tracking.experiment, repeat=True) as run:
        planned, again = study.do()
        cells = evaluate(grid, planned, study.found, config.baseline)
        gaps = {"missing": study.missing, "failed": study.failed}
        made_by = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **environment_tags(hardware())}
        files, metrics = write_study(run.path, grid, cells, gaps, config=config, made_by=made_by)
        run.tracker.log_metrics(metrics, len(study.found))
        for file in files:
            run.tracker.log_artifact(file)
        left = study.unplanned + sum(p.identity not in study.found and p.title not in study.failed for p in planned)
        if left or study.failed:
            reason = f"{left} runs left to do, {len(study.failed)} failed; the same command goes on"
            run.tracker.log_tags({REASON: reason})
            run.leave("FAILED" if study.failed else "KILLED")
        else:
            run.finish()
        return GridReport(
            **run.address,
            title=grid.title,
            cells=cells,
            wanted=len(planned) + study.unplanned,
            finished=sum(p.identity in study.found for p in planned),
            again=again,
            left=left,
            missing=study.missing,
            failed=study.failed,
        )


def describe(report: GridReport) -> str:
    """Return the summary that the job prints."""
    lines = [f"{report.title}: {report.finished} of {report.wanted} runs finished, {report.again} of them before"]
    for what, why in report.missing.items():
        lines.append(f"missing: {what}: {why}")
    for what, why in report.failed.items():
        lines.append(f"failed: {what}: {why}")
    if report.left:
        lines.append(f"left to do: {report.left} runs; the same command goes on with them")
    lines += [f"tables and figures: {report.folder}", where_to_look(report.tracking_uri, report.run_id)]
    return "\n".join(lines)


def _asked_digest(config: GridConfig) -> str:
    """Return hex digits that change with the content of the tables, not with places, budget or workers."""
    content = config.flat(Role.RESULT, Role.INPUT)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _asked_for(config: GridConfig, grid: Grid) -> tuple[Grid, dict[str, Vectors], dict[str, str]]:
    """Return the grid with the requested columns, all vectors by name, and what is missing, with the reason.

    Raises:
        ValueError: If a column, a baseline, the name of vectors or a folder of finished runs does not exist.

    """
    for what, names in (("columns", config.columns), ("baseline", (config.baseline,) if config.baseline else ())):
        if unknown := [name for name in names if name not in grid.columns]:
            raise ValueError(f"{what}: {config.study} has no {', '.join(unknown)}; it has {', '.join(grid.columns)}")
    wanted = {key: column for key, column in grid.columns.items() if not config.columns or key in config.columns}
    if config.baseline and config.baseline not in wanted:
        raise ValueError(f"baseline: {config.baseline} is not among --columns {' '.join(wanted)}")
    known = {**VECTORS, **grid.vectors}
    sources = known | _given_vectors(config, known)
    obstacles = {column.label: _obstacle(column, sources) for column in wanted.values()}
    missing = {label: why for label, why in obstacles.items() if why}
    built = {key: column for key, column in wanted.items() if column.label not in missing}
    for column in built.values():
        if not config.baseline and column.baseline not in {"", *wanted}:
            missing[f"difference of {column.label}"] = f"its baseline {column.baseline} is not among --columns"
    if not built:
        raise ValueError(f"none of the columns can be run: {missing}")
    for folder in config.finished:
        if not find(folder).is_dir():
            raise ValueError(f"finished: {folder} is no folder")
    return dataclasses.replace(grid, columns=built), sources, missing


def _obstacle(column: Column, sources: Mapping[str, Vectors]) -> str:
    """Return the reason why a column cannot be run; empty if it can."""
    known = sources[column.vectors].known
    return "" if known else f"its vectors have to be given: --vectors {column.vectors}=FILE"


def _given_vectors(config: GridConfig, known: Mapping[str, Vectors]) -> dict[str, Vectors]:
    """Return the vectors that ``--vectors`` gives, by name.

    Raises:
        ValueError: If a name is unknown.

    """
    given: dict[str, tuple[str, ...]] = {}
    for text in config.vectors:
        name, _, path = text.partition("=")
        given[name] = (*given.get(name, ()), str(find(path).resolve()) if find(path).exists() and "/" in path else path)
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"vectors: there are no {', '.join(unknown)}; there are {', '.join(known)}")
    return {name: dataclasses.replace(known[name], names=names, pretrain=None) for name, names in given.items()}
