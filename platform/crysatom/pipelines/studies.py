"""The studies of ``jobs/study.py``: grids of runs, and the chemistry of atom vectors."""

from __future__ import annotations

from crysatom.config import ChemistryConfig, GridConfig
from crysatom.pipelines import chemistry, grid

SOME_FAILED = 2
SOME_LEFT = 3


def run(config: ChemistryConfig | GridConfig) -> tuple[str, int]:
    """Do a study; return what a user wants to know, and the exit code: 0, 2: some runs failed, 3: some are left to do.

    Raises:
        ValueError: If what it compares is not usable as asked.

    """
    if isinstance(config, ChemistryConfig):
        return chemistry.run(config), 0
    report = grid.run(config)
    return grid.describe(report), SOME_FAILED if report.failed else SOME_LEFT if report.left else 0
