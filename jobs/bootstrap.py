"""What every job does first: make ``crysatom`` importable here and in Ray's workers."""

import sys
from pathlib import Path

PLATFORM = Path(__file__).resolve().parents[1] / "platform"
sys.path.insert(0, str(PLATFORM))


def start_ray() -> None:
    """Join the cluster this job was submitted to, or start Ray on this machine."""
    import ray

    ray.init(logging_level="warning", runtime_env={"env_vars": {"PYTHONPATH": str(PLATFORM)}})
