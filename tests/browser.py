"""Headless Chromium for tests: the DOM and a screenshot of a page."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 120
ATTEMPTS = 3
"""An MLflow page requests its data after loading; on a busy machine, some is missing when the screenshot is taken."""


def require_chromium() -> str:
    """Return the path of the browser, or skip the test."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(
            f"NO BROWSER, so nobody looks at the pages: apt-get install chromium ({', '.join(NAMES)} not found)"
        )
    return found


@dataclass(frozen=True)
class Seen:
    """Page as rendered by a browser.

    Attributes:
        dom: DOM after its scripts ran.
        console: Console output of the browser.
        picture: Screenshot, ``(height, width, 3)`` colors.

    """

    dom: str
    console: str
    picture: np.ndarray

    @property
    def colors(self) -> int:
        """Number of distinct colors."""
        return len(np.unique(self.picture.reshape(-1, 3), axis=0))


def look(
    url: str, picture: Path, *, size: tuple[int, int], until: Callable[[str], bool], flags: tuple[str, ...] = ()
) -> Seen:
    """Open a page, repeatedly until ``until`` accepts its DOM; save a screenshot."""
    chromium = require_chromium()
    command = [
        chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={picture.parent / 'chromium'}", f"--window-size={size[0]},{size[1]}",
        "--virtual-time-budget=15000", f"--screenshot={picture}", "--dump-dom", *flags, url,
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(picture.parent)}
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True, env=environment, cwd=picture.parent
        )
        if until(done.stdout):
            break
    return Seen(done.stdout, done.stderr, np.asarray(Image.open(picture).convert("RGB")))
