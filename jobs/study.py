"""Compare what others made: ``python jobs/study.py --study chemistry --vectors mine=runs/NAME/vectors random:0``."""

import sys

import bootstrap  # makes crysatom importable
from crysatom.config import StudyConfig, parse


def main() -> None:
    """Run the job."""
    config = parse(StudyConfig)
    bootstrap.set_up_process()
    from crysatom.pipelines.studies import run

    try:
        said = run(config)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(said)


if __name__ == "__main__":
    main()
