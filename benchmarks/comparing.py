"""Compare two results of a benchmark: which figures became worse by more than noise?

The change of a figure is that of its median over the rounds. Noise is half the range of the rounds, relative to the
median (20 % if there is one round), added up for both results, and at least 5 %: a round is worse than the median by
about that much without any cause. If the processors differ, only ratios of sides that took turns are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench

from crysatom.text_tables import markdown

LEAST_NOISE, NOISE_OF_ONE = 0.05, 0.2


@dataclass(frozen=True)
class Change:
    """A figure in two results.

    Attributes:
        name: Name of the figure.
        old: Old median.
        new: New median.
        noise: Relative change that needs no cause.
        better: Which values are better.

    """

    name: str
    old: float
    new: float
    noise: float
    better: bench.Better

    @property
    def gain(self) -> float:
        """How many times better the new median is; below 1 if it is worse."""
        return self.old / self.new if self.better == "lower" else self.new / self.old

    @property
    def verdict(self) -> str:
        """One word."""
        if self.better == "either" or 1 / (1 + self.noise) <= self.gain <= 1 + self.noise:
            return "same"
        return "better" if self.gain > 1 else "WORSE"


def noise_of(figure: Mapping[str, Any]) -> float:
    """Return half the range of a figure's rounds, relative to the median; a guess for a single round."""
    if len(figure["rounds"]) == 1:
        return NOISE_OF_ONE
    return float((max(figure["rounds"]) - min(figure["rounds"])) / 2 / figure["median"])


def changes(old: bench.Result, new: bench.Result) -> list[Change]:
    """Return the figures that both results have and that can be compared.

    Raises:
        ValueError: If the results are of different benchmarks or settings.

    """
    for name in ("benchmark", "small", "settings"):
        if old[name] != new[name]:
            raise ValueError(f"the results differ in {name}: {old[name]} and {new[name]}")
    same_machine = old["machine"]["processor"] == new["machine"]["processor"]
    before, after = old["results"]["figures"], new["results"]["figures"]
    return [
        Change(
            name,
            before[name]["median"],
            after[name]["median"],
            max(LEAST_NOISE, noise_of(before[name]) + noise_of(after[name])),
            after[name]["better"],
        )
        for name in after
        if name in before and (same_machine or after[name]["unit"] == "x")
    ]


def table(found: list[Change]) -> str:
    """Return the changes as a Markdown table."""
    rows = [
        [c.name, f"{c.old:.4g}", f"{c.new:.4g}", f"{c.gain:.2f}", f"{100 * c.noise:.0f} %", c.verdict] for c in found
    ]
    return markdown(["", "old", "new", "times better", "noise", ""], rows, "lrrrrl").rstrip()


def main(old: Path, new: Path) -> int | str:
    """Print the comparison; return the exit code, 1 if a figure became worse, or a message."""
    try:
        one, other = bench.read(old), bench.read(new)
        found = changes(one, other)
    except (OSError, ValueError) as error:
        return f"error: {error}"
    print(f"{one['benchmark']}: {old} ({one['commit'][:8]}) -> {new} ({other['commit'][:8]})")
    if one["machine"]["processor"] != other["machine"]["processor"]:
        print("The processors differ: only ratios are compared.")
    print(table(found))
    if not found:
        return "error: no figure to compare"
    return int(any(change.verdict == "WORSE" for change in found))
