"""The folder that relative outputs start from, and the MLflow store that belongs to it."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "CRYSATOM_HOME"
RAY_COPIES = "working_dir_files"
"""Folder of Ray's session that holds the working directories of submitted jobs."""


def base_folder() -> Path:
    """Return the folder that relative output paths start from.

    That is ``CRYSATOM_HOME`` if set, else the working directory. A job sent by ``ray job submit`` works in a copy that
    Ray deletes: its base folder is ``~/crysatom`` on the machine that it runs on.
    """
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser().resolve()
    return Path.home() / "crysatom" if in_copy() else Path.cwd().resolve()


def in_copy() -> bool:
    """Return whether the working directory is the copy that ``ray job submit --working-dir`` made."""
    return RAY_COPIES in Path.cwd().resolve().parts


def default_tracking_uri(given: str) -> str:
    """Return the MLflow store: as given, by ``MLFLOW_TRACKING_URI``, or sqlite in the base folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{base_folder() / 'mlflow.db'}"
