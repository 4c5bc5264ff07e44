"""JSON without repeated keys, for which Python would keep the last value."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from crysatom.crystals.quarantine import short


class RepeatedKeyError(ValueError):
    """Raised if an object has a key twice."""


def loads(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises:
        RepeatedKeyError: If an object has a key twice; with the key.
        ValueError: If it is not valid.

    """
    return json.loads(text, object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RepeatedKeyError(f"the key {short(twice)!r} is twice in one object; keep one of them")
    return found
