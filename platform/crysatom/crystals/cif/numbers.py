"""Numbers in CIF notation: ``0.3333(5)`` has a value and a last digit."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from crysatom.crystals.quarantine import Reason, Rejection, short

_NUMBER = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,3}))?(?:\((\d+)\))?", re.ASCII)
_NO_NUMBERS = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


class Number(NamedTuple):
    """A value and the unit of its last digit, which is 0 for a whole number: it is exact."""

    value: float
    last_digit: float


def number(text: str, what: str, reason: Reason = Reason.UNREADABLE) -> Number:
    """Parse the number in a value of a CIF.

    Args:
        text: The value.
        what: Name of the value, for the message.
        reason: Reason for which NaN and infinity are rejected.

    Raises:
        Rejection: If it is inapplicable (``.``), unknown (``?``), or not a decimal number.

    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        if _NO_NUMBERS.fullmatch(text.strip()):
            raise Rejection(reason, f"{what} is {short(text)!r}; write the file again from its source")
        raise Rejection(Reason.UNREADABLE, f"{what} is {short(text)!r}, not a number; complete the file")
    sign, digits, exponent, _ = match.groups()
    value = float(f"{sign}{digits}e{exponent or 0}")
    if not math.isfinite(value):
        raise Rejection(reason, f"{what} is {short(text)!r}, too large; write the file again from its source")
    decimals = len(digits.partition(".")[2])
    return Number(value, 10.0 ** (int(exponent or 0) - decimals) if decimals else 0.0)
