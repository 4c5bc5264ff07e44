"""List the files that a job runs from its start to the first gradient, and count the moves of its configuration.

``python tools/walk.py jobs/pretrain.py --num-workers 0`` runs the job in this process until the first backward pass. It
prints the files of the repository in the order of their first function call. A move is a call that gets the whole
configuration of the job, in another file than the previous such call. A climb is a move back to an earlier file.
"""

from __future__ import annotations

import dataclasses
import inspect
import runpy
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
WALKED = (str(ROOT / "platform"), str(ROOT / "jobs"))


class FirstGradientReached(Exception):  # noqa: N818 - not an error
    """Raised instead of the first backward pass."""


class Walk:
    """Files in which functions are called, and files that get the configuration."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.stations: list[str] = []

    def call(self, frame: FrameType, event: str, _: Any) -> None:
        """Record a call of the repository's code (a profiler function)."""
        code = frame.f_code
        function = event == "call" and code.co_flags & inspect.CO_OPTIMIZED  # not the body of a module or class
        if not function or code.co_name == "__post_init__" or not code.co_filename.startswith(WALKED):
            return
        file = str(Path(code.co_filename).relative_to(ROOT))
        if file not in self.files:
            self.files.append(file)
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = any(is_configuration(frame.f_locals.get(name)) for name in arguments)
        if given and "config/" not in file and self.stations[-1:] != [file]:
            self.stations.append(file)


def is_configuration(value: Any) -> bool:
    """Return whether a value is the whole configuration of a job."""
    return dataclasses.is_dataclass(value) and type(value).__name__.endswith("Config")


def main() -> None:
    """Run a job until its first gradient; print files and counts."""
    walk = Walk()

    def stop(*_: Any, **__: Any) -> None:
        raise FirstGradientReached

    torch.Tensor.backward = stop  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    sys.setprofile(walk.call)
    try:
        runpy.run_path(sys.argv[0], run_name="__walk__")["main"]()
    except FirstGradientReached:
        pass
    finally:
        sys.setprofile(None)
    print("\n".join(walk.files))
    climbs = sum(file in walk.stations[:k] for k, file in enumerate(walk.stations))
    moves = max(len(walk.stations) - 1, 0)
    print(f"{len(walk.files)} files; the configuration makes {moves} moves, {climbs} of them back")


if __name__ == "__main__":
    main()
