"""List the files that a job walks through from its start to the first gradient, and how its configuration travels.

``python tools/walk.py jobs/pretrain.py --num-workers 0`` runs the job in this process until the first backward pass. It
prints each file of the repository in which a function is called, in the order of the first call, and counts: moves of
the configuration from file to file (a call that is given the whole configuration of the job, in another file than the
call before that was), and climbs among them (back to a file where it has been).
"""

from __future__ import annotations

import dataclasses
import runpy
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


class FirstGradientReached(Exception):  # noqa: N818 - not an error
    """Ends the walk."""


class Walk:
    """Files and moves, as the profiler sees calls."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.stations: list[str] = []

    def call(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call of the repository's code."""
        code = frame.f_code
        if event != "call" or code.co_name in {"<module>", "__post_init__"} or not code.co_filename.startswith(str(ROOT)):
            return
        path = Path(code.co_filename).relative_to(ROOT)
        if path.parts[0] not in {"platform", "jobs"} or is_class_body(frame):
            return
        file = str(path)
        if file not in self.files:
            self.files.append(file)
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = any(is_configuration(frame.f_locals.get(name)) for name in arguments)
        if given and "config/" not in file and self.stations[-1:] != [file]:
            self.stations.append(file)


def is_class_body(frame: FrameType) -> bool:
    """Return whether a frame is the body of a class, run when its module is imported."""
    return "__qualname__" in frame.f_locals and "__module__" in frame.f_locals


def is_configuration(value: Any) -> bool:
    """Return whether a value is the whole configuration of a job."""
    return dataclasses.is_dataclass(value) and type(value).__name__.endswith("Config")


def main() -> None:
    """Walk through a job."""
    walk = Walk()

    def stop(*_: Any, **__: Any) -> None:
        raise FirstGradientReached

    torch.Tensor.backward = stop  # type: ignore[method-assign,assignment]
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
    print(f"{len(walk.files)} files; the configuration makes {max(len(walk.stations) - 1, 0)} moves, {climbs} of them back")


if __name__ == "__main__":
    main()
