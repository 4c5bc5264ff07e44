"""Confidence intervals of means, and of functions of means, over crystals or elements drawn independently.

They use the studentized bootstrap, which resamples the estimate's distance from the truth in units of each resample's
own standard error. For skewed errors, percentile and BCa intervals cover the mean less often than their level states:
see docs/intervals.md, and benchmarks/interval_coverage.py, which measures these functions.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RESAMPLES = 2000
"""With this number, the ends of a 95 % interval vary between seeds by one or two hundredths of its width."""

FEWEST = 4
"""With three values, one resample in 27 holds only the least: more than the tail of a 95 % interval."""

UNKNOWN = "[too few for an interval]"

_MAX_DRAWS = 2**20
"""Numbers drawn at a time: 8 MiB, and as much again for intermediate results. A larger number would be slower."""

_NO_SPREAD = 1e-12
"""Share of the mean square below which a variance is rounding error: all values of the resample are equal."""


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval; the ends are NaN if the data do not determine them."""

    estimate: float
    low: float
    high: float

    def ends(self, spec: str = ".4g") -> str:
        """Return the ends in brackets, in the given number format, or a note that they are unknown."""
        return f"[{self.low:{spec}}, {self.high:{spec}}]" if np.isfinite([self.low, self.high]).all() else UNKNOWN


def bootstrap_mean(
    values: Array, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95, symmetric: bool = False
) -> Interval:
    r"""Return the mean of ``(n,)`` values with a studentized bootstrap interval.

    The ends are mean - q s / sqrt(n), where q are quantiles of t = (mean* - mean) / (s* / sqrt(n)) over resamples:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5. With equal tails the interval reaches
    farther towards the values' long tail. This suits errors, which are skewed upwards. The skew of differences is not
    known beforehand, and the observed skew is mostly noise. A symmetric interval, mean -+ q s / sqrt(n) with a quantile
    of \|t\|, ignores it: Hall, J. R. Stat. Soc. B 50, 35 (1988).

    With equal tails no end is below 0 unless a value is. Values that are all equal have an interval of width 0. The
    ends are NaN if the data do not bound them: for fewer than :data:`FEWEST` values, or if so many values are equal
    that too many resamples are constant. Memory does not grow with ``resamples``; equal seeds give equal intervals.

    Args:
        values: Values drawn independently.
        seed: Seed of the resamples.
        resamples: Number of resamples.
        level: Probability that the interval contains the truth.
        symmetric: Whether the interval is symmetric; for differences.

    Raises:
        ValueError: If there are no values, or the level is not in (0, 1).

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
    """Return R2 of ``(n,)`` predictions with a studentized bootstrap interval, equal-tailed in log(1 - R2).

    log(1 - R2) is the difference of the logarithms of two means: of squared errors e, and of squared deviations d from
    the mean target. Its standard error is that of the mean of e / mean e - d / mean d (delta method). No end exceeds 1.

    All three are NaN if all targets are equal. The ends are NaN as in :func:`bootstrap_mean`, and for exact
    predictions.
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

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n): J. Am. Stat. Assoc. 22, 209 (1927). A
    bootstrap fails if all values are hits, or none. For values between 0 and 1 the interval is wider than necessary.
    """
    share, count, z = float(np.mean(hits)), len(hits), statistics.NormalDist().inv_cdf((1 + level) / 2)
    center, weight = share + z**2 / (2 * count), 1 + z**2 / count
    reach = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(share, (center - reach) / weight, (center + reach) / weight)


def _resampled(count: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield ``(b, n)`` indices of resamples, as many at a time as :data:`_MAX_DRAWS` allows."""
    generator = np.random.default_rng(seed)
    size = max(1, _MAX_DRAWS // count)
    for start in range(0, resamples, size):
        yield generator.integers(count, size=(min(size, resamples - start), count))


def _log_ratio(squares: Array, target: Array) -> tuple[Array, Array]:
    """Return log(1 - R2) of ``(b, n)`` samples, and n times its variance."""
    deviations = np.square(target - target.mean(axis=1, keepdims=True))
    error, spread = squares.mean(axis=1, keepdims=True), deviations.mean(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold one target only
        return np.log(error / spread)[:, 0], np.square(squares / error - deviations / spread).mean(axis=1)


def _in_errors(away: Array, variance: Array, count: int) -> Array:
    """Return distances in units of each resample's standard error; infinite if that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = away / np.sqrt(variance / count)
    return np.where(np.isnan(distance), np.inf, distance)


def _quantiles(distances: Array, level: float, *, symmetric: bool) -> tuple[float, float]:
    """Return the least and the most standard errors by which estimates exceed the truth; NaN if unbounded."""
    if symmetric:
        reach = float(np.quantile(np.abs(distances), level, method="higher"))
        low, high = -reach, reach
    else:
        low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2], method="nearest").tolist()
    return (low, high) if np.isfinite([low, high]).all() else (np.nan, np.nan)
