"""Ray. No other package imports it."""

import os
import sys

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray reads this variable on import. With 0, a node has the address 127.0.0.1 and all of Ray's ports are bound to it,
as on laptops with macOS or Windows. Otherwise the ports are open on every interface."""


def is_alone() -> bool:
    """Return whether this process starts its own Ray: no cluster is named, as ``RAY_ADDRESS`` does in a job."""
    return os.environ.get("RAY_ADDRESS", "local") in {"", "local"}


if "ray" not in sys.modules and is_alone():
    os.environ.setdefault(LOOPBACK_VARIABLE, "0")
