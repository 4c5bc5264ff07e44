"""Drawings that a page holds as text: they follow its colors, in light and dark, and say their numbers on hover.

Everything written passes through :func:`tag`, which escapes it. Colors are classes of the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from crysatom.names import MAX_ATOMIC_NUMBER, SYMBOLS
from crysatom.report.labels import place_labels
from crysatom.vectors.elements import element_table

Array = NDArray[np.float64]
Points = Sequence[tuple[float, float]]

DECADE = 10.0
"""A positive quantity that varies by more than this factor gets a logarithmic axis."""

MANY = 2000
"""Points from which a scatter plot is a blot, and a density is drawn instead."""

SHOWN_POINTS = 300
"""Of a curve: more than pixels."""

WORST = 5
"""Predictions that say on hover which crystal they are of."""

_CELL = 40
_LEVELS = 5


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """Return an element; children and values of attributes are escaped unless they are markup already."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _text(value)) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, Markup("").join(map(escape, children)))  # noqa: S704 - names are ours


def _text(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def picture(width: float, height: float, label: str, *children: Any, kind: str = "") -> Markup:
    """Return a drawing that is as wide as its place allows, up to its own width."""
    box = f"0 0 {_text(float(width))} {_text(float(height))}"
    return tag(
        "svg", *children, viewBox=box, role="img", aria_label=label, class_=kind, style=f"max-width:{width:.0f}px"
    )


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From values to places.

    Attributes:
        low: Value at the first place.
        high: Value at the second.
        start: First place.
        end: Second place.
        log: Whether it is logarithmic.

    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float] | Array, start: float, end: float, *, log: bool | None = None) -> Axis:
        """Return the axis of some finite values, with a margin; logarithmic, unless told, if they vary by a decade."""
        low, high = float(np.min(values)), float(np.max(values))
        log = (low > 0 and high > DECADE * low) if log is None else log
        if log:
            margin = 0.04 * math.log(high / low)
            return cls(low=low * math.exp(-margin), high=high * math.exp(margin), start=start, end=end, log=True)
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low=low - margin, high=high + margin, start=start, end=end)

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5, *, integer: bool = False) -> list[float]:
        """Return round values within."""
        if self.log:
            for subs in ((1.0, 2.0, 5.0), tuple(float(i) for i in range(1, 10))):
                found = self._within(LogLocator(subs=subs).tick_values(self.low, self.high))
                if len(found) > 1:
                    return found if len(found) <= 2 * count else found[:: math.ceil(len(found) / count)]
        steps = [1, 2, 5, 10] if integer else [1, 2, 2.5, 5, 10]
        found = self._within(MaxNLocator(nbins=count, integer=integer, steps=steps).tick_values(self.low, self.high))
        return [value for value in found if value.is_integer()] if integer else found

    def _within(self, values: Any) -> list[float]:
        slack = 1e-9 * (self.high - self.low)
        return [float(value) for value in values if self.low - slack <= value <= self.high + slack]


