"""Where results go: a folder that outlives the job, whichever way the job was started."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "CRYSATOM_HOME"


def base_folder() -> Path:
    """Return the folder that relative output paths start from.

    That is ``CRYSATOM_HOME`` if set, else the working directory; except for a job sent by ``ray job submit``,
    whose working directory is a copy that Ray deletes: there it is ``~/crysatom`` of the machine the job runs on.
    """
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser().resolve()
    working = Path.cwd().resolve()
    if "working_dir_files" in working.parts:
        return Path.home() / "crysatom"
    return working


def resolve(path: str) -> Path:
    """Return an output path as an absolute one."""
    return base_folder() / Path(path).expanduser()


def default_tracking_uri(given: str) -> str:
    """Return where runs are tracked: as given, by ``MLFLOW_TRACKING_URI``, or sqlite in the base folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{base_folder() / 'mlflow.db'}"
