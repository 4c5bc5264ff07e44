"""``python -m crysatom.tracking.flush FOLDER``: send a run's pending records to MLflow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crysatom.config.secrets import warn_of_passwords
from crysatom.tracking.runs import Tracker


def main() -> None:
    """Send the pending records of a run's folder; exit with 1 if MLflow still does not answer."""
    parser = argparse.ArgumentParser(prog="python -m crysatom.tracking.flush", description=__doc__)
    parser.add_argument("folder", type=Path, help="the run's own folder")
    parser.add_argument("--tracking-uri", default="", help="MLflow; default: MLFLOW_TRACKING_URI, or mlflow.db here")
    parser.add_argument(
        "--new-run", action="store_true", help="if MLflow no longer has the run: create a new one with all records"
    )
    arguments = parser.parse_args()
    warn_of_passwords(sys.argv[1:])
    tracker = Tracker.at(arguments.folder, arguments.tracking_uri)
    sys.exit(0 if tracker.flush(new_run=arguments.new_run) else 1)


if __name__ == "__main__":
    main()
