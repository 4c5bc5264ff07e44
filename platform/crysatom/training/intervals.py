"""Confidence intervals of what is a mean, or made of means, over crystals or elements that were drawn independently.

By the studentized bootstrap: what is resampled is not the estimate but its distance from the truth in standard errors,
each resample measured by its own. A percentile interval, and BCa too, cover the mean of skewed errors less often than
they say: see docs/intervals.md and benchmarks/interval_coverage.py, where these functions are measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RESAMPLES = 2000
"""From seed to seed the ends of a 95 % interval then vary by one or two hundredths of its width."""

FEWEST = 4
"""Of three values one resample in 27 holds nothing but the least: more than the tail of a 95 % interval has."""

UNKNOWN = "[too few for an interval]"

_MAX_DRAWS = 2**20
"""Numbers drawn at a time: 8 MiB, and as much for what is made of them. More would be slower, not only larger."""

_NO_SPREAD = 1e-12
"""Share of the mean square below which a variance is rounding: all values of a resample are equal."""


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval; these are NaN where the data do not tell them."""

    estimate: float
    low: float
    high: float

    def ends(self, spec: str = ".4g") -> str:
        """Return the ends in brackets, by a format of numbers, or that they are not known."""
        return f"[{self.low:{spec}}, {self.high:{spec}}]" if np.isfinite([self.low, self.high]).all() else UNKNOWN


def bootstrap_mean(
    values: Array, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95, symmetric: bool = False
) -> Interval:
    r"""Return the mean of ``(n,)`` values with a studentized bootstrap interval.

    The ends are mean - q s / sqrt(n), q being quantiles of t = (mean* - mean) / (s* / sqrt(n)) over resamples: Efron
    and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5. With equal tails the interval reaches farther
    where the values have their long tail, which is right for errors: they are skewed upwards. Of differences nobody
    knows the skew beforehand, and what is seen of it is mostly noise. A symmetric interval, mean -+ q s / sqrt(n) with
    a quantile of \|t\|, does not follow that: Hall, J. R. Stat. Soc. B 50, 35 (1988).

    With equal tails no end is below 0 unless a value is. Values that are all equal have an interval without width. The
    ends are NaN where the data set no bounds: for fewer than :data:`FEWEST` values, and where so many are equal that
    too many resamples hold nothing else. Memory does not grow with ``resamples``; equal seeds give equal intervals.

    Args:
        values: Drawn independently.
        seed: Of the resamples.
        resamples: How many.
        level: Chance that the interval holds the truth.
        symmetric: For differences.

    Raises:
        ValueError: If there are no values, or the level does not lie in (0, 1).

    """
    if not len(values) or not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"a bootstrap needs values, resamples and a level in (0, 1); got {len(values)}, {resamples} and {level}"
        )
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < FEWEST:
        return Interval(mean, np.nan, np.nan)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    rest = values - mean
    distances = []
    for chosen in _resampled(len(values), resamples, seed):
        drawn = rest[chosen]
        away, square = drawn.mean(axis=1), np.einsum("ij,ij->i", drawn, drawn) / len(values)
        variance = square - np.square(away)
        distances.append(_in_errors(away, np.where(variance > _NO_SPREAD * square, variance, 0), len(values)))
    low, high = _quantiles(np.concatenate(distances), level, symmetric=symmetric)
    error = float(np.std(values)) / len(values) ** 0.5
    least = mean - high * error
    return Interval(mean, max(least, 0.0) if values.min() >= 0 and not symmetric else least, mean - low * error)


def bootstrap_r2(
    target: Array, prediction: Array, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> Interval:
    """Return R2 of ``(n,)`` predictions with a studentized bootstrap interval, of equal tails in log(1 - R2).

    That is the difference of the logarithms of two means, of squared errors e and of squared deviations d from the mean
    target, and its standard error is that of the mean of e / mean e - d / mean d (delta method). No end exceeds 1.

    All three are NaN where all targets are equal; the ends are as of :func:`bootstrap_mean`, and for exact predictions.
    """
    target, prediction = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    squares, count = np.square(prediction - target), len(target)
    if not (np.ptp(target) and squares.any()):
        return Interval(1.0 if np.ptp(target) else np.nan, np.nan, np.nan)
    ratio, variance = _log_ratio(squares[None], target[None])
    distances = []
    for chosen in _resampled(count, resamples, seed):
        ratios, variances = _log_ratio(squares[chosen], target[chosen])
        distances.append(_in_errors(ratios - ratio, variances, count))
    low, high = _quantiles(np.concatenate(distances), level, symmetric=False)
    error = float(variance[0] / count) ** 0.5
    found, least, most = (float(1 - np.exp(ratio[0] - steps * error)) for steps in (0.0, low, high))
    return Interval(found, least, most)


def wilson(hits: Array, *, level: float = 0.95) -> Interval:
    """Return the share of ``(n,)`` hits, 0 or 1, with Wilson's score interval, which lies within 0 and 1.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n): J. Am. Stat. Assoc. 22, 209 (1927). Where all
    are hits, or none, a bootstrap would know nothing. Hits between 0 and 1 vary less than it takes them to.
    """
    share, count, z = float(np.mean(hits)), len(hits), statistics.NormalDist().inv_cdf((1 + level) / 2)
    center, weight = share + z**2 / (2 * count), 1 + z**2 / count
    reach = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(share, (center - reach) / weight, (center + reach) / weight)


def _resampled(count: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield ``(b, n)`` indices of resamples, as many at a time as memory is for."""
    generator = np.random.default_rng(seed)
    size = max(1, _MAX_DRAWS // count)
    for start in range(0, resamples, size):
        yield generator.integers(count, size=(min(size, resamples - start), count))


def _log_ratio(squares: Array, target: Array) -> tuple[Array, Array]:
    """Return log(1 - R2) of ``(b, n)`` samples, and n times the variance that it has."""
    deviations = np.square(target - target.mean(axis=1, keepdims=True))
    error, spread = squares.mean(axis=1, keepdims=True), deviations.mean(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold one target only
        return np.log(error / spread)[:, 0], np.square(squares / error - deviations / spread).mean(axis=1)


def _in_errors(away: Array, variance: Array, count: int) -> Array:
    """Return distances in standard errors of each resample; infinite where it has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = away / np.sqrt(variance / count)
    return np.where(np.isnan(distance), np.inf, distance)


def _quantiles(distances: Array, level: float, *, symmetric: bool) -> tuple[float, float]:
    """Return the least and the most standard errors by which estimates exceed the truth; NaN if there is no limit."""
    if symmetric:
        reach = float(np.quantile(np.abs(distances), level, method="higher"))
        low, high = -reach, reach
    else:
        low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2], method="nearest").tolist()
    return (low, high) if np.isfinite([low, high]).all() else (np.nan, np.nan)
