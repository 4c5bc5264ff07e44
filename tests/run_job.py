"""Run a job's file as Python would, but in this process: imports of a new process take six seconds."""

from __future__ import annotations

import contextlib
import io
import logging
import runpy
import signal
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


def run_here(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``jobs/NAME.py`` in the working directory, with the environment of this process.

    Handlers of logging and of signals that a job sets are restored.
    """
    file = str(REPOSITORY / "jobs" / f"{name}.py")
    root, out, err = logging.getLogger(), io.StringIO(), io.StringIO()
    handlers, levels = root.handlers[:], (root.level, logging.getLogger("crysatom").level)
    answers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [file, *arguments])
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root.handlers[:] = []  # otherwise the job does not install its own
        try:
            runpy.run_path(file, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            root.handlers[:] = handlers
            root.setLevel(levels[0])
            logging.getLogger("crysatom").setLevel(levels[1])
            for number, answer in answers.items():
                signal.signal(number, answer)
    return subprocess.CompletedProcess([file, *arguments], code, out.getvalue(), err.getvalue())