def _frame(x: Axis, y: Axis, x_label: str, y_label: str, *, integer: bool = False) -> list[Markup]:
    parts = []
    for value in y.ticks():
        place = y(value)
        parts += [
            tag("path", d=f"M{x.start:.1f} {place:.1f}H{x.end:.1f}", class_="grid"),
            tag("text", f"{value:g}", x=x.start - 6, y=place + 4, class_="end"),
        ]
    for value in x.ticks(integer=integer):
        place = x(value)
        parts += [
            tag("path", d=f"M{place:.1f} {y.start:.1f}V{y.end:.1f}", class_="grid"),
            tag("text", f"{value:g}", x=place, y=y.start + 16, class_="mid"),
        ]
    parts.append(tag("text", x_label, x=(x.start + x.end) / 2, y=y.start + 34, class_="mid name"))
    parts.append(tag("text", y_label, x=4.0, y=y.end - 12, class_="name"))
    return parts


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: For the legend, which lists each once.
        points: Epoch, counted from 1, and value.
        style: ``first`` or ``second``.
        marked: Epoch that is marked; None: none.
        hover: What the line says.

    """

    label: str
    points: Points
    style: str
    marked: int | None = None
    hover: str = ""


def curves(title: str, y_label: str, lines: Sequence[Curve]) -> Markup:
    """Draw values against epochs.

    Raises:
        ValueError: If there is no point.

    """
    points = [(px, py) for line in lines for px, py in line.points if math.isfinite(py)]
    if not points:
        raise ValueError(f"{title}: no points to draw")
    first, last = min(px for px, _ in points), max(px for px, _ in points)
    margin = min(0.04 * (last - first) + 0.2, 0.5)  # so that no tick is before the first epoch
    x = Axis(low=first - margin, high=last + margin, start=58, end=350)
    y = Axis.over([py for _, py in points], 210, 48)
    parts = _frame(x, y, "Epoch", y_label, integer=True)
    for line in lines:
        thinned = _thinned([(px, py) for px, py in line.points if math.isfinite(py)])
        d = "M" + "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in thinned)
        if len(thinned) == 1:
            d += "m-8 0h16"  # a point alone: a dash
        parts.append(tag("path", tag("title", line.hover or line.label), d=d, class_=f"line {line.style}"))
        parts += [
            tag(
                "circle",
                tag("title", f"{line.hover}: kept, epoch {px:g}: {py:.4g}"),
                cx=x(px),
                cy=y(py),
                r=5,
                class_="ring",
            )
            for px, py in line.points
            if px == line.marked
        ]
    parts += _legend({line.label: line.style for line in lines}, right=350)
    return picture(360, 250, title, *parts, kind="chart")


def _thinned(points: Points) -> Points:
    step = math.ceil(len(points) / SHOWN_POINTS)
    return points if step < 2 else [*points[:-1:step], points[-1]]


def _legend(styles: Mapping[str, str], right: float) -> list[Markup]:
    parts, place = [], right
    for label, style in reversed(list(styles.items())):
        parts.append(tag("text", label, x=place, y=14, class_="end"))
        place -= 7 * len(label) + 6
        parts.append(tag("path", d=f"M{place - 18:.1f} 10H{place:.1f}", class_=f"line {style}"))
        place -= 30
    return parts


def parity(ids: Sequence[str], target: Array, prediction: Array, *, label: str, unit: str) -> Markup:
    """Draw predictions against targets, with the line on which they would be perfect; the worst say which they are."""
    both = np.concatenate([target, prediction])
    x, y = Axis.over(both, 58, 350, log=False), Axis.over(both, 330, 38, log=False)
    parts = _frame(x, y, f"Target ({unit})" if unit else "Target", f"Prediction ({unit})" if unit else "Prediction")
    parts += _density(x, y, target, prediction) if len(target) > MANY else [_dots(x, y, target, prediction)]
    parts.append(tag("path", d=f"M{x.start} {y.start}L{x.end} {y.end}", class_="ideal"))
    for i in np.argsort(-np.abs(prediction - target), kind="stable")[:WORST]:
        says = f"{ids[i]}: target {target[i]:.4g}, prediction {prediction[i]:.4g} {unit}"
        parts.append(tag("circle", tag("title", says), cx=x(target[i]), cy=y(prediction[i]), r=4, class_="ring"))
    return picture(360, 370, f"{label}: predictions against targets", *parts, kind="chart")


def _dots(x: Axis, y: Axis, target: Array, prediction: Array) -> Markup:
    places = "".join(f"M{x(a):.0f} {y(b):.0f}h0" for a, b in zip(target, prediction, strict=True))
    return tag("path", d=places, class_="dots")


def _density(x: Axis, y: Axis, target: Array, prediction: Array) -> list[Markup]:
    size = 5.0
    columns = np.floor([(x(value) - x.start) / size for value in target]).astype(int)
    rows = np.floor([(y(value) - y.end) / size for value in prediction]).astype(int)
    bins, counts = np.unique(np.stack([columns, rows]), axis=1, return_counts=True)
    level = np.ceil(_LEVELS * np.log1p(counts) / np.log1p(counts.max())).astype(int)
    return [
        tag(
            "path",
            tag("title", f"up to {counts[level == step].max():,} crystals in a square"),
            d="".join(f"M{x.start + size * c:.0f} {y.end + size * r:.0f}h5v5h-5z" for c, r in bins[:, level == step].T),
            class_="bin",
            opacity=f"{step / _LEVELS:.1f}",
        )
        for step in range(1, _LEVELS + 1)
        if (level == step).any()
    ]


def interval_axis(values: Sequence[float]) -> Axis:
    """Return the axis that the intervals of one table share."""
    return Axis.over(values, 8, 212, log=False)


def interval_scale(axis: Axis) -> Markup:
    """Draw the numbers of an axis, for the head of a column of intervals."""
    ticks = axis.ticks(4)
    parts = [tag("text", f"{value:g}", x=axis(value), y=12, class_="mid") for value in ticks]
    return picture(220, 16, "scale", *parts, kind="chart strip")


def intervals(axis: Axis, runs: Sequence[tuple[str, float, float | None, float | None]], mean: float) -> Markup:
    """Draw estimates with their intervals, one under the other, and a line at their mean.

    Args:
        axis: Of the table.
        runs: What a run is called, its estimate, and the ends of its interval if it has one.
        mean: Of the estimates.

    """
    height = 8 * len(runs) + 8
    parts = [tag("path", d=f"M{axis(value):.1f} 0V{height}", class_="grid") for value in axis.ticks(4)]
    if len(runs) > 1:
        parts.append(tag("path", d=f"M{axis(mean):.1f} 2V{height - 2}", class_="mean"))
    for i, (name, value, low, high) in enumerate(runs):
        y = 8.0 * i + 8
        says = f"{name}: {four(value)}"
        bar = []
        if low is not None and high is not None:
            says += f" [{four(low)}, {four(high)}]"
            bar = [tag("path", d=f"M{axis(low):.1f} {y:.1f}H{axis(high):.1f}", class_="line first")]
        dot = tag("circle", cx=axis(value), cy=y, r=3, class_="dot")
        parts.append(tag("g", tag("title", says), *bar, dot))
    return picture(220, height, "errors of the runs with their intervals", *parts, kind="chart strip")


@dataclass(frozen=True, kw_only=True)
class Heat:
    """What a periodic table shows.

    Attributes:
        title: What it is.
        unit: Of the values, behind each.
        values: By atomic number.
        says: Further words on hover, by atomic number.
        log: Whether colors go by the logarithm.
        signed: Whether values lie about zero, so that the sign has a color.

    """

    title: str
    unit: str
    values: Mapping[int, float]
    says: Mapping[int, str]
    log: bool = False
    signed: bool = False

    def shades(self) -> dict[int, float]:
        """Return shades in [-1, 1], by atomic number."""
        if not self.values:
            return {}
        values = {z: math.log1p(value) if self.log else value for z, value in self.values.items()}
        low, high = (
            (0.0, max(map(abs, values.values()))) if self.signed else (min(values.values()), max(values.values()))
        )
        return {z: (value - low) / (high - low) if high > low else 0.5 for z, value in values.items()}


def periodic_table(heat: Heat) -> Markup:
    """Draw all elements, those with a value in its shade; each says its value on hover."""
    shades = heat.shades()
    cells = [_element_cell(z, heat, shades.get(z)) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    return picture(18 * _CELL, 9.4 * _CELL, heat.title, *cells, kind="elements")


def _element_cell(z: int, heat: Heat, shade: float | None) -> Markup:
    facts = element_table()[z]
    period = int(facts["period"])
    in_f_block = bool(facts["f_column"])
    column = int(facts["f_column"]) + 2 if in_f_block else int(facts["group"])
    x, y = (column - 1) * _CELL, (period - 1 + (2.4 if in_f_block else 0)) * _CELL
    symbol = tag("text", SYMBOLS[z - 1], x=x + 20, y=y + 26)
    box = {"x": x + 1, "y": y + 1, "width": 38, "height": 38}
    if shade is None:
        return tag("g", tag("title", f"{SYMBOLS[z - 1]}: no value"), tag("rect", **box), symbol, class_="none")
    says = f"{SYMBOLS[z - 1]}: {number(heat.values[z])} {heat.unit}".rstrip() + heat.says.get(z, "")
    style = ("neg" if shade < 0 else "pos") + (" deep" if abs(shade) > 0.5 else "")
    opacity = f"{0.06 + 0.94 * abs(shade):.2f}"
    return tag("g", tag("title", says), tag("rect", **box, fill_opacity=opacity), symbol, class_=style)


def four(value: float) -> str:
    """Return a measured number with four digits, zeros at the end too."""
    return f"{value:#.4g}".removesuffix(".")


def number(value: float) -> str:
    """Return a count with thousands set apart, any other number with four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else four(value)


