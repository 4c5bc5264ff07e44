"""JSON for people who compare figures: one line for each innermost table or list."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_INNERMOST = re.compile(r"\{[^{}]*\}|\[[^][{}]*\]")


def compact(figures: Mapping[str, Any]) -> str:
    """Return figures as JSON."""
    text = json.dumps(figures, indent=1)  # line breaks are between values only: strings have theirs escaped
    return _INNERMOST.sub(lambda found: re.sub(r"\n *", " ", found[0]), text) + "\n"
