"""``python -m crysatom.tracking.relocate``: let MLflow find the artifacts of a home that was moved or copied."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crysatom.config.secrets import without_password
from crysatom.tracking.database import file_of, make_ready
from crysatom.tracking.homes import artifact_root, relocate
from crysatom.tracking.store import missing_file, resolve_uri


def main() -> None:
    """Make the records of a store right; exit with 1, saying why, if that cannot be done."""
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
        raise ValueError(f"{without_password(uri)} is no sqlite file that is there; a server's artifacts are its own")
    make_ready(file)
    if moved := relocate(file):
        return f"{file}: artifacts are now recorded in {artifact_root(file)}, no longer in {', '.join(moved)}"
    return f"{file}: nothing to do, its artifacts are where it records them"


if __name__ == "__main__":
    main()
