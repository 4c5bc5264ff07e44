"""Processes of Python for tests, forked from a server that has imported the slow packages: importing takes seconds."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.context import BaseContext

PACKAGES = ["torch._dynamo", "torch_geometric.data", "pyarrow.parquet", "pymatgen.core"]
"""Optimizers import the first. Ours are not among them: the server may find another copy of them than the tests do."""


def fresh_processes() -> BaseContext:
    """Return a context of multiprocessing whose processes have no state of this process."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(PACKAGES)
    return context
