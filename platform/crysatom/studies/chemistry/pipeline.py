"""The chemistry study from start to end: tables, numbers, figures, files, MLflow."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd

from crysatom.config import ChemistryConfig, digest, recorded
from crysatom.crystals.csv_files import csv_text
from crysatom.figures.maps import Fact, component_panels, draw_maps, neighbor_panels, require_map_packages
from crysatom.inputs.labels import given_table
from crysatom.names import NUM_ELEMENTS, RESULTS_JSON
from crysatom.runs.lifecycle import Run, opened, where_to_look
from crysatom.runs.paths import Paths
from crysatom.studies.chemistry import output as tables
from crysatom.studies.chemistry.study import Chemistry, study
from crysatom.text_tables import cells, latex, markdown
from crysatom.tracking.fields import VECTORS
from crysatom.tracking.runs import Tracker
from crysatom.vectors.table import AtomVectors
from crysatom.writing import write_text

logger = logging.getLogger(__name__)

REPORT = "report.md"
VERDICTS = (
    "The paper's statements: + supported, o not supported, - contradicted; in brackets the two-sided p-values after "
    "Holm's correction by cosine and by Euclidean distance, + if the distances favor the statement, otherwise -"
)
FACTS: tuple[Fact, ...] = ("group", "block", "period")


def run(config: ChemistryConfig) -> str:
    """Run the study, unless it is finished; return the text that the job prints at its end.

    Raises:
        ValueError: If a table cannot be read, tables share too few elements, a package for the maps is missing, or the
            folder holds another study.

    """
    if config.maps == "all":
        require_map_packages()
    paths = Paths.of(config.output, config.tracking)
    given = {name: given_table(vectors, paths.tracking_uri) for name, vectors in config.tables}
    _require_distinct_files(given)
    identity = _identity(given)
    with opened(
        config,
        paths,
        config.output.name or f"{config.study}-{digest(config)}-{identity[:8]}",
        identity,
        tags={"study": config.study, VECTORS: " ".join(given)},
        experiment=config.tracking.experiment,
    ) as run:
        if not run.again:
            _study(config, given, run)
            run.finish()
        finished_before = "Nothing to do: this study is finished.\n" if run.again else ""
        return finished_before + _describe(run)


def _study(config: ChemistryConfig, given: dict[str, AtomVectors], run: Run) -> None:
    found = study(
        given, scale=config.vector_scale, draws=config.draws, probe_draws=config.probe_draws, seed=config.seed
    )
    files = _write(config, run.path, found)
    run.tracker.log_metrics(_metrics(found), 0)
    for file in files:
        run.tracker.log_artifact(file)
    _draw(config, found, run.tracker)


def _require_distinct_files(given: dict[str, AtomVectors]) -> None:
    """Raise if two tables' names give the same name of a file or metric."""
    slugs = [_slug(name) for name in given]
    repeated = [name for name in given if slugs.count(_slug(name)) > 1]
    if repeated:
        raise ValueError(f"the names {', '.join(repeated)} are too similar; give the tables other names by NAME=TABLE")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[-40:]


def _identity(given: dict[str, AtomVectors]) -> str:
    content = json.dumps([(name, table.provenance["sha256"]) for name, table in given.items()])
    return hashlib.sha256(content.encode()).hexdigest()


def _write(config: ChemistryConfig, folder: Path, found: Chemistry) -> list[Path]:
    """Write all data as CSV and JSON, and the formatted tables as LaTeX and Markdown."""
    raw = {name: getattr(found, name) for name in ("probes", "predictions", "silhouettes", "statements")}
    files = [_text(folder / f"{name}.csv", csv_text(frame)) for name, frame in raw.items()]
    shown = _shown(found)
    for name, (caption, frame) in shown.items():
        files.append(_text(folder / f"{name}.tex", latex(*cells(frame), caption=caption)))
    results = {
        "config": recorded(config),
        "elements": found.symbols,
        "left_out": found.left_out,
        "tables": {name: {"dim": t.dim, "provenance": dict(t.provenance)} for name, t in found.tables.items()},
        **{name: _records(frame) for name, frame in raw.items()},
    }
    files.append(_text(folder / RESULTS_JSON, json.dumps(results, indent=1, default=str)))
    return [*files, _text(folder / REPORT, _report(config, found, shown))]


def _text(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as JSON values; unknown numbers are null."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def _shown(found: Chemistry) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return caption and content of each formatted table, by the name of its file."""
    counted = f"{len(found.symbols)} elements"
    return {
        "ridge": (
            f"Leave-one-out predictions by ridge regression ({counted}): R2, accuracy for Group; 95 % intervals",
            tables.probe_table(found, "ridge"),
        ),
        "neighbors": (
            f"Leave-one-out predictions by nearest neighbors ({counted}): R2, accuracy for Group; 95 % intervals",
            tables.probe_table(found, "neighbors"),
        ),
        "silhouettes": (f"Mean silhouette ({counted})", tables.silhouette_table(found)),
        "verdicts": (
            VERDICTS,
            tables.verdict_table(found),
        ),
        "counts": ("Statements by verdict", tables.count_table(found)),
    }


def _report(config: ChemistryConfig, found: Chemistry, shown: dict[str, tuple[str, pd.DataFrame]]) -> str:
    parts = [f"## {caption}\n\n{markdown(*cells(frame))}" for caption, frame in shown.values()]
    settings = (
        f"Vectors scaled by `{config.vector_scale}`; {config.draws:,} relabelings for silhouettes and statements, "
        f'{config.probe_draws:,} for predictions; seed {config.seed}. "(chance)": relabeled elements reach the number '
        "in more than 5 % of the draws.\n"
    )
    elements = f"{len(found.symbols)} elements: {' '.join(found.symbols)}.\n"
    title = "# Chemistry that the vectors encode\n"
    return "\n".join([title, elements, markdown(*cells(tables.overview(found))), settings, *parts])


def _metrics(found: Chemistry) -> dict[str, float]:
    probes = {
        f"{_slug(row['table'])}/{row['method']}/{row['property']}/{what}": float(row[what])
        for row in found.probes.to_dict("records")
        for what in ("score", "p")
    }
    silhouettes = {
        f"{_slug(row['table'])}/silhouette/{row['classes']}/{row['space']}": float(row["silhouette"])
        for row in found.silhouettes.to_dict("records")
    }
    counts = {
        f"{_slug(str(name))}/statements/{verdict}": float(count)
        for name, counts_of in tables.count_table(found).to_dict("index").items()
        for verdict, count in counts_of.items()
    }
    return {**probes, **silhouettes, **counts, NUM_ELEMENTS: float(len(found.symbols))}


def _draw(config: ChemistryConfig, found: Chemistry, tracker: Tracker) -> None:
    tracker.log_figure(tables.probe_figure(found), "predictions")
    if config.maps == "none":
        return
    for name, table in found.tables.items():
        logger.info("%s: drawing maps ...", name)
        maps = {"components": component_panels(table)}
        if config.maps == "all":
            maps["neighbors"] = neighbor_panels(table, config.seed)
        for kind, panels in maps.items():
            for fact in FACTS:
                tracker.log_figure(draw_maps(f"{name}, by {fact}", panels, table, fact), f"{_slug(name)}-{kind}-{fact}")


def _describe(run: Run) -> str:
    report = (run.path / REPORT).read_text(encoding="utf-8")
    return "\n".join([report, f"report: {run.path / REPORT}", where_to_look(run.tracker.uri, run.tracker.run_id)])
