"""``python -m crysatom.tracking.relocate``: correct the artifact locations of a home that was moved or copied."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crysatom.config.secrets import without_password
from crysatom.tracking.database import file_of, make_ready
from crysatom.tracking.homes import artifact_root, relocate
from crysatom.tracking.store import missing_file, resolve_uri


def main() -> None:
    """Correct the records of a store; exit with 1 and the reason if that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m crysatom.tracking.relocate", description=__doc__)
    parser.add_argument("--tracking-uri", default="", help="MLflow; default: MLFLOW_TRACKING_URI, or mlflow.db here")
    try:
        print(_relocated(parser.parse_args().tracking_uri))  # noqa: T201 - the answer
    except ValueError as error:
        sys.exit(f"error: {error}")


def _relocated(tracking_uri: str) -> str:
    uri = resolve_uri(tracking_uri, Path.cwd())
    file = file_of(uri)
    if file is None or missing_file(uri):
        raise ValueError(f"{without_password(uri)} is not an existing sqlite file; a server manages its artifacts")
    make_ready(file)
    if moved := relocate(file):
        return f"{file}: artifacts are now recorded in {artifact_root(file)}, no longer in {', '.join(moved)}"
    return f"{file}: nothing to do, its artifacts are where it records them"


if __name__ == "__main__":
    main()