def element_map(
    atomic_numbers: NDArray[np.int64], scores: Array, explained: Array, says: Mapping[int, str], families: Sequence[str]
) -> Markup:
    """Draw elements in the plane of two principal components; each says its group and period on hover."""
    x, y = Axis.over(scores[:, 0], 58, 710, log=False), Axis.over(scores[:, 1], 480, 38, log=False)
    labels = [f"Principal component {i + 1} ({100 * explained[i]:.0f} % of variance)" for i in range(2)]
    parts = _frame(x, y, *labels)
    places = np.array([(x(a), -y(b)) for a, b in scores])  # labels count upward
    symbols = [SYMBOLS[z - 1] for z in atomic_numbers]
    sizes = np.array([(8.0 * len(symbol), 12.0) for symbol in symbols])
    for i, center in enumerate(place_labels(places, sizes, gap=4.0)):
        px, py = places[i][0], -places[i][1]
        cx, cy = center[0], -center[1]
        far = math.hypot(cx - px, cy - py) > 18
        parts.append(
            tag(
                "g",
                tag("title", says[int(atomic_numbers[i])]),
                *([tag("path", d=f"M{px:.1f} {py:.1f}L{cx:.1f} {cy:.1f}", class_="grid")] if far else []),
                tag(
                    "circle",
                    cx=px,
                    cy=py,
                    r=4.5,
                    class_=f"family f{families.index(element_table()[int(atomic_numbers[i])]['family'])}",
                ),
                tag("text", symbols[i], x=cx, y=cy + 4, class_="mid symbol"),
            )
        )
    return picture(720, 525, "Map of the element vectors", *parts, kind="chart map")


