"""The study from start to end: plan, find finished cells, train the others, compare, write tables, tell MLflow."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from crysatom.config import FewLabelsConfig, digest
from crysatom.config.flags import flags_of
from crysatom.runs.lifecycle import Run, opened, start_ray, where_to_look
from crysatom.runs.paths import Paths, find
from crysatom.studies.few_labels.cells import CELLS_CSV, CellStore, find_cells, read_cells
from crysatom.studies.few_labels.output import TABLE, Page, block_label, count_sentence, write_results
from crysatom.studies.few_labels.plan import Plan, Planned
from crysatom.studies.few_labels.statistics import Result, results_of
from crysatom.studies.few_labels.training import Trained, Work, do
from crysatom.tracking.environment import environment_tags
from crysatom.tracking.fields import DATA, REASON
from crysatom.training.machine import hardware

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Study:
    """A running study.

    Attributes:
        config: Its configuration.
        plan: Its data and tables.
        planned: All its cells.
        store: Finished cells.
        failed: Failed cells with the reason.

    """

    config: FewLabelsConfig
    plan: Plan
    planned: Sequence[Planned]
    store: CellStore
    failed: dict[str, str] = field(default_factory=dict)

    def train(self) -> None:
        """Train the cells that are not finished; record failures and continue."""
        todo = {p.work.title: p for p in self.planned if p.work.identity not in self.store.cells}
        total, started, count, cost = len(todo), time.monotonic(), 0, 0
        all_cost = sum(p.cost for p in todo.values())
        logger.info("%d of %d cells are there, %d to do", len(self.planned) - total, len(self.planned), total)

        def may_start() -> bool:
            return not self.config.budget or time.monotonic() - started < 60 * self.config.budget

        def done(work: Work, text: str, error: Exception | None) -> None:
            nonlocal count, cost
            one = todo[work.title]
            count, cost = count + 1, cost + one.cost
            if error is None:
                trained = Trained.from_text(text)
                cell = one.finished(trained)
                self.store.add(cell, trained.errors)
                news = f"{cell.evaluated} MAE {cell.mae:.4g} {cell.unit}".rstrip() + f", {cell.seconds:.1f} s"
            else:
                news = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                self.failed[work.title] = news
            minutes, seconds = divmod(round((time.monotonic() - started) / cost * (all_cost - cost)), 60)
            logger.info("cell %d/%d: %s: %s, about %d:%02d left", count, total, work.title, news, minutes, seconds)

        works = [p.work for p in todo.values()]
        if self.config.num_workers > 0 and works:
            from crysatom.cluster.tasks import run_tasks

            run_tasks(do, works, at_most=self.config.num_workers, use_gpu=False, may_start=may_start, done=done)
            return
        for work in works:
            if not may_start():
                return
            try:
                text, error = do(work), None
            except Exception as raised:  # noqa: BLE001 - a failed cell does not stop the others
                text, error = "", raised
            done(work, text, error)

    def results(self) -> list[Result]:
        """Return the results of the finished cells, in the order of tasks and tables."""
        cells = [self.store.cells[p.work.identity] for p in self.planned if p.work.identity in self.store.cells]
        names = {p.work.identity: p.facts["table"] for p in self.planned}  # elsewhere it may have another name
        cells = [dataclasses.replace(cell, table=names[cell.identity]) for cell in cells]
        found = results_of(cells, self.config.baseline, errors=self.store.errors, ids=self.plan.evaluated)
        tables = [table.name for table in self.config.tables]
        tasks = list(dict.fromkeys(r.task for r in found))
        return sorted(
            found, key=lambda r: (tasks.index(r.task), r.table != self.config.baseline, tables.index(r.table))
        )


def run(config: FewLabelsConfig) -> tuple[str, int]:
    """Train the cells that are not finished, within the budget; write the tables.

    Returns:
        The text that the job prints at its end, and its exit code: 0, 3 if cells failed or are left to do, 2 if none is
        finished.

    Raises:
        ValueError: If data or flags cannot be used.

    """
    paths = Paths.of(config.output, config.tracking)
    finished = [path for place in config.finished for path in find_cells(find(place))]
    start_ray(config.num_workers)
    plan = Plan(config, paths)
    planned = plan.cells()
    name = config.output.name or f"{config.study}-{digest(config)}-{plan.identity[:8]}"
    tags = {DATA: config.source.data, "study": config.study}
    with opened(
        config, paths, name, plan.identity, tags=tags, experiment=config.tracking.experiment, repeat=True
    ) as run:
        store = CellStore(run.path, [*_siblings(paths.out, run.path), *finished])
        study = Study(config=config, plan=plan, planned=planned, store=store)
        study.train()
        results = study.results()
        _record(study, run, results)
        left = sum(p.work.identity not in store.cells for p in planned)
        if left:
            run.tracker.log_tags({REASON: f"{left} cells left to do or failed; the same command goes on"})
            run.leave("FAILED" if study.failed else "KILLED")
        else:
            run.finish()
        code = 2 if not results else 3 if left else 0
        return _describe(study, run, results, left), code


def _record(study: Study, run: Run, results: Sequence[Result]) -> None:
    """Write and log the results."""
    if not results:
        return
    config = study.config
    which = "test crystals" if config.evaluate == "test" else "crystals for choices, not test crystals"
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    versions = environment_tags(hardware())
    page = Page(
        title=f"Atom vectors where labels are few: errors of {which}, salt '{config.salt}'",
        command=f"python jobs/study.py {' '.join(flags_of(config, 'study'))}",
        made_by="; ".join([date, *(f"{name.removeprefix('version.')} {value}" for name, value in versions.items())]),
        notes=study.plan.notes,
    )
    files = write_results(run.path, results, page, config.draws)
    run.tracker.log_metrics(_metrics(results), len(study.store.cells))
    for file in (*files, run.path / CELLS_CSV):
        if file.is_file():
            run.tracker.log_artifact(file)


def _metrics(results: Sequence[Result]) -> dict[str, float]:
    metrics = {}
    for r in results:
        name = re.sub(r"[^A-Za-z0-9_\-./ ]", "_", f"{r.task.property}/{block_label(r.task)}/{r.table}")
        metrics[f"mae/{name}"] = r.mean
        if r.comparison is not None:
            metrics[f"percent/{name}"] = r.comparison.percent.estimate
    return metrics


def _siblings(out: Path, own: Path) -> list[Path]:
    """Return the files of cells of other studies in the folder of runs."""
    found = []
    for path in sorted(out.glob(f"*/{CELLS_CSV}")):
        if path.parent == own:
            continue
        try:
            read_cells(path)
        except (ValueError, OSError) as error:
            logger.warning("not used: %s", error)
        else:
            found.append(path)
    return found


def _describe(study: Study, run: Run, results: Sequence[Result], left: int) -> str:
    lines = [f"failed: {title}: {why}" for title, why in study.failed.items()]
    if results:
        page = (run.path / f"{TABLE}.md").read_text(encoding="utf-8")
        shown = page.replace("<br>", " ").replace("\\*", "*")  # for a terminal
        lines += re.findall(r"^(?:## .*|\|.*)$", shown, re.MULTILINE)
        lines += [count_sentence(results)]
    if left:
        lines.append(f"left to do: {left} of {len(study.planned)} cells; the same command goes on with them")
    lines += [f"tables and figures: {run.path}", where_to_look(run.tracker.uri, run.tracker.run_id)]
    return "\n".join(lines)
