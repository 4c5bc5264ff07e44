"""Compact JSON: one line for each innermost object or list."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_INNERMOST = re.compile(r"\{[^{}]*\}|\[[^][{}]*\]")


def compact(figures: Mapping[str, Any]) -> str:
    """Return the results as JSON."""
    text = json.dumps(figures, indent=1)  # line breaks occur only between values; those in strings are escaped
    return _INNERMOST.sub(lambda found: re.sub(r"\n *", " ", found[0]), text) + "\n"
