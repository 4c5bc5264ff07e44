"""Checks shared by configurations; each raises a ValueError that names the setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from crysatom.names import AUTO, VectorSpectrum

MAX_NAME_BYTES = 200
"""Longest name of a file or folder. Most file systems allow 255 bytes, and suffixes are added."""


def require(condition: bool, message: str) -> None:
    """Check a condition.

    Raises:
        ValueError: With the message, if the condition is false.

    """
    if not condition:
        raise ValueError(message)


def require_each(config: Any, names: Sequence[str], accepted: Callable[[Any], bool], must: str) -> None:
    """Check several settings with one rule.

    Raises:
        ValueError: If a setting breaks the rule; the message names the first one.

    """
    for name in names:
        value = getattr(config, name)
        require(accepted(value), f"{name} must {must}, got {value}")


def require_spectrum(value: VectorSpectrum) -> None:
    """Check the power of the spectrum of vectors.

    Raises:
        ValueError: If it is neither 'auto' nor a number within bounds that float32 can hold.

    """
    known = value == AUTO if isinstance(value, str) else -10 <= value <= 2
    require(known, f"vector_spectrum must lie in [-10, 2] or be 'auto', got {value}")


def require_name(what: str, name: str) -> None:
    """Check that a word can be the name of a file or folder.

    It must not lead out of its folder (``../x``, ``/x``), be hidden, or be too long for file systems once suffixes are
    added.

    Raises:
        ValueError: If it cannot; the message contains the word.

    """
    plain = name.isprintable() and not name.startswith((".", " ")) and not set("/\\") & set(name)
    require(
        bool(name) and plain and len(name.encode(errors="replace")) <= MAX_NAME_BYTES,
        f"{what} must be the name of one folder or file, without '/' or '\\', control characters or a '.' in front, of "
        f"at most {MAX_NAME_BYTES} bytes, got {_shortened(name)!r}",
    )


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."