def parallel_coordinates(
    settings: Sequence[Mapping[str, str]],
    values: Sequence[float],
    names: Sequence[str],
    *,
    objective: str,
    says: Sequence[str],
) -> Markup:
    """Draw a line for each trial through its settings to its objective; the first is the best and drawn last.

    Args:
        settings: Of the trials, the best first.
        values: Their objectives.
        names: Of the settings.
        objective: What the values are.
        says: What each line says on hover.

    """
    width = 150 * len(names) + 190
    axes = [_SettingAxis.of([trial.get(name, "") for trial in settings]) for name in names]
    last = Axis.over(values, 250, 48, log=False)
    columns = [110.0 + 150 * i for i in range(len(names) + 1)]
    parts = []
    for column, title in zip(columns, [*names, objective], strict=True):
        parts.append(tag("path", d=f"M{column:.0f} 40V258", class_="axis"))
        parts.append(tag("text", title, x=column, y=24, class_="mid name"))
    for trial in reversed(range(len(settings))):
        heights = [axis.place(settings[trial].get(name, "")) for axis, name in zip(axes, names, strict=True)]
        line = "M" + "L".join(f"{c:.0f} {h:.1f}" for c, h in zip(columns, [*heights, last(values[trial])], strict=True))
        style = "line first best" if trial == 0 else "line rest"
        parts.append(tag("path", tag("title", says[trial]), d=line, class_=style))
    parts += [tag("text", text, x=columns[0] - 8, y=place + 4, class_="end") for text, place in axes[0].ticks()]
    for column, axis in zip(columns[1:], axes[1:], strict=False):
        parts += [tag("text", text, x=column + 6, y=place - 5, class_="halo") for text, place in axis.ticks()]
    parts += [tag("text", f"{value:g}", x=columns[-1] + 8, y=last(value) + 4) for value in last.ticks()]
    return picture(width, 275, "Settings and objective of the trials", *parts, kind="chart wide")


@dataclass(frozen=True, kw_only=True)
class _SettingAxis:
    """Of a setting: numbers by size, all else in the order of its names."""

    texts: tuple[str, ...]
    numbers: Axis | None

    @classmethod
    def of(cls, texts: Sequence[str]) -> _SettingAxis:
        distinct = tuple(sorted(set(texts)))
        values = [_number(text) for text in distinct]
        known = [value for value in values if value is not None]
        axis = Axis.over(known, 250, 48) if len(known) == len(values) and len(known) > 1 else None
        return cls(texts=distinct, numbers=axis)

    def place(self, text: str) -> float:
        if self.numbers is not None:
            return self.numbers(float(text))
        return 149.0 if len(self.texts) == 1 else 250 - 202 * self.texts.index(text) / (len(self.texts) - 1)

    def ticks(self) -> list[tuple[str, float]]:
        if self.numbers is not None and len(self.texts) > 6:
            return [(f"{value:g}", self.numbers(value)) for value in self.numbers.ticks()]
        return [(text or "(not set)", self.place(text)) for text in self.texts]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
