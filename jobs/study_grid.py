"""Run a study of many runs: ``python jobs/study_grid.py --study table7 --data crystals.parquet --seeds 0 1 2``."""

import sys

import bootstrap  # makes crysatom importable
from crysatom.config import GridConfig, parse

SOME_FAILED = 2
SOME_LEFT = 3


def main() -> int:
    """Run the job; return its exit code: 0, 2 if some runs failed, or 3 if the budget left some undone."""
    config = parse(GridConfig)
    bootstrap.require_data(config.data)
    bootstrap.set_up_process()
    from crysatom.pipelines.grid import describe, run

    try:
        report = run(config)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(describe(report))
    if report.failed:
        return SOME_FAILED
    return SOME_LEFT if report.left else 0


if __name__ == "__main__":
    sys.exit(main())
