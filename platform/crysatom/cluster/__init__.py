"""Ray: the only place that imports it."""

import os
import sys

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's own variable, which it reads when it is imported: with 0 a node has the address 127.0.0.1, and all of Ray's
ports are bound to it, as they are on laptops with macOS or Windows. Without it they are open on every interface."""


def is_alone() -> bool:
    """Tell whether this process starts Ray for itself: nothing names a cluster, as ``RAY_ADDRESS`` does in a job."""
    return os.environ.get("RAY_ADDRESS", "local") in {"", "local"}


if "ray" not in sys.modules and is_alone():
    os.environ.setdefault(LOOPBACK_VARIABLE, "0")
