"""The studies of ``jobs/study.py``: grids of runs, the chemistry of atom vectors, and their worth at few labels."""

from __future__ import annotations

from crysatom.config import ChemistryConfig, FewLabelsConfig, GridConfig
from crysatom.studies.grid.loading import load_grid

NONE_FINISHED = 2
NOT_ALL_FINISHED = 3
"""Exit codes, the same as those of other jobs."""


def run(config: ChemistryConfig | FewLabelsConfig | GridConfig) -> tuple[str, int]:
    """Run a study; return the summary to print, and the exit code.

    0: all finished; 3: some runs (or cells) failed or are left to do; 2: none finished.

    Raises:
        ValueError: If data or flags cannot be used.

    """
    if isinstance(config, ChemistryConfig):
        from crysatom.studies.chemistry import pipeline as chemistry

        return chemistry.run(config), 0
    if isinstance(config, FewLabelsConfig):
        from crysatom.studies.few_labels import pipeline as few_labels

        return few_labels.run(config)
    grid = load_grid(config)  # a wrong name or flag is reported before imports that take seconds
    from crysatom.studies.grid import pipeline

    report = pipeline.run(config, grid)
    if not report.finished:
        return pipeline.describe(report), NONE_FINISHED
    return pipeline.describe(report), NOT_ALL_FINISHED if report.failed or report.left else 0
