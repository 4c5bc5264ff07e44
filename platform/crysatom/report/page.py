"""Render the HTML page about the runs of experiments: all tables, and the figures of the first runs of each kind."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from crysatom.figures.predictions import MANY, learning_curves, parity_plot, with_unit
from crysatom.figures.pretraining import TITLES, has_map, loss_curves, vector_map
from crysatom.names import (
    ALL_LOSS_TERMS,
    ELEMENT,
    HELD_OUT,
    MAE,
    MAE_HIGH,
    MAE_LOW,
    MATERIAL_ID,
    NUM_CRYSTALS,
    PREDICTION,
    PROBE,
    PROPERTIES,
    SYMBOLS,
    TARGET,
    TEST,
    TRAIN,
    VAL,
)
from crysatom.report.heat import Heat, four, number
from crysatom.report.inline import inline
from crysatom.report.overview import Group, Overview, Sweep, Table, dataset, is_ranked
from crysatom.report.page_data import About, Details, GroupDetails, History
from crysatom.report.sweep_figures import parallel_coordinates
from crysatom.tracking import fields
from crysatom.tracking.reading import TrackedRun
from crysatom.training.intervals import Interval
from crysatom.vectors.files import VECTORS_SAFETENSORS
from crysatom.vectors.geometry import principal_components
from crysatom.vectors.table import AtomVectors

TEMPLATE = "page.html.j2"


def page(about: About, runs: Sequence[TrackedRun], overview: Overview, details: Details, figures: int) -> str:
    """Return the page; ``figures`` limits the sweeps that are drawn, ``details`` everything else."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.update(
        **{
            f.__name__: f
            for f in (
                dataset,
                error,
                is_ranked,
                label,
                vectors_name,
                ended,
                reason,
                unit_of,
                duration,
                Scale,
                interval_texts,
                parity_of,
                curves_of,
                element_errors_of,
                loss_curves_of,
                vector_tables,
                vector_map_of,
                study_rows,
                png,
                sweep_drawing,
                epochs_of,
            )
        },
        details=details,
        figures=figures,
        many=MANY,
        losses=ALL_LOSS_TERMS,
        probe=PROBE,
        fields=fields,
        math=math,
    )
    environment.filters.update(number=number, four=four, soft=soft)
    folder = importlib.resources.files("crysatom.report")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(folder.joinpath(TEMPLATE).read_text(encoding="utf-8")).render(
        about=about,
        runs=sorted(runs, key=lambda run: run.started, reverse=True),
        statuses=Counter(run.status for run in runs),
        overview=overview,
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_digest=digest,
    )


def label(run: TrackedRun) -> str:
    """Return the label of a run's property in tables and plots."""
    name = run.tags[fields.PROPERTY]
    return PROPERTIES[name].label if name in PROPERTIES else name


def unit_of(run: TrackedRun) -> str:
    """Return the unit of a run's property, as people write it; empty: none, or unknown."""
    return with_unit("", run.tags.get(fields.UNIT, "")).strip(" ()")


def soft(text: str) -> Markup:
    """Return text with allowed line breaks after colons."""
    return Markup(":<wbr>").join(text.split(":"))


def error(group: Group) -> str:
    """Return the mean test MAE over seeds, with its standard deviation if there are several."""
    mean, deviation = group.mae
    return four(mean) if math.isnan(deviation) else f"{four(mean)} ± {deviation:#.2g}".removesuffix(".")


def vectors_name(group: Group) -> str:
    """Return the label of vectors in tables: for a path, the folder of their run."""
    control, at, path = (
        group.vectors.rpartition(":") if group.vectors.startswith("permuted:") else ("", "", group.vectors)
    )
    parts = [part for part in path.split("/") if part not in {"", VECTORS_SAFETENSORS, fields.VECTORS}]
    is_path = path.startswith(("/", ".")) or path.endswith(VECTORS_SAFETENSORS) or f"/{fields.VECTORS}" in path
    return f"{control}{at}{parts[-1]}" if is_path and parts else group.vectors


def ended(run: TrackedRun) -> str:
    """Return how a run ended, as logged by its sweep, otherwise its status in MLflow."""
    return run.tags.get(fields.ENDED) or run.status.lower()


