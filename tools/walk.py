"""List the files that a job walks through from its start to the first gradient, and how its configuration travels.

``python tools/walk.py jobs/pretrain.py --num-workers 0`` runs the job in this process until the first backward pass. It
prints each file of the repository in which a function is called, in the order of the first call, and counts: moves of
the configuration from file to file (a call that is given the whole configuration of the job, in another file than the
call before that was), and climbs among them (back to a file where it has been).
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
    """Ends the walk."""


class Walk:
    """Files and moves, as the profiler sees calls."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.stations: list[str] = []

    def call(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call of the repository's code."""
        code = frame.f_code
        function = event == "call" and code.co_flags & inspect.CO_OPTIMIZED  # no body of a module or a class
        inner = code.co_name.startswith("<") or code.co_name == "__post_init__"
        if not function or inner or not code.co_filename.startswith(WALKED):
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
    """Walk through a job."""
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
