"""The configuration of the report on experiments."""

from __future__ import annotations

from dataclasses import dataclass

from crysatom.config.base import Group
from crysatom.config.checks import require, require_each
from crysatom.config.groups import Store


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Group):
    """Make one HTML page of what MLflow holds of experiments: errors, curves, sweeps, vectors. Nothing else is read."""

    experiment: tuple[str, ...] = ()
    """Experiments in MLflow, by name."""

    out: str = "report.html"
    """The page, replaced if it is there; one file without scripts, styles or pictures from elsewhere."""

    title: str = "CrysAtom report"
    """Title of the page."""

    figures: int = 20
    """Groups of runs that get figures of their own, those with the smallest errors first; likewise pretrainings, sweeps
    and tables of vectors, the latest first. Tables list everything. Each figure adds some 20 kB."""

    tracking: Store = Store()

    def __post_init__(self) -> None:
        require(bool(self.experiment), "say what to report on: --experiment crysatom-pretrain crysatom-jarvis")
        require(self.out.endswith(".html"), f"out must name a .html file, got {self.out!r}")
        require_each(self, ("figures",), lambda value: value >= 0, "not be negative")
