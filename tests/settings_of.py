"""Types of a configuration's settings, by their flat names."""

from __future__ import annotations

from typing import Any, get_type_hints

from crysatom.config import Group


def types_of(config_type: type[Group]) -> dict[str, Any]:
    """Return the type of each setting."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(config_type).items():
        if name == "role":
            continue
        inner = isinstance(kind, type) and issubclass(kind, Group)
        found |= types_of(kind) if inner else {name: kind}
    return found
