"""Files that run code when they are unpickled, for tests that nothing unpickles them."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Hostile:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def pickled(trap: Path) -> bytes:
    """Return a bare pickle."""
    return pickle.dumps(Hostile(trap))


def torch_saved(trap: Path) -> bytes:
    """Return what ``torch.save`` writes: a zip file with a pickle in it."""
    content = io.BytesIO()
    torch.save(Hostile(trap), content)
    return content.getvalue()


FORMS: dict[str, Callable[[Path], bytes]] = {"pickle": pickled, "torch": torch_saved}
