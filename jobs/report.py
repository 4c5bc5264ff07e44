"""One HTML page of what MLflow holds: ``python jobs/report.py --experiment crysatom-pretrain --out report.html``."""

import sys

import bootstrap  # makes crysatom importable
from crysatom.config import ReportConfig, parse


def main() -> None:
    """Run the job."""
    config = parse(ReportConfig)
    bootstrap.set_up_process()
    from crysatom.pipelines.report import describe, run

    try:
        finished = run(config)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(describe(finished))


if __name__ == "__main__":
    bootstrap.run(main)