def reason(run: TrackedRun) -> str:
    """Return why a run failed, if that was logged."""
    return run.tags.get(fields.REASON, "")


def duration(run: TrackedRun) -> str:
    """Return the duration of a run."""
    if run.seconds is None:
        return ""
    minutes, seconds = divmod(round(run.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _interval(run: TrackedRun) -> tuple[float, float | None, float | None]:
    low, high = (run.metrics.get(f"{TEST}/{end}") for end in (MAE_LOW, MAE_HIGH))
    return run.metrics[f"{TEST}/{MAE}"], low, high


class Scale:
    """Axis that the intervals of one table share; positions in percent of its width."""

    def __init__(self, table: Table) -> None:
        """Span all intervals of the table, with a margin."""
        runs = [run for group in table.groups for run in group.runs]
        ends = [value for run in runs for value in _interval(run) if value is not None]
        margin = 0.06 * (max(ends) - min(ends)) or 0.05 * abs(max(ends)) or 1.0
        self.low, self.high = min(ends) - margin, max(ends) + margin

    def place(self, value: float) -> float:
        """Return the position of a value."""
        return round(100 * (value - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[str]:
        """Return round values within the axis."""
        ticks = MaxNLocator(3).tick_values(self.low, self.high)
        return [f"{value:g}" for value in ticks if self.low < value < self.high]

    def strips(self, group: Group) -> list[tuple[str, float, float, float]]:
        """Return, for each run, its tooltip and the positions of its error and of the ends of its interval."""
        found = []
        for seed, run in zip(group.seeds, group.runs, strict=True):
            value, low, high = _interval(run)
            if low is None or high is None:
                low = high = value
            ends = f" [{four(low)}, {four(high)}]" if low < high else ""
            found.append((f"seed {seed}: {four(value)}{ends}", self.place(value), self.place(low), self.place(high)))
        return found


def interval_texts(group: Group) -> list[str]:
    """Return the interval that each run logged."""
    ends = [_interval(run)[1:] for run in group.runs]
    return ["not logged" if low is None or high is None else f"[{four(low)}, {four(high)}]" for low, high in ends]


def parity_of(group: Group, found: GroupDetails) -> Markup | None:
    """Return the parity plot of the first run, if it has predictions."""
    if found.predictions is None:
        return None
    target, prediction = (found.predictions[name].to_numpy(dtype=float) for name in (TARGET, PREDICTION))
    ids = found.predictions[MATERIAL_ID].astype(str).tolist()
    name, unit = label(group.runs[0]), unit_of(group.runs[0])
    return inline(
        lambda: parity_plot(target, prediction, label=name, unit=unit, ids=ids), f"{name}: predictions against targets"
    )


def curves_of(group: Group, found: GroupDetails) -> Markup | None:
    """Return the errors against the epochs, with a line for each seed, if there are histories."""
    frames = [_frame(histories, (f"{TRAIN}/{MAE}", f"{VAL}/{MAE}")) for histories in found.histories]
    if all(frame.empty for frame in frames):
        return None
    names = [f"seed {seed}" for seed in group.seeds]
    runs = list(zip(names, frames, found.selected, strict=True))
    first = group.runs[0]
    return inline(lambda: learning_curves(runs, unit_of(first)), f"{label(first)}: errors by epoch")


def _frame(histories: Mapping[str, History], names: Sequence[str]) -> pd.DataFrame:
    """Return the finite values of these metrics, by step."""
    known = {name: pd.Series(dict(histories[name]), dtype=float) for name in names if histories.get(name)}
    return pd.DataFrame(known).replace([np.inf, -np.inf], np.nan).dropna(how="all")


def element_errors_of(group: Group, found: GroupDetails) -> Heat | None:
    """Return the test errors by element, averaged over the runs that logged them."""
    if not found.element_errors:
        return None
    frame = pd.concat(found.element_errors).groupby(ELEMENT).agg({MAE: "mean", NUM_CRYSTALS: "max"})
    rows = zip(frame.index.astype(str), frame[MAE].astype(float), frame[NUM_CRYSTALS].astype(int), strict=True)
    known = {SYMBOLS.index(symbol) + 1: (mae, count) for symbol, mae, count in rows if symbol in SYMBOLS}
    return Heat(
        title="Test MAE by element",
        unit=unit_of(group.runs[0]),
        values={z: mae for z, (mae, _) in known.items()},
        notes={z: f", {count:,} test crystals contain it" for z, (_, count) in known.items()},
    )


def loss_curves_of(histories: Mapping[str, History], term: str) -> Markup | None:
    """Return the curves of a term of a pretraining's loss, if it was logged."""
    frame = _frame(histories, (f"{TRAIN}/{term}", f"{HELD_OUT}/{term}"))
    frame.index += 1
    return None if frame.empty else inline(lambda: loss_curves(frame), f"{TITLES[term]} loss by epoch")


def vector_tables(table: AtomVectors) -> list[Heat]:
    """Return the periodic tables of vectors: sites, lengths, leading components."""
    numbers = [int(z) for z in table.atomic_numbers]
    rows = table.vectors.astype(np.float64)
    found = []
    if table.site_counts is not None:
        counts = dict(zip(numbers, map(float, table.site_counts), strict=True))
        found.append(Heat(title="Sites that a vector averages", unit="sites", values=counts, log=True))
    norms = dict(zip(numbers, np.linalg.norm(rows, axis=1).tolist(), strict=True))
    found.append(Heat(title="Length of the vectors", unit="", values=norms))
    scores, explained = principal_components(table.vectors, 2)
    for i in range(scores.shape[1]):
        title = f"Principal component {i + 1} ({100 * explained[i]:.0f} % of variance)"
        values = dict(zip(numbers, scores[:, i].tolist(), strict=True))
        found.append(Heat(title=title, unit="", values=values, signed=True))
    return found


def vector_map_of(table: AtomVectors) -> Markup | None:
    """Return the map of the elements; None for fewer than three elements or two dimensions."""
    return inline(lambda: vector_map(table), "Map of the element vectors") if has_map(table) else None


def study_rows(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a study's table; a table of errors is formatted, any other is shown as it is."""
    if "test_mae" not in table:
        return list(map(str, table.columns)), [[_text(v) for v in row] for row in table.itertuples(index=False)]
    heads = ["Property", "Row", "Column", "Runs", "Test MAE", "Difference from the baseline", "After Holm", "Paper"]
    rows = [
        [
            PROPERTIES[cell["property"]].label if cell["property"] in PROPERTIES else _text(cell["property"]),
            _text(cell["row"]),
            _text(cell["column"]),
            f"{cell['runs']} of {cell['runs_wanted']}",
            _with_interval(cell, "test_mae") + f" {_text(cell['unit'])}",
            _with_interval(cell, "difference", "+") + (f", {_text(cell['verdict'])}" if _text(cell["verdict"]) else ""),
            _text(cell["verdict_holm"]),
            _text(cell["paper"]),
        ]
        for cell in table.to_dict("records")
    ]
    filled = [k for k in range(len(heads)) if any(row[k] for row in rows)]
    return [heads[k] for k in filled], [[row[k] for k in filled] for row in rows]


def _with_interval(cell: Mapping[Any, Any], name: str, sign: str = "") -> str:
    low, value, high = (cell[key] for key in (f"{name}_low", name, f"{name}_high"))
    if math.isnan(value):
        return ""
    deviation = cell.get(f"{name}_sd", math.nan)
    spread = "" if math.isnan(deviation) else f" ± {deviation:#.2g}".removesuffix(".")
    return f"{value:{sign}.4g}{spread} {Interval(value, low, high).ends(f'{sign}.4g')}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else four(value)
    return str(value)


def png(figure: bytes) -> str:
    """Return a PNG image as a data URL."""
    return "data:image/png;base64," + base64.b64encode(figure).decode()


def sweep_drawing(sweep: Sweep) -> Markup | None:
    """Return the figure of the finished trials, if there are two or more."""
    if len(sweep.ranked) < 2 or not sweep.searched:
        return None
    return inline(lambda: parallel_coordinates(sweep, "MAE/MAD"), "Settings and objective of the trials")


def epochs_of(probes: Mapping[str, Any], trial: TrackedRun) -> str:
    """Return the number of epochs after which a trial was last evaluated; empty if unknown."""
    history = probes.get(trial.run_id)
    return str(history[-1][0] + 1) if history else ""
