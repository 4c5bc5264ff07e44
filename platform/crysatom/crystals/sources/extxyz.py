"""Parse the comment line of extended XYZ: ASE's parser, but unique keys and no numbers that only Python accepts."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from crysatom.crystals.quarantine import short

_PAIR = re.compile(r"""(?<!\S)"?([\w.-]+)"?=("(?:[^"\\]|\\.)*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\S*)""")
_NO_NUMBER = re.compile(r"[+-]?0[0-9].*|.*_.*|.*[^\x00-\x7f].*", re.DOTALL)
"""Codes with leading zeros, and numbers that only Python accepts: ``2024_01``, non-ASCII digits."""

_REAL_NUMBERS = re.compile(r"(?:^|:)(?:Z|numbers):R:", re.IGNORECASE)


def comment_line(text: str) -> dict[str, Any]:
    """Return the values of the comment line by key.

    Raises:
        ValueError: If a key occurs twice, or atomic numbers are declared as real, which ASE would truncate.

    """
    from ase.io.extxyz import key_val_str_to_dict

    pairs = _PAIR.findall(text)
    if twice := next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None):
        raise ValueError(f"the key {short(twice)!r} is twice in the comment line; keep one of them")
    found: dict[str, Any] = key_val_str_to_dict(text)  # type: ignore[no-untyped-call]
    if _REAL_NUMBERS.search(str(found.get("Properties", ""))):
        raise ValueError("atomic numbers are declared as real (Z:R:1); write Z:I:1 and whole numbers")
    for key, written in pairs:
        value = written.strip("\"'")
        if getattr(found.get(key), "ndim", None) == 0 and _NO_NUMBER.fullmatch(value):
            found[key] = value
    return found
