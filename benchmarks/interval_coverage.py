"""How often 95 % intervals hold the truth: percentile, BCa, studentized, for errors, differences and R2.

    python benchmarks/interval_coverage.py

Samples are drawn from distributions whose mean is known. Percentile and BCa are scipy's (BCa from the resamples of the
other), the studentized ones those of crysatom.training.intervals.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from compact import compact
from numpy.typing import NDArray
from scipy import stats

from crysatom.text_tables import markdown
from crysatom.training.intervals import RESAMPLES, bootstrap_mean, bootstrap_r2

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, int], Array]
Ends = tuple[float, float]

RESULTS = Path(__file__).parent / "results" / "interval_coverage.json"
SAMPLES = {20: 2000, 50: 1000, 100: 1000, 300: 600, 1000: 300}
"""How many samples of each size; a coverage of 0.95 then has a standard error of 0.005 to 0.013."""

DRAWS = 1000
LARGEST = 50.0
"""At which the half-Cauchy is cut off: it would have no mean."""


def half_cauchy(generator: np.random.Generator, count: int) -> Array:
    """Return half-Cauchy numbers below :data:`LARGEST`."""
    return np.tan(generator.random(count) * math.atan(LARGEST))


def same_crystals(generator: np.random.Generator, count: int) -> Array:
    """Return differences of the errors of two models, in proportion to how hard a crystal is for both."""
    return generator.lognormal(0, 1, count) * (generator.lognormal(0, 0.3, count) - 1)


ERRORS: dict[str, tuple[Draw, float]] = {
    "lognormal, sigma 1": (lambda generator, count: generator.lognormal(0, 1, count), math.exp(0.5)),
    "exponential": (lambda generator, count: generator.exponential(1, count), 1.0),
    "half-Cauchy below 50": (half_cauchy, math.log1p(LARGEST**2) / 2 / math.atan(LARGEST)),
    "absolute t, 3 degrees of freedom": (
        lambda generator, count: np.abs(generator.standard_t(3, count)),
        2 * math.sqrt(3) / math.pi,
    ),
}
DIFFERENCES: dict[str, tuple[Draw, float]] = {
    "hard crystals differ more": (same_crystals, math.exp(0.5) * (math.exp(0.045) - 1)),
    "of two lognormals": (
        lambda generator, count: generator.lognormal(0, 1, count) - generator.lognormal(0.1, 1, count),
        math.exp(0.5) * (1 - math.exp(0.1)),
    ),
    "t, 3 degrees of freedom": (lambda generator, count: generator.standard_t(3, count), 0.0),
}


@dataclass(frozen=True)
class Setting:
    """What is sampled: the name of an entry above, or of R2, and how many values a sample has."""

    kind: str
    name: str
    size: int


def scipys(values: tuple[Array, ...], statistic: Callable[..., Any], generator: np.random.Generator) -> dict[str, Ends]:
    """Return scipy's percentile and BCa intervals."""
    common: dict[str, Any] = {"paired": True, "axis": -1, "rng": generator}
    found = stats.bootstrap(values, statistic, n_resamples=DRAWS, method="percentile", **common)
    other = stats.bootstrap(values, statistic, n_resamples=0, method="BCa", bootstrap_result=found, **common)
    return {"percentile": tuple(found.confidence_interval), "BCa": tuple(other.confidence_interval)}


def of_mean(setting: Setting, number: int) -> tuple[dict[str, Ends], float]:
    """Return the intervals of the mean of one sample, and the true mean."""
    draw, truth = {"errors": ERRORS, "differences": DIFFERENCES}[setting.kind][setting.name]
    generator = np.random.default_rng([number, setting.size])
    values = draw(generator, setting.size)
    normal = stats.t.interval(0.95, setting.size - 1, values.mean(), stats.sem(values))
    equal, symmetric = (
        bootstrap_mean(values, seed=number, resamples=DRAWS, symmetric=symmetric)[1:] for symmetric in (False, True)
    )
    ours = {"studentized": equal, "studentized, symmetric": symmetric, "Student's t": tuple(map(float, normal))}
    return scipys((values,), np.mean, generator) | ours, truth


