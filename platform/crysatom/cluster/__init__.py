"""Ray: the only place that imports it."""

import os
import sys
import tempfile
from pathlib import Path

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's own variable, which it reads when it is imported: with 0 a node has the address 127.0.0.1, and all of Ray's
ports are bound to it, as they are on laptops with macOS or Windows. Without it they are open on every interface."""


def is_alone() -> bool:
    """Tell whether this process will start Ray for itself, and join no cluster, as far as ``ray.init`` goes by."""
    if os.environ.get("RAY_ADDRESS", "local") not in {"", "local"}:
        return False
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return not Path(folder, "ray", "ray_current_cluster").exists()  # which ``ray start`` leaves


if "ray" not in sys.modules and is_alone():
    os.environ.setdefault(LOOPBACK_VARIABLE, "0")
