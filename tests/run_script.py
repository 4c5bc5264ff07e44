"""Run a few lines of Python in a new process without imports."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import PLATFORM, REPOSITORY


def run_script(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script that may import ``crysatom`` and ``tests``."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PLATFORM), str(REPOSITORY)]), **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
