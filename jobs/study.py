"""Run a study, of which there are many: ``python jobs/study.py --table 7 --data crystals.parquet --seeds 0 1 2``."""

import sys

import bootstrap  # makes crysatom importable
from crysatom.config import GridConfig, parse_study


def main() -> int:
    """Run the job; return its exit code: 0, 3 if some runs failed or are left to do, or 2 if none finished."""
    config = parse_study()
    if isinstance(config, GridConfig):
        bootstrap.require_data(config.data)
        if config.measured:
            bootstrap.require_data(config.measured)
    bootstrap.set_up_process()
    from crysatom.pipelines.studies import run

    try:
        said, code = run(config)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(said)
    return code


if __name__ == "__main__":
    bootstrap.run(main)
