"""Configuration of the report on experiments."""

from __future__ import annotations

from dataclasses import dataclass

from crysatom.config.base import Group
from crysatom.config.checks import require, require_each
from crysatom.config.groups import Store


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Group):
    """Make one HTML page from experiments in MLflow: errors, curves, sweeps, vectors. Nothing else is read."""

    experiment: tuple[str, ...] = ()
    """Names of the MLflow experiments."""

    out: str = "report.html"
    """Output HTML file, replaced if it exists; it loads no scripts, styles or pictures."""

    title: str = "CrysAtom report"
    """Title of the page."""

    figures: int = 20
    """Number of groups of runs that get their own figures, smallest errors first; also of pretrainings, sweeps and
    tables of vectors, latest first. Tables list everything. A figure adds about 20 kB."""

    tracking: Store = Store()

    def __post_init__(self) -> None:
        require(bool(self.experiment), "give the experiments: --experiment crysatom-pretrain crysatom-jarvis")
        require(self.out.endswith(".html"), f"out must name a .html file, got {self.out!r}")
        require_each(self, ("figures",), lambda value: value >= 0, "not be negative")
