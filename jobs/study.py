"""Run a study: ``python jobs/study.py --table 7 --data crystals.parquet --seeds 0 1 2``."""

import bootstrap  # makes crysatom importable


def main() -> int:
    """Run the job; return its exit code: 0, 3 if some runs failed or are left to do, or 2 if none finished."""
    from crysatom.config import parse_study

    config = parse_study()
    bootstrap.begin(config, names=[config.output.name])
    from crysatom.studies.pipeline import run

    said, code = run(config)
    print(said)
    return code


if __name__ == "__main__":
    bootstrap.run(main, kept="graphs, finished runs, and the newest checkpoints of others; the same command finds them")
