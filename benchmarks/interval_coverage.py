"""Coverage of 95 % intervals (percentile, BCa, studentized) of errors, differences and R2.

Samples are drawn from distributions with a known mean. Percentile and BCa intervals are scipy's, from the same
resamples; studentized intervals are those of crysatom.training.intervals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import bench
import numpy as np
from bench import Benchmark, Run
from numpy.typing import NDArray
from scipy import stats

from crysatom.training.intervals import RESAMPLES, bootstrap_mean, bootstrap_r2

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, int], Array]
Ends = tuple[float, float]

SIZES = (20, 50, 100, 300, 1000)
SAMPLES = (2000, 1000, 1000, 600, 300)
"""Number of samples of each size; a coverage of 0.95 then has a standard error of 0.005 to 0.013."""

LEAST_COVERAGE = 0.85
"""Least share that studentized intervals cover of anything in the full form (0.90 was seen)."""

DRAWS = 1000
LARGEST = 50.0
"""Cutoff of the half-Cauchy distribution, which has no mean otherwise."""


def half_cauchy(generator: np.random.Generator, count: int) -> Array:
    """Return half-Cauchy numbers below :data:`LARGEST`."""
    return np.tan(generator.random(count) * math.atan(LARGEST))


def same_crystals(generator: np.random.Generator, count: int) -> Array:
    """Return differences between the errors of two models, proportional to the difficulty of the crystal."""
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
class Experiment:
    """Samples of a distribution, given by kind and name: their size and number."""

    kind: str
    name: str
    size: int
    samples: int


def scipys(values: tuple[Array, ...], statistic: Callable[..., Any], generator: np.random.Generator) -> dict[str, Ends]:
    """Return scipy's percentile and BCa intervals."""
    common: dict[str, Any] = {"paired": True, "axis": -1, "rng": generator}
    found = stats.bootstrap(values, statistic, n_resamples=DRAWS, method="percentile", **common)
    other = stats.bootstrap(values, statistic, n_resamples=0, method="BCa", bootstrap_result=found, **common)
    percentile, bca = (result.confidence_interval for result in (found, other))
    return {"percentile": (percentile.low, percentile.high), "BCa": (bca.low, bca.high)}


def of_mean(experiment: Experiment, number: int) -> tuple[dict[str, Ends], float]:
    """Return the intervals of the mean of one sample, and the true mean."""
    draw, truth = {"errors": ERRORS, "differences": DIFFERENCES}[experiment.kind][experiment.name]
    generator = np.random.default_rng([number, experiment.size])
    values = draw(generator, experiment.size)
    normal = stats.t.interval(0.95, experiment.size - 1, values.mean(), stats.sem(values))
    equal, symmetric = (
        bootstrap_mean(values, seed=number, resamples=DRAWS, symmetric=symmetric)[1:] for symmetric in (False, True)
    )
    ours = {
        "studentized": equal,
        "studentized, symmetric": symmetric,
        "Student's t": (float(normal[0]), float(normal[1])),
    }
    return scipys((values,), np.mean, generator) | ours, truth


def r2(target: Array, prediction: Array, axis: int = -1) -> Array:
    """Return the coefficient of determination along an axis."""
    total = np.square(target - target.mean(axis=axis, keepdims=True)).mean(axis=axis)
    return np.asarray(1 - np.square(target - prediction).mean(axis=axis) / total)


def of_r2(experiment: Experiment, number: int) -> tuple[dict[str, Ends], float]:
    """Return the intervals of R2 of one sample (exponential targets, t-distributed errors), and the true R2."""
    generator = np.random.default_rng([number, experiment.size])
    target = generator.exponential(1, experiment.size)
    prediction = target + 0.3 * generator.standard_t(5, experiment.size)
    ours = {"studentized": bootstrap_r2(target, prediction, seed=number, resamples=DRAWS)[1:]}
    return scipys((target, prediction), r2, generator) | ours, 1 - 0.3**2 * 5 / 3


def coverage(experiment: Experiment) -> dict[str, dict[str, float]]:
    """Return, by method, the shares of intervals around, above and below the true value, and the median width."""
    one = partial(of_r2 if experiment.kind == "R2" else of_mean, experiment)
    seen: dict[str, list[tuple[float, ...]]] = {}
    for number in range(experiment.samples):
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
    """Return the processor time of an interval of this many errors, the minimum of five."""
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


def measure(run: Run) -> None:
    """Count how often intervals cover the true value."""
    kinds = {"errors": list(ERRORS), "differences": list(DIFFERENCES), "R2": ["exponential targets"]}
    sizes = list(zip(run.settings.sizes, run.settings.samples, strict=True))
    every = [Experiment(kind, name, *one) for kind, names in kinds.items() for name in names for one in sizes]
    largest_first = sorted(every, key=lambda one: -one.size * one.samples)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = dict(zip(largest_first, pool.map(coverage, largest_first), strict=True))
    for one in every:
        where = f"{one.kind}, {one.name}, n = {one.size:,}"
        run.facts[where] = found[one]
        covered = found[one]["studentized"]["covered"]
        least = 0.5 if run.small else LEAST_COVERAGE
        run.check(f"studentized intervals cover {least:g} or more", covered >= least, f"{where}: {covered}")
    for name, spent in seconds().items():
        run.figure(f"interval of 5,572 errors, {name}", [max(spent, 1e-3)], "CPU s", better="lower")


BENCHMARK = Benchmark(
    name="interval_coverage",
    about=str(__doc__),
    measures=("training/intervals.py",),
    settings={
        "sizes": bench.Setting(SIZES, (20,), "sizes of the samples"),
        "samples": bench.Setting(SAMPLES, (20,), "number of samples of each size"),
    },
    measure=measure,
    reads_table=False,
)

if __name__ == "__main__":
    bench.main(BENCHMARK)