def r2(target: Array, prediction: Array, axis: int = -1) -> Array:
    """Return the coefficient of determination along an axis."""
    total = np.square(target - target.mean(axis=axis, keepdims=True)).mean(axis=axis)
    return np.asarray(1 - np.square(target - prediction).mean(axis=axis) / total)


def of_r2(setting: Setting, number: int) -> tuple[dict[str, Ends], float]:
    """Return the intervals of R2 of one sample of exponential targets with errors of t, and the true R2."""
    generator = np.random.default_rng([number, setting.size])
    target = generator.exponential(1, setting.size)
    prediction = target + 0.3 * generator.standard_t(5, setting.size)
    ours = {"studentized": bootstrap_r2(target, prediction, seed=number, resamples=DRAWS)[1:]}
    return scipys((target, prediction), r2, generator) | ours, 1 - 0.3**2 * 5 / 3


def coverage(setting: Setting) -> dict[str, dict[str, float]]:
    """Return, for each method, how often the truth is held, below and above the interval, and the median width."""
    one = partial(of_r2 if setting.kind == "R2" else of_mean, setting)
    seen: dict[str, list[tuple[float, ...]]] = {}
    for number in range(SAMPLES[setting.size]):
        found, truth = one(number)
        for method, (low, high) in found.items():
            seen.setdefault(method, []).append((low <= truth <= high, truth < low, truth > high, high - low))
    names = ("covered", "truth_below", "truth_above", "median_width")
    return {
        method: dict(zip(names, [*np.mean([r[:3] for r in rows], axis=0).round(4).tolist(), _width(rows)], strict=True))
        for method, rows in seen.items()
    }


def _width(rows: list[tuple[float, ...]]) -> float:
    return round(float(np.median([row[3] for row in rows])), 4)


def seconds(size: int = 5572) -> dict[str, float]:
    """Return what an interval of so many errors costs, the least of five times."""
    values = np.random.default_rng(0).lognormal(0, 1, size)
    scipy_options: dict[str, Any] = {"n_resamples": RESAMPLES, "batch": 200, "rng": 0}
    ways: dict[str, Callable[[], Any]] = {
        "studentized": partial(bootstrap_mean, values),
        "scipy, percentile": partial(stats.bootstrap, (values,), np.mean, method="percentile", **scipy_options),
        "scipy, BCa": partial(stats.bootstrap, (values,), np.mean, method="BCa", **scipy_options),
    }
    return {name: round(min(_timed(way) for _ in range(5)), 3) for name, way in ways.items()}


def _timed(way: Callable[[], Any]) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start


def processor() -> str:
    """Return the model of the processor, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


def show(results: Mapping[str, Any]) -> None:
    """Print a table for each kind."""
    for kind, names in results["coverage"].items():
        methods = next(iter(next(iter(names.values())).values()))
        rows = [
            [name, size, *(format(one["covered"], ".3f") for one in found.values())]
            for name, sizes in names.items()
            for size, found in sizes.items()
        ]
        print("\n" + markdown([kind, "n", *methods], rows, "lr" + "r" * len(methods)), end="")


def main() -> None:
    """Measure, print, and keep the figures."""
    kinds = {"errors": list(ERRORS), "differences": list(DIFFERENCES), "R2": ["exponential targets"]}
    settings = [Setting(kind, name, size) for kind, names in kinds.items() for name in names for size in SAMPLES]
    largest_first = sorted(settings, key=lambda setting: -setting.size * SAMPLES[setting.size])
    with ProcessPoolExecutor() as pool:
        found = dict(zip(largest_first, pool.map(coverage, largest_first), strict=True))
    tables: dict[str, Any] = {}
    for setting in settings:
        sizes = tables.setdefault(setting.kind, {}).setdefault(setting.name, {})
        sizes[str(setting.size)] = found[setting]
    results = {
        "level": 0.95,
        "resamples": DRAWS,
        "samples": {str(size): count for size, count in SAMPLES.items()},
        "coverage": tables,
        "cpu_seconds_of_5572_errors": seconds(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} x {processor()}",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
    }
    RESULTS.write_text(compact(results), encoding="utf-8")
    show(results)


if __name__ == "__main__":
    main()
