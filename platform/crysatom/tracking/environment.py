"""The environment of a run: versions, code, hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from crysatom.names import __version__
from crysatom.tracking.fields import GIT_COMMIT, HARDWARE, PACKAGE_VERSION, SOURCE_NAME, SOURCE_TYPE

GIT_COMMIT_VARIABLE = "CRYSATOM_GIT_COMMIT"
"""Variable that names the commit where the code runs without its repository, as in a Ray job."""

_PACKAGES = ("mlflow", "numpy", "pymatgen", "ray", "scikit-learn", "torch", "torch-geometric", "umap-learn")


def environment_tags(hardware: str) -> dict[str, str]:
    """Return tags for the environment of a run.

    Args:
        hardware: Hardware of the computing processes (:mod:`crysatom.training.machine`); empty: not known yet, no tag.

    """
    versions = {f"{PACKAGE_VERSION}{name}": found for name in _PACKAGES if (found := _version(name))}
    commit = git_commit()
    return {
        f"{PACKAGE_VERSION}crysatom": __version__,
        f"{PACKAGE_VERSION}python": platform.python_version(),
        **versions,
        **({GIT_COMMIT: commit} if commit else {}),
        **({HARDWARE: hardware} if hardware else {}),
    }


def source_tags() -> dict[str, str]:
    """Return tags by which MLflow shows which script made a run; empty if there is no script."""
    script = Path(sys.argv[0]).name
    return {SOURCE_NAME: script, SOURCE_TYPE: "LOCAL"} if script.endswith(".py") else {}


def git_commit() -> str:
    """Return the commit of the code, with ``-dirty`` if files differ from it; empty if unknown."""
    if given := os.environ.get(GIT_COMMIT_VARIABLE):
        return given
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = subprocess.run(  # noqa: S603 - constant command
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
